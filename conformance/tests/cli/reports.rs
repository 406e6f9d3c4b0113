//! Writing, merging and comparing reports, and generating findings, manual pages and completions.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use checkpoint_conformance::report::{Format, Report};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"));
    command
        .args(args)
        .env_remove("GITHUB_STEP_SUMMARY")
        .stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory with a file that is not an archive: the fastest target.
fn invalid_archive() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("no-archive.tar");
    fs::write(&file, "no archive").unwrap();
    (directory, file)
}

#[test]
fn writes_single_reports_and_all_formats() {
    let (directory, archive) = invalid_archive();
    let html = directory.path().join("deep/page.html");
    let all = directory.path().join("all");
    let output = run(&[
        "archive",
        path_str(&archive),
        "--report",
        &format!("html={}", html.display()),
        "--report-dir",
        path_str(&all),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("no-archive.tar") && page.contains("</html>"), "{page}");
    let mut names: Vec<_> = fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected = Format::ALL.map(Format::file_name);
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn done_file_run_exits_0() {
    let (directory, archive) = invalid_archive();
    let junit = directory.path().join("junit.xml");
    // The file is a FIFO: if the harness fails, the test reads end of file instead of waiting forever.
    let done = "/dev/stderr";
    let report = format!("junit={}", junit.display());
    let mut child = command(&[
        "archive",
        path_str(&archive),
        "--report",
        &report,
        "--sonobuoy-done-file",
        done,
    ])
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut done_path = vec![0; path_str(&junit).len()];
    child.stderr.as_mut().unwrap().read_exact(&mut done_path).unwrap();
    assert_eq!(text(&done_path), path_str(&junit));
    assert_eq!(
        child.try_wait().unwrap(),
        None,
        "the harness keeps running: the Pod would restart an exited container"
    );
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let written = fs::read_to_string(junit).unwrap();
    assert!(written.contains("<failure"), "{written}");
}

#[test]
fn several_archives_make_one_document() {
    let (directory, archive) = invalid_archive();
    let json = directory.path().join("r.json");
    let report = format!("json={}", json.display());
    let output = run(&["archive", path_str(&archive), path_str(&archive), "--report", &report]);
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(document["schema"], "checkpoint-conformance/reports/1");
    assert_eq!(document["reports"].as_array().unwrap().len(), 2);
    let output = run(&["compare", path_str(&json), path_str(&json)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn appends_to_the_github_step_summary() {
    let (directory, archive) = invalid_archive();
    let summary = directory.path().join("summary");
    fs::write(&summary, "before\n").unwrap();
    let status = command(&["archive", path_str(&archive)])
        .env("GITHUB_STEP_SUMMARY", &summary)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let written = fs::read_to_string(summary).unwrap();
    assert!(
        written.starts_with("before\n## Checkpoint conformance: fail"),
        "{written}"
    );
}

#[rstest]
#[case::no_such_format(&["archive", "x", "--report", "pdf=x"], "html")]
#[case::no_such_file(&["compare", "/nonexistent/a.json", "/nonexistent/b.json"], "/nonexistent/a.json")]
#[case::no_report(&["compare", "/dev/null", "/dev/null"], "failed to parse /dev/null as a report")]
#[case::no_notes(&["findings", "/dev/null"], "failed to parse /dev/null as a report")]
#[case::no_shell(&["completions", "command.com"], "bash")]
fn usage_error_exits_2_with_the_reason(#[case] args: &[&str], #[case] named: &str) {
    let output = run(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(named), "{stderr}");
}

/// The report of one archive, and the same report with its first failure changed to a pass.
fn two_reports() -> (TempDir, PathBuf, PathBuf) {
    let (directory, archive) = invalid_archive();
    let (bad, good) = (directory.path().join("bad.json"), directory.path().join("good.json"));
    run(&[
        "archive",
        path_str(&archive),
        "--report",
        &format!("json={}", bad.display()),
    ]);
    let mut report: Report = serde_json::from_str(&fs::read_to_string(&bad).unwrap()).unwrap();
    let failed = report.cases.iter_mut().find(|case| case.outcome == "fail").unwrap();
    failed.outcome = "pass".to_owned();
    fs::write(&good, serde_json::to_string(&report).unwrap()).unwrap();
    (directory, bad, good)
}

#[test]
fn compare_lists_changes_and_sets_the_exit_code() {
    let (_dir, bad, good) = two_reports();
    let output = run(&["compare", path_str(&good), path_str(&bad)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("newly failing (1)"),
        "{}",
        text(&output.stdout)
    );
    let output = run(&["compare", "--markdown", path_str(&bad), path_str(&good)]);
    assert_eq!(output.status.code(), Some(0));
    let markdown = text(&output.stdout);
    assert!(markdown.starts_with("## not worse: 1 changed"), "{markdown}");
    assert!(markdown.contains("### newly passing (1)"), "{markdown}");
}

#[test]
fn findings_name_stale_notes() {
    let (directory, bad, _) = two_reports();
    let report: Report = serde_json::from_str(&fs::read_to_string(&bad).unwrap()).unwrap();
    let failed = report.cases.iter().find(|case| case.outcome == "fail").unwrap();
    let notes = directory.path().join("notes.toml");
    let note = |case: &str| {
        format!("[[finding]]\ncase = \"{case}\"\ntarget = \"no-archive.tar\"\nconfirmation = \"file(1) says text.\"\n")
    };
    fs::write(&notes, note(&failed.id)).unwrap();
    let output = run(&["findings", path_str(&bad), "--confirmed", path_str(&notes)]);
    let document = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        document.contains("*Confirmed by hand*: file(1) says text."),
        "{document}"
    );
    assert!(
        document.contains(&format!(
            "`checkpoint-conformance archive {}",
            directory.path().display()
        )),
        "{document}"
    );

    fs::write(&notes, note("archive/no/such/case")).unwrap();
    let output = run(&["findings", path_str(&bad), "--confirmed", path_str(&notes)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("archive/no/such/case"),
        "{}",
        text(&output.stderr)
    );
}

#[rstest]
#[case::bash("bash", &["-n"])]
#[case::zsh("zsh", &["-n"])]
#[case::fish("fish", &["--no-execute"])]
fn completions_parse_in_their_shell(
    #[case] shell: &str,
    #[case] check: &[&str],
    #[values("checkpoint-conformance", "fake-cri")] program: &str,
) {
    let output = run(&["completions", shell, "--program", program]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let script = text(&output.stdout);
    let option = if program == "fake-cri" {
        "state-dir"
    } else {
        "report-dir"
    };
    assert!(script.contains(program) && script.contains(option), "{script}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &script).unwrap();
    // Check the syntax with the shell itself, if it is installed.
    if let Ok(output) = Command::new(shell).args(check).arg(file.path()).output() {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn writes_every_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("man1");
    let output = run(&["man", path_str(&directory)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (page, says) in [
        ("checkpoint-conformance.1", "Exit codes"),
        ("checkpoint-conformance-kubelet.1", "kubelet\\-url"),
        ("checkpoint-conformance-compare.1", "OLD.json"),
        ("fake-cri.1", "fake\\-cri"),
        ("fake-cri-serve.1", "checkpoint\\-rate"),
    ] {
        let text = fs::read_to_string(directory.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH") && text.contains(says), "{page}: {text}");
    }
}

/// Every case that shares a step has the evidence of the step, whichever case ran it first.
#[rstest]
#[case::kubelet("kubelet", "kubelet/{response/{body,location-as-requested},archive-name/{format,timestamp*},archive/{tar,in-checkpoints-dir}}", &["request", "response", "journal"])]
#[case::runtime("runtime", "runtime/{archive,error}/*", &["cri", "note"])]
fn every_case_has_evidence(#[case] suite: &str, #[case] filter: &str, #[case] kinds: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("r.json");
    let report = format!("json={}", json.display());
    let output = run(&[suite, "--filter", filter, "--jobs", "1", "--report", &report]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() > 5, "{cases:?}");
    let has_evidence = |case: &Value, kind: &str| {
        let evidence = case["evidence"].as_array().unwrap();
        evidence.iter().any(|item| item["kind"] == kind)
    };
    for case in cases {
        let missing: Vec<_> = kinds.iter().filter(|kind| !has_evidence(case, kind)).collect();
        assert!(missing.is_empty(), "{}: no {missing:?}", case["id"]);
        let of_the_archive = case["id"].as_str().unwrap().ends_with("archive/tar");
        assert!(!of_the_archive || has_evidence(case, "archive"), "{}", case["id"]);
    }
}
