//! The options that affect the verdict: profiles, expected failures, and expectations about an archive.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use checkpoint_conformance::{
    archive::sample,
    engine::Suite,
    mutation::{Defect, Mutant},
    report::{self, Report},
};
use rstest::rstest;
use tempfile::TempDir;

/// A directory with an archive and the files of options.
struct ArchiveBench(TempDir);

impl ArchiveBench {
    /// Creates the directory with the archive of this mutant, or with the sample.
    fn create(name: Option<&str>) -> ArchiveBench {
        let bench = ArchiveBench(tempfile::tempdir().unwrap());
        let archive = bench.path("checkpoint.tar");
        match name {
            Some(name) => match Mutant::by_name(Suite::Archive, name).unwrap().defect {
                Defect::Archive(defect) => defect.write(&archive).unwrap(),
                other => panic!("{other:?}"),
            },
            None => {
                let bytes = sample::tar_of(&sample::Sample::default().members()).unwrap();
                sample::write_private(&archive, &bytes).unwrap();
            }
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Tests the archive with `--strict` and these options. Returns exit code, stdout, stderr and report.
    fn test_archive(&self, options: &[&str]) -> (i32, String, String, Option<Report>) {
        let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .args(["archive", "checkpoint.tar", "--strict", "--report-dir", "reports"])
            .args(options)
            .current_dir(self.0.path())
            .env_remove("GITHUB_STEP_SUMMARY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let report = report::read(&self.path("reports/report.json")).ok();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
            report.and_then(|reports| reports.into_iter().next()),
        )
    }
}

fn outcome(report: &Option<Report>, id: &str) -> String {
    let report = report.as_ref().expect("the run has a report");
    let case = report.cases.iter().find(|case| case.id == id);
    case.expect("the case was selected").outcome.clone()
}

const MODE_CASE: &str = "archive/file/mode-0600";

fn profile(case: &str, actual: &str) -> String {
    format!(
        "name = \"ours\"\ndescription = \"our runtime\"\n[[known-deviation]]\ncase = \"{case}\"\nbehavior = \"makes it executable\"\n\
         source = \"its code\"\nactual = \"{actual}\"\n"
    )
}

#[test]
fn a_claimed_failure_is_a_known_deviation() {
    let bench = ArchiveBench::create(Some("file/executable"));
    let (code, _, _, report) = bench.test_archive(&[]);
    assert_eq!((code, outcome(&report, MODE_CASE).as_str()), (1, "fail"));

    fs::write(bench.path("ours.toml"), profile(MODE_CASE, "mode 0700")).unwrap();
    let (code, stdout, _, report) = bench.test_archive(&["--profile", "ours.toml"]);
    assert_eq!(
        (code, outcome(&report, MODE_CASE).as_str()),
        (0, "known-deviation"),
        "{stdout}"
    );
    assert!(
        stdout.contains("profile: ours (our runtime): 1 failure is a known deviation"),
        "{stdout}"
    );
    let result = report.unwrap().conditions.profile.unwrap();
    assert_eq!(
        (result.name.as_str(), result.known_deviations.as_slice()),
        ("ours", &[MODE_CASE.to_owned()][..])
    );

    // The case fails, but not as the profile says.
    fs::write(bench.path("ours.toml"), profile(MODE_CASE, "mode 0755")).unwrap();
    let (code, stdout, ..) = bench.test_archive(&["--profile", "ours.toml"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("fails, but not as claimed: archive/file/mode-0600"),
        "{stdout}"
    );
}

#[test]
fn a_stale_claim_is_reported_and_does_not_gate() {
    let bench = ArchiveBench::create(None);
    fs::write(bench.path("ours.toml"), profile(MODE_CASE, "*")).unwrap();
    let (code, stdout, _, report) = bench.test_archive(&["--profile", "ours.toml"]);
    assert_eq!((code, outcome(&report, MODE_CASE).as_str()), (0, "pass"), "{stdout}");
    assert!(
        stdout.contains("claimed to fail, but passes: archive/file/mode-0600"),
        "{stdout}"
    );
}

#[rstest]
#[case::documented("archive/file/owner-only", "which is documented")]
#[case::unknown("archive/file/colour", "unknown case")]
fn a_claim_about_a_documented_or_unknown_case_is_a_usage_error(#[case] case: &str, #[case] message: &str) {
    let bench = ArchiveBench::create(None);
    fs::write(bench.path("ours.toml"), profile(case, "*")).unwrap();
    let (code, _, stderr, report) = bench.test_archive(&["--profile", "ours.toml"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains(case) && stderr.contains(message) && report.is_none(),
        "{stderr}"
    );
}

#[rstest]
#[case("kubelet-1.30")]
#[case("kubelet-1.36")]
#[case("kubelet-1.37")]
#[case("containerd-2.4")]
#[case("cri-o")]
fn built_in_profiles_can_be_named_and_are_reported(#[case] name: &str) {
    let bench = ArchiveBench::create(None);
    let (code, stdout, stderr, report) = bench.test_archive(&["--profile", name]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("profile: {name} (")), "{stdout}");
    assert_eq!(report.unwrap().conditions.profile.unwrap().name, name);
}

#[test]
fn a_listed_failure_does_not_fail_the_run_and_a_listed_pass_does() {
    let bench = ArchiveBench::create(Some("file/executable"));
    let list = |text: &str| fs::write(bench.path("known.txt"), text).unwrap();
    let options = ["--expected-failures", "known.txt"];

    list("# since 1.2\narchive/file/mode-0600 # executable\nkubelet/checkpoint/succeeds\n");
    let (code, stdout, _, report) = bench.test_archive(&options);
    assert_eq!((code, outcome(&report, MODE_CASE).as_str()), (0, "fail"), "{stdout}");
    assert!(
        stdout.contains("expected failures: known.txt: 1 fail as listed"),
        "{stdout}"
    );

    list("archive/file/mode-0600\narchive/tar/well-formed\n");
    let (code, stdout, _, report) = bench.test_archive(&options);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("listed, but passes (remove from the list): archive/tar/well-formed"),
        "{stdout}"
    );
    assert!(stdout.contains("verdict: fail (cases listed as expected failures passed: archive/tar/well-formed)"));
    assert_eq!(report.unwrap().verdict.deciding_cases(), ["archive/tar/well-formed"]);

    list("archive/file/mode-0600\n\narchive/file/colour\n");
    let (code, _, stderr, _) = bench.test_archive(&options);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("known.txt: line 3: unknown case archive/file/colour"),
        "{stderr}"
    );
}

#[test]
fn a_canary_is_searched_and_never_reported() {
    let bench = ArchiveBench::create(None);
    fs::write(bench.path("canary"), [sample::CANARY, b"\n"].concat()).unwrap();
    let (code, stdout, _, report) = bench.test_archive(&["--expect-in-memory", "@canary"]);
    assert_eq!(
        (code, outcome(&report, "archive/memory/expected-bytes").as_str()),
        (0, "pass"),
        "{stdout}"
    );

    let (code, stdout, _, report) = bench.test_archive(&["--expect-in-memory", "nothing-like-it-is-there"]);
    assert_eq!(
        (code, outcome(&report, "archive/memory/expected-bytes").as_str()),
        (1, "fail")
    );
    for text in [stdout, serde_json::to_string(&report).unwrap()] {
        assert!(!text.contains("nothing-like-it-is-there"), "{text}");
    }
}

#[test]
fn environment_secrets_are_the_default() {
    let bench = ArchiveBench::create(Some("secrets/in-status"));
    let (code, _, _, report) = bench.test_archive(&[]);
    assert_eq!(
        (code, outcome(&report, "archive/secrets/memory-and-spec-only").as_str()),
        (1, "fail")
    );
    let (code, _, _, report) = bench.test_archive(&["--secret", "another-secret-value"]);
    assert_eq!(
        (code, outcome(&report, "archive/secrets/memory-and-spec-only").as_str()),
        (0, "pass")
    );
}

#[test]
fn the_expected_layout_can_be_chosen() {
    let bench = ArchiveBench::create(None);
    let (code, _, _, report) = bench.test_archive(&["--layout", "cri-o"]);
    assert_eq!(
        (code, outcome(&report, "archive/layout/engine-members").as_str()),
        (1, "fail")
    );
    let failed = report.unwrap();
    let case = failed
        .cases
        .iter()
        .find(|case| case.id == "archive/layout/engine-members");
    let evidence = &case.unwrap().evidence[0].text;
    assert!(
        evidence.contains(" container.log\n") && evidence.contains("mode 0600"),
        "{evidence}"
    );
    let (code, _, stderr, _) = bench.test_archive(&["--layout", "docker"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("containerd, cri-o"), "{stderr}");
}
