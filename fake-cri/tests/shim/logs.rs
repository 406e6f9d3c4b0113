//! The log of a container.

use std::fs;

use fake_cri::shim::LaunchSpec;

use crate::harness::ShimHarness;

#[tokio::test]
async fn streams_and_partial_lines_are_tagged() {
    let harness = ShimHarness::new();
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf tail";
    let (shim, _) = harness.run(&harness.shell_spec(script)).await;
    shim.wait_exit().await;
    assert_eq!(harness.log_lines("stderr"), ["err"]);
    let mut out = harness.log_entries();
    out.retain(|entry| entry.0 == "stdout");
    let out: Vec<_> = out.into_iter().map(|entry| (entry.1, entry.2.len())).collect();
    assert_eq!(
        out,
        [
            ("F".into(), 3),
            ("P".into(), 16384),
            ("F".into(), 3616),
            ("P".into(), 4)
        ]
    );
}

#[tokio::test]
async fn the_log_is_complete_at_exit() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("seq 1 50000; echo done >&2")).await;
    shim.wait_exit().await;
    let lines = harness.log_lines("stdout");
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (50_000, Some("50000")));
    assert_eq!(harness.log_lines("stderr"), ["done"]);
}

#[tokio::test]
async fn reopen_log_writes_to_a_new_file() {
    let harness = ShimHarness::new();
    let go = harness.path("go");
    let script = format!(
        "echo before; until [ -e {} ]; do sleep 0.01; done; echo after",
        go.display()
    );
    let (shim, _) = harness.run(&harness.shell_spec(&script)).await;
    harness.wait_line("before").await;
    fs::rename(harness.log_path(), harness.path("rotated")).expect("the path exists");
    shim.reopen_log().await.expect("the file opens");
    fs::write(go, "").expect("the file is writable");
    shim.wait_exit().await;
    assert_eq!(harness.log_lines("stdout"), ["after"]);
    assert!(
        fs::read_to_string(harness.path("rotated"))
            .expect("the path exists")
            .ends_with(" stdout F before\n")
    );
}

#[tokio::test]
async fn without_a_log_output_is_discarded() {
    let harness = ShimHarness::new();
    let spec = LaunchSpec {
        log: None,
        ..harness.shell_spec("seq 1 100000; exit 4")
    };
    let (shim, _) = harness.run(&spec).await;
    assert_eq!(shim.wait_exit().await.code, 4);
    assert!(!harness.log_path().exists());
}

#[tokio::test]
async fn an_unusable_log_path_fails_the_launch() {
    let harness = ShimHarness::new();
    fs::write(harness.path("file"), "").expect("the file is writable");
    let log = harness.path("file/0.log");
    let spec = LaunchSpec {
        log: Some(log.clone()),
        ..harness.shell_spec("true")
    };
    let error = fake_cri::shim::Shim::launch(crate::harness::EXECUTABLE.as_ref(), &spec)
        .await
        .expect_err("a missing directory");
    assert!(
        error.to_string().contains(&format!("open the log {}", log.display())),
        "{error}"
    );
}

#[tokio::test]
async fn a_terminal_logs_one_stream() {
    let harness = ShimHarness::new();
    let spec = LaunchSpec {
        tty: true,
        ..harness.shell_spec("test -t 0 && test -t 1 && test -t 2 && tty; echo err >&2; echo out")
    };
    let (shim, _) = harness.run(&spec).await;
    assert_eq!(shim.wait_exit().await.code, 0);
    let lines = harness.log_lines("stdout");
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..], ["err\r", "out\r"]);
    assert!(harness.log_lines("stderr").is_empty());
}

#[tokio::test]
async fn requested_stdin_stays_open() {
    let harness = ShimHarness::new();
    let spec = LaunchSpec {
        stdin: true,
        ..harness.shell_spec("timeout 0.2 cat; echo $?")
    };
    let (shim, _) = harness.run(&spec).await;
    shim.wait_exit().await;
    assert_eq!(harness.log_lines("stdout"), ["124"], "cat waits for ever");
}
