//! Exec in a container, and its stats.

use std::time::{Duration, Instant};

use fake_cri::shim::{EXEC_OUTPUT_MAX_BYTES, ExecOutput, LaunchSpec, ShimError};
use rstest::rstest;

use crate::harness::{ShimHarness, WAIT_TIMEOUT, wait_for};

fn to_argv(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&word| word.to_owned()).collect()
}

#[tokio::test]
async fn exec_has_the_container_working_dir_and_environment() {
    let harness = ShimHarness::new();
    let work_dir = harness.path("work");
    std::fs::create_dir(&work_dir).expect("the directory can be created");
    let spec = LaunchSpec {
        cwd: Some(work_dir.clone()),
        ..harness.shell_spec("sleep 1000")
    };
    let (shim, _) = harness.run(&spec).await;
    let script = "pwd; echo $COLOUR $MORE; echo err >&2; exit 12";
    let more = vec![("MORE".to_owned(), "light".to_owned())];
    let output = shim
        .exec(to_argv(&["sh", "-c", script]), more, None)
        .await
        .expect("the shim responds");
    let stdout = format!("{}\nblue light\n", work_dir.display()).into_bytes();
    assert_eq!(
        output,
        ExecOutput {
            stdout,
            stderr: b"err\n".to_vec(),
            exit_code: 12
        }
    );
    let output = shim
        .exec(to_argv(&["sh", "-c", "kill -9 $$"]), Vec::new(), None)
        .await
        .expect("the shim responds");
    assert_eq!(output.exit_code, 137);
    assert!(
        harness.log_entries().is_empty(),
        "the container's log has nothing of it"
    );
}

#[tokio::test]
async fn large_output_is_complete_and_excess_is_an_error() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("sleep 1000")).await;
    let output = shim
        .exec(to_argv(&["seq", "1", "300000"]), Vec::new(), None)
        .await
        .expect("the shim responds");
    let lines = String::from_utf8(output.stdout).expect("digits");
    assert_eq!((lines.lines().count(), lines.lines().last()), (300_000, Some("300000")));
    // Exactly, for both streams together.
    let half = EXEC_OUTPUT_MAX_BYTES / 2;
    let both = |more: usize| {
        let script = format!("head -c {half} /dev/zero; head -c {} /dev/zero >&2", half + more);
        shim.exec(to_argv(&["sh", "-c", &script]), Vec::new(), None)
    };
    let output = both(0).await.expect("the largest size is accepted");
    assert_eq!(
        (output.stdout.len(), output.stderr.len(), output.exit_code),
        (half, half, 0)
    );
    assert!(
        matches!(both(1).await, Err(ShimError::ExecOutputTooLarge(EXEC_OUTPUT_MAX_BYTES))),
        "one byte more"
    );
}

#[rstest]
#[case::endless("cat /dev/zero")]
#[case::below_it("cat /dev/zero & cat /dev/zero >&2 & setsid cat /dev/zero & wait")]
#[tokio::test]
async fn endless_output_kills_the_exec_tree(#[case] script: &str) {
    let harness = ShimHarness::new();
    let (shim, init) = harness.run(&harness.shell_spec("exec sleep 1000")).await;
    let error = shim
        .exec(to_argv(&["sh", "-c", script]), Vec::new(), None)
        .await
        .expect_err("the call times out");
    assert!(error.to_string().contains("16777184 bytes"), "{error}");
    assert_eq!(harness.processes(), [init], "only the container remains");
}

#[rstest]
#[case::plain("sleep 1000")]
#[case::children("sleep 1000 & sleep 1000 & wait")]
#[case::sessions("setsid sleep 1000 & (setsid setsid sleep 1000 &) ; echo said; while :; do sleep 1; done")]
#[tokio::test]
async fn a_timeout_kills_the_exec_tree(#[case] script: &str) {
    let harness = ShimHarness::new();
    let (shim, init) = harness.run(&harness.shell_spec("exec sleep 1000")).await;
    let start = Instant::now();
    let limit = Duration::from_millis(300);
    let result = shim.exec(to_argv(&["sh", "-c", script]), Vec::new(), Some(limit)).await;
    assert!(
        matches!(result, Err(ShimError::ExecTimeout(time)) if time == limit),
        "{result:?}"
    );
    assert!(start.elapsed() >= limit);
    assert_eq!(harness.processes(), [init], "only the container remains");
}

