//! The container's log.

use std::fs;

use fake_cri::shim::LaunchSpec;

use crate::rig::Rig;

#[tokio::test]
async fn streams_and_partial_lines_are_tagged() {
    let rig = Rig::new();
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf tail";
    let (shim, _) = rig.run(&rig.shell(script)).await;
    shim.wait().await;
    assert_eq!(rig.lines("stderr"), ["err"]);
    let mut out = rig.entries();
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
async fn the_last_words_are_in_the_log_when_the_end_is_known() {
    let rig = Rig::new();
    let (shim, _) = rig.run(&rig.shell("seq 1 50000; echo done >&2")).await;
    shim.wait().await;
    let lines = rig.lines("stdout");
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (50_000, Some("50000")));
    assert_eq!(rig.lines("stderr"), ["done"]);
}

#[tokio::test]
async fn a_rotated_log_goes_on_in_a_new_file() {
    let rig = Rig::new();
    let go = rig.path("go");
    let script = format!(
        "echo before; until [ -e {} ]; do sleep 0.01; done; echo after",
        go.display()
    );
    let (shim, _) = rig.run(&rig.shell(&script)).await;
    rig.line("before").await;
    fs::rename(rig.log(), rig.path("rotated")).expect("it is there");
    shim.reopen_log().await.expect("it opens");
    fs::write(go, "").expect("it can be written");
    shim.wait().await;
    assert_eq!(rig.lines("stdout"), ["after"]);
    assert!(
        fs::read_to_string(rig.path("rotated"))
            .expect("it is there")
            .ends_with(" stdout F before\n")
    );
}

#[tokio::test]
async fn without_a_log_output_is_dropped_and_the_container_runs() {
    let rig = Rig::new();
    let spec = LaunchSpec {
        log: None,
        ..rig.shell("seq 1 100000; exit 4")
    };
    let (shim, _) = rig.run(&spec).await;
    assert_eq!(shim.wait().await.code, 4);
    assert!(!rig.log().exists());
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_fails_the_launch_clearly() {
    let rig = Rig::new();
    fs::write(rig.path("file"), "").expect("it can be written");
    let log = rig.path("file/0.log");
    let spec = LaunchSpec {
        log: Some(log.clone()),
        ..rig.shell("true")
    };
    let error = fake_cri::shim::Shim::launch(crate::rig::EXECUTABLE.as_ref(), &spec)
        .await
        .expect_err("no folder");
    assert!(
        error.to_string().contains(&format!("open the log {}", log.display())),
        "{error}"
    );
}

#[tokio::test]
async fn a_terminal_is_one_stream() {
    let rig = Rig::new();
    let spec = LaunchSpec {
        tty: true,
        ..rig.shell("test -t 0 && test -t 1 && test -t 2 && tty; echo err >&2; echo out")
    };
    let (shim, _) = rig.run(&spec).await;
    assert_eq!(shim.wait().await.code, 0);
    let lines = rig.lines("stdout");
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..], ["err\r", "out\r"]);
    assert!(rig.lines("stderr").is_empty());
}

#[tokio::test]
async fn standard_input_stays_open_when_it_is_asked_for() {
    let rig = Rig::new();
    let spec = LaunchSpec {
        stdin: true,
        ..rig.shell("timeout 0.2 cat; echo $?")
    };
    let (shim, _) = rig.run(&spec).await;
    shim.wait().await;
    assert_eq!(rig.lines("stdout"), ["124"], "cat waits for ever");
}
