//! The command line: exit codes, filters, lists, reports, and clean-up.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use checkpoint_conformance::{
    engine::{Level, Verdict},
    report::{Report, SCHEMA},
    suites,
};
use rstest::rstest;
use tempfile::TempDir;

/// The directories of one run, which must be empty afterwards.
struct TestDirs {
    temporary: TempDir,
    working: TempDir,
}

impl TestDirs {
    fn new() -> TestDirs {
        TestDirs {
            // A short path, because the length of a socket path is limited.
            temporary: tempfile::Builder::new().prefix("cc-").tempdir().unwrap(),
            working: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"));
        command
            .args(args)
            .env("TMPDIR", self.temporary.path())
            .env_remove("NO_COLOR")
            .env_remove("GITHUB_STEP_SUMMARY")
            .current_dir(self.working.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn assert_clean(&self) {
        for directory in [&self.temporary, &self.working] {
            let leftover: Vec<_> = fs::read_dir(directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(leftover.is_empty(), "not removed: {leftover:?}");
        }
    }
}

fn run(args: &[&str]) -> (i32, String, String) {
    let dirs = TestDirs::new();
    let output = dirs.run(args);
    dirs.assert_clean();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn embedded_target_passes() {
    let dirs = TestDirs::new();
    let directory = tempfile::tempdir().unwrap();
    let output = dirs.run(&["--report-dir", directory.path().to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("verdict: pass"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "no colours without a terminal");
    dirs.assert_clean();

    let text = fs::read_to_string(directory.path().join("report.json")).unwrap();
    let report: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(report.schema, SCHEMA);
    assert_eq!(report.verdict, Verdict::Pass);
    assert_fields_documented(&serde_json::from_str(&text).unwrap());
    let reported_ids: Vec<_> = report.cases.iter().map(|case| case.id.as_str()).collect();
    let listed: Vec<_> = suites::catalogue_entries()
        .iter()
        .map(|entry| entry.info.id)
        .filter(|id| id.starts_with("kubelet/"))
        .collect();
    assert_eq!(reported_ids, listed, "the report has every case, sorted");
    for case in &report.cases {
        // The embedded target has all capabilities: every case that is not robust passes.
        assert!(case.outcome == "pass" || case.level == Level::Robust, "{case:?}");
        assert_ne!(case.outcome, "skip", "{case:?}");
        assert!(!case.actual.is_empty(), "{case:?}");
    }
    let junit = fs::read_to_string(directory.path().join("junit.xml")).unwrap();
    assert!(junit.contains(&format!("tests=\"{}\"", report.cases.len())), "{junit}");
    for text in [&text, &junit, &stdout] {
        assert_no_secret(text);
    }
}

/// Canaries have 64 hex digits, but so do container ids, which are not secret. Keys have a PEM header.
fn assert_no_secret(text: &str) {
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    for line in text.lines().filter(|line| line.contains("canary")) {
        let hex = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(!line.split(|c: char| !c.is_ascii_alphanumeric()).any(hex), "{line}");
    }
}

/// Every field of a report is documented in docs/REPORT.md.
fn assert_fields_documented(report: &serde_json::Value) {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/REPORT.md")).unwrap();
    let mut names = Vec::new();
    for (name, value) in report.as_object().unwrap() {
        names.push(name.clone());
        match value {
            serde_json::Value::Object(inner) => names.extend(inner.keys().map(|key| format!("{name}.{key}"))),
            serde_json::Value::Array(items) => {
                let keys = items
                    .first()
                    .and_then(|item| item.as_object())
                    .into_iter()
                    .flat_map(|item| item.keys());
                names.extend(keys.map(|key| format!("{name}[].{key}")));
            }
            _ => {}
        }
    }
    for name in names {
        assert!(docs.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
}

#[test]
fn failure_exits_1() {
    let (code, stdout, _) = run(&[
        "kubelet",
        "--mutant",
        "feature-gate-ignored",
        "--filter",
        "kubelet/feature-gate/disabled",
    ]);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("verdict: fail (required cases failed: kubelet/feature-gate/disabled)"),
        "{stdout}"
    );
    assert!(stdout.contains("expected  404"), "{stdout}");
    assert!(
        stdout.contains("--mutant feature-gate-ignored --filter kubelet/feature-gate/disabled"),
        "{stdout}"
    );
}

#[rstest]
#[case::unknown_flag(&["--nonsense"], "--nonsense")]
#[case::half_a_target(&["--kubelet-url", "https://127.0.0.1:1"], "--container")]
#[case::options_without_target(&["--insecure"], "--kubelet-url")]
#[case::unknown_mutant(&["--mutant", "perfect"], "feature-gate-ignored")]
#[case::unknown_level(&["--level", "holy"], "documented, reference, robust")]
#[case::broken_glob(&["--filter", "kubelet/["], "invalid filter")]
#[case::mutant_of_a_url(&["--mutant", "anonymous-accepted", "--kubelet-url", "https://h:1"], "--mutant")]
#[case::no_archive(&["archive"], "FILE")]
#[case::unknown_case(&["explain", "kubelet/perfect"], "checkpoint-conformance list")]
#[case::unknown_mutants(&["mutants", "--filter", "perfect"], "perfect")]
fn usage_error_exits_2(#[case] args: &[&str], #[case] named: &str) {
    let (code, stdout, stderr) = run(args);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains(named), "{stderr}");
    assert_eq!(stdout, "");
}

#[test]
fn unreachable_kubelet_exits_3() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let token = tempfile::NamedTempFile::new().unwrap();
    let token = token.path().to_str().unwrap();
    let (code, _, stderr) = run(&[
        "--kubelet-url",
        &url,
        "--token-file",
        token,
        "--insecure",
        "--container",
        "default/web/app",
    ]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains(&url) && stderr.contains("refused"), "{stderr}");
}

#[test]
fn empty_selection_exits_4_unless_allowed() {
    let (code, stdout, _) = run(&["--filter", "kubelet/no-such-case"]);
    assert_eq!(code, 4, "{stdout}");
    assert!(stdout.contains("verdict: incomplete (no case ran)"), "{stdout}");
    let (code, stdout, _) = run(&["--filter", "kubelet/no-such-case", "--allow-incomplete"]);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("verdict: incomplete"), "{stdout}");
}

#[test]
fn robust_failures_fail_only_strict_runs() {
    let filter = ["--filter", "kubelet/archive-name/unique-within-a-second"];
    let (code, stdout, _) = run(&filter);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("fail"), "{stdout}");
    let (code, stdout, _) = run(&[&filter[..], &["--strict"]].concat());
    assert_eq!(code, 1, "{stdout}");
}

#[test]
fn logs_go_to_stderr() {
    let filter = ["--filter", "kubelet/lookup/pod-unknown"];
    let (code, stdout, silent) = run(&filter);
    assert_eq!(code, 0, "{silent}");
    assert!(!silent.contains(" INFO ") && !stdout.contains(" INFO "), "{silent}");
    let (code, stdout, loud) = run(&[&filter[..], &["-vv"]].concat());
    assert_eq!(code, 0, "{loud}");
    assert!(
        loud.len() > silent.len() && loud.contains("checkpoint_conformance"),
        "{loud}"
    );
    assert!(stdout.contains("verdict: pass"), "{stdout}");
}

#[test]
fn announces_the_number_of_archives() {
    let (_, _, stderr) = run(&["--filter", "kubelet/checkpoint/succeeds"]);
    assert!(
        stderr.contains("the run creates at most 1 archives of conformance/test-workload-embedded/app"),
        "{stderr}"
    );
}

#[test]
fn list_prints_every_case() {
    let (code, stdout, _) = run(&["list"]);
    assert_eq!(code, 0);
    let ids: Vec<_> = stdout.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let expected: Vec<_> = suites::catalogue_entries().iter().map(|entry| entry.info.id).collect();
    assert_eq!(ids, expected);
    let (_, stdout, _) = run(&["list", "--filter", "kubelet/lookup/*", "--level", "documented"]);
    let ids: Vec<_> = stdout.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let expected: Vec<_> = suites::catalogue_entries()
        .iter()
        .map(|entry| &entry.info)
        .filter(|info| info.id.starts_with("kubelet/lookup/") && info.level == Level::Documented)
        .map(|info| info.id)
        .collect();
    assert!(expected.len() > 2);
    assert_eq!(ids, expected);
}

#[rstest]
#[case("kubelet/lookup/pod-unknown", "1. request    ")]
#[case("kubelet/checkpoint/single-cri-call", "journal   ")]
#[case("runtime/checkpoint/succeeds", "cri        CheckpointContainer")]
#[case("archive/file/mode-0600", "pass in ")]
fn explain_shows_the_steps_of_a_run(#[case] id: &str, #[case] step: &str) {
    let dirs = TestDirs::new();
    let output = dirs.run(&["explain", id]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("\n  embedded run    pass in "), "{stdout}");
    assert!(stdout.contains(step), "{stdout}");
    assert_no_secret(&stdout);
    dirs.assert_clean();
}

#[test]
fn explain_without_a_run_shows_no_steps() {
    let (code, stdout, _) = run(&["explain", "kubelet/lookup/pod-unknown", "--no-run"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("\n  failing mutants "), "{stdout}");
    assert!(!stdout.contains("embedded run"), "{stdout}");
}

#[rstest]
#[case::running(&[])]
#[case::mutants(&["mutants", "--filter", "{kubelet,runtime}/*", "--jobs", "2"])]
fn interrupted_run_cleans_up(#[case] args: &[&str]) {
    let dirs = TestDirs::new();
    let mut child = dirs
        .command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Interrupt it as soon as it has created its directory. It must clean up whatever it has started.
    let started_at = Instant::now();
    while fs::read_dir(dirs.temporary.path()).unwrap().count() == 0 {
        assert!(
            started_at.elapsed() < Duration::from_secs(20),
            "timeout: the harness created no directory"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait().unwrap();
    assert_eq!(output.code(), Some(3));
    dirs.assert_clean();
}