#[tokio::test]
async fn client_disconnect_kills_the_exec() {
    let harness = ShimHarness::new();
    let (shim, init) = harness.run(&harness.shell_spec("exec sleep 1000")).await;
    let exec = shim.exec(to_argv(&["sleep", "1000"]), Vec::new(), None);
    assert!(tokio::time::timeout(Duration::from_millis(200), exec).await.is_err());
    wait_for("the command exit", || (harness.processes() == [init]).then_some(())).await;
}

#[tokio::test]
async fn exec_ends_with_its_container_and_a_missing_command_is_an_error() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("sleep 1000")).await;
    let error = shim
        .exec(to_argv(&["no-such-program"]), Vec::new(), None)
        .await
        .expect_err("no entry");
    assert!(
        matches!(&error, ShimError::ExecFailed { message } if message.contains("not found in $PATH")),
        "{error}"
    );
    let argv = to_argv(&["sleep", "1000"]);
    let (output, ()) = tokio::join!(shim.exec(argv, Vec::new(), None), async {
        wait_for("the command", || (harness.processes().len() == 3).then_some(())).await;
        shim.signal(libc::SIGKILL).await.expect("the shim responds");
    });
    assert_eq!(output.expect("the program ran").exit_code, 137);
    assert_eq!(shim.wait_exit().await.signal, Some(libc::SIGKILL));
}

#[tokio::test]
async fn exec_returns_when_its_root_process_exits() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("exec sleep 1000")).await;
    let script = "setsid sleep 1000 & echo left";
    let output = shim
        .exec(to_argv(&["sh", "-c", script]), Vec::new(), None)
        .await
        .expect("the shim responds");
    assert_eq!(output.stdout, b"left\n");
    assert_eq!(
        shim.stats().await.expect("the shim responds").processes,
        2,
        "what it left belongs to the container now"
    );
}

#[tokio::test]
async fn stats_include_all_processes_and_reaped_cpu_time() {
    let harness = ShimHarness::new();
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let script = format!("sh -c '{spin}'; (sh -c '{spin}' &) ; {spin}; sleep 1000 & echo spun; wait");
    let (shim, init) = harness.run(&harness.shell_spec(&script)).await;
    harness.wait_line("spun").await;
    // Not the processes with the container's id in their environment: /proc shows no environment during an exec.
    let only_sleep_is_left = async {
        loop {
            let stats = shim.stats().await.expect("the shim responds");
            if stats.processes == 2 {
                break stats;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let stats = tokio::time::timeout(WAIT_TIMEOUT, only_sleep_is_left)
        .await
        .expect("the orphan exits");
    // Three loops take more CPU time than one, on any machine.
    let init_cpu_ns = std::fs::read_to_string(format!("/proc/{}/schedstat", init.pid)).expect("the process is running");
    let init_cpu_ns: u64 = init_cpu_ns
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("nanoseconds");
    assert!(
        stats.cpu_ns > init_cpu_ns + init_cpu_ns / 2,
        "{stats:?}, its first process {init_cpu_ns}"
    );
    assert!(stats.rss_bytes > 500_000, "{stats:?}");
    let more = shim.stats().await.expect("the shim responds");
    assert!(more.cpu_ns >= stats.cpu_ns && more.started_at_ns == stats.started_at_ns);
    // A command of exec does not count.
    let fifo = harness.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let during = shim.exec(to_argv(&["cat", &fifo.display().to_string()]), Vec::new(), None);
    let (output, processes) = tokio::join!(during, async {
        wait_for("the command", || (harness.processes().len() == 3).then_some(())).await;
        let processes = shim.stats().await.expect("the shim responds").processes;
        // cat exits at EOF of its input.
        drop(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&fifo)
                .expect("cat reads the FIFO"),
        );
        processes
    });
    assert_eq!((output.expect("the command exits").exit_code, processes), (0, 2));
    shim.kill_all().await.expect("the shim responds");
    shim.wait_exit().await;
    assert!(matches!(
        shim.stats().await,
        Err(ShimError::Gone | ShimError::WrongState { .. })
    ));
}
