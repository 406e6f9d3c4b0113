//! What a run is judged under, as a user says it: profiles, lists of known failures, what an archive must show and hide.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use checkpoint_conformance::{
    archive::{mutant, sample},
    report::{self, Report},
};
use rstest::rstest;
use tempfile::TempDir;

/// An archive, and files of the user's beside it.
struct Desk(TempDir);

impl Desk {
    /// With the sample archive made wrong in this way, or the sample itself.
    fn with(name: Option<&str>) -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        let archive = desk.path("checkpoint.tar");
        match name {
            Some(name) => mutant::by_name(name).unwrap().write(&archive).unwrap(),
            None => {
                mutant::write_private(&archive, &sample::tar_of(&sample::Sample::default().parts()).unwrap()).unwrap()
            }
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Judges the archive with `--strict` and these options, in this folder; exit code, stdout, stderr, and the report if
    /// there is one.
    fn judge(&self, options: &[&str]) -> (i32, String, String, Option<Report>) {
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

const MODE: &str = "archive/file/mode";

fn profile(case: &str, seen: &str) -> String {
    format!(
        "name = \"ours\"\nabout = \"our runtime\"\n[[claim]]\ncase = \"{case}\"\ndoes = \"makes it executable\"\n\
         source = \"its code\"\nseen = \"{seen}\"\n"
    )
}

#[test]
fn a_claimed_failure_is_a_fact_and_does_not_fail_the_run() {
    let desk = Desk::with(Some("file/executable"));
    let (code, _, _, report) = desk.judge(&[]);
    assert_eq!((code, outcome(&report, MODE).as_str()), (1, "fail"));

    fs::write(desk.path("ours.toml"), profile(MODE, "mode 0700")).unwrap();
    let (code, stdout, _, report) = desk.judge(&["--profile", "ours.toml"]);
    assert_eq!((code, outcome(&report, MODE).as_str()), (0, "fact"), "{stdout}");
    assert!(
        stdout.contains("profile: ours (our runtime): 1 failure is a fact"),
        "{stdout}"
    );
    let claimed = report.unwrap().terms.profile.unwrap();
    assert_eq!(
        (claimed.name.as_str(), claimed.facts.as_slice()),
        ("ours", &[MODE.to_owned()][..])
    );

    // It fails, but not as claimed.
    fs::write(desk.path("ours.toml"), profile(MODE, "mode 0755")).unwrap();
    let (code, stdout, ..) = desk.judge(&["--profile", "ours.toml"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("fails otherwise than it claims: archive/file/mode"),
        "{stdout}"
    );
}

#[test]
fn a_claim_that_is_not_true_is_named_and_decides_nothing() {
    let desk = Desk::with(None);
    fs::write(desk.path("ours.toml"), profile(MODE, "*")).unwrap();
    let (code, stdout, _, report) = desk.judge(&["--profile", "ours.toml"]);
    assert_eq!((code, outcome(&report, MODE).as_str()), (0, "pass"), "{stdout}");
    assert!(
        stdout.contains("claims otherwise, and passes: archive/file/mode"),
        "{stdout}"
    );
}

#[rstest]
#[case::documented("archive/file/private", "which is documented")]
#[case::unknown("archive/file/colour", "no case of this program")]
fn a_profile_about_another_level_is_a_usage_error(#[case] case: &str, #[case] message: &str) {
    let desk = Desk::with(None);
    fs::write(desk.path("ours.toml"), profile(case, "*")).unwrap();
    let (code, _, stderr, report) = desk.judge(&["--profile", "ours.toml"]);
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
    let desk = Desk::with(None);
    let (code, stdout, stderr, report) = desk.judge(&["--profile", name]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("profile: {name} (")), "{stdout}");
    assert_eq!(report.unwrap().terms.profile.unwrap().name, name);
}

#[test]
fn a_listed_failure_does_not_fail_the_run_and_a_listed_pass_does() {
    let desk = Desk::with(Some("file/executable"));
    let list = |text: &str| fs::write(desk.path("known.txt"), text).unwrap();
    let options = ["--expected-failures", "known.txt"];

    list("# since 1.2\narchive/file/mode # executable\nkubelet/200/ok\n");
    let (code, stdout, _, report) = desk.judge(&options);
    assert_eq!((code, outcome(&report, MODE).as_str()), (0, "fail"), "{stdout}");
    assert!(
        stdout.contains("expected failures: known.txt: 1 fail as listed"),
        "{stdout}"
    );

    list("archive/file/mode\narchive/tar/well-formed\n");
    let (code, stdout, _, report) = desk.judge(&options);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("take it off the list: archive/tar/well-formed"),
        "{stdout}"
    );
    assert!(stdout.contains("verdict: fail (passes, and is listed as an expected failure: archive/tar/well-formed)"));
    assert_eq!(report.unwrap().verdict.because(), ["archive/tar/well-formed"]);

    list("archive/file/mode\n\narchive/file/colour\n");
    let (code, _, stderr, _) = desk.judge(&options);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("known.txt: line 3: archive/file/colour is no case"),
        "{stderr}"
    );
}

#[test]
fn what_the_memory_held_is_looked_for_and_stands_in_no_report() {
    let desk = Desk::with(None);
    fs::write(desk.path("canary"), [sample::CANARY, b"\n"].concat()).unwrap();
    let (code, stdout, _, report) = desk.judge(&["--canary", "@canary"]);
    assert_eq!(
        (code, outcome(&report, "archive/memory/canary").as_str()),
        (0, "pass"),
        "{stdout}"
    );

    let (code, stdout, _, report) = desk.judge(&["--canary", "nothing-like-it-is-there"]);
    assert_eq!((code, outcome(&report, "archive/memory/canary").as_str()), (1, "fail"));
    for text in [stdout, serde_json::to_string(&report).unwrap()] {
        assert!(!text.contains("nothing-like-it-is-there"), "{text}");
    }
}

#[test]
fn secrets_of_the_environment_are_looked_for_unless_others_are_named() {
    let desk = Desk::with(Some("secrets/in-status"));
    let (code, _, _, report) = desk.judge(&[]);
    assert_eq!(
        (code, outcome(&report, "archive/secrets/environment").as_str()),
        (1, "fail")
    );
    let (code, _, _, report) = desk.judge(&["--secret", "another-secret-value"]);
    assert_eq!(
        (code, outcome(&report, "archive/secrets/environment").as_str()),
        (0, "pass")
    );
}

#[test]
fn an_archive_can_be_held_against_another_engines_layout() {
    let desk = Desk::with(None);
    let (code, _, _, report) = desk.judge(&["--layout", "cri-o"]);
    assert_eq!(
        (code, outcome(&report, "archive/layout/engine-members").as_str()),
        (1, "fail")
    );
    let failed = report.unwrap();
    let case = failed
        .cases
        .iter()
        .find(|case| case.id == "archive/layout/engine-members");
    let shown = &case.unwrap().exhibits[0].text;
    assert!(
        shown.contains(" container.log\n") && shown.contains("mode 0600"),
        "{shown}"
    );
    let (code, _, stderr, _) = desk.judge(&["--layout", "docker"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("containerd, cri-o"), "{stderr}");
}
