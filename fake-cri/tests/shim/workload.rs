//! The test workload below a shim, and by itself as in an image.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fake_cri::{
    process::pstree,
    shim::LaunchSpec,
    workload::{MemoryPattern, OnSigterm, WorkloadOptions, option_table},
};
use rstest::rstest;

use crate::harness::{EXECUTABLE, ShimHarness, wait_for};

#[tokio::test]
async fn shows_the_container_argv_and_environment_only() {
    let harness = ShimHarness::new();
    let spec = LaunchSpec {
        cwd: Some("/no/such/directory".into()),
        ..harness.workload_spec(WorkloadOptions::default())
    };
    let (shim, init) = harness.run(&spec).await;
    harness.wait_line("test-workload ready").await;
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", init.pid)).expect("the process is running");
    assert_eq!(read("cmdline"), b"/app/server\0--port\x0080\0");
    let marker = format!("FAKE_CRI_CONTAINER_ID={}", harness.id());
    assert_eq!(
        read("environ"),
        format!("PATH=/usr/local/bin:/usr/bin:/bin\0COLOUR=blue\0{marker}\0").into_bytes()
    );
    assert_eq!(read("comm"), b"test-workload\n");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", init.pid))
        .expect("the shim responds")
        .count();
    assert_eq!(descriptors, 3);
    shim.signal(libc::SIGTERM).await.expect("the shim responds");
    assert_eq!(shim.wait_exit().await.code, 0);
}

#[tokio::test]
async fn has_the_requested_size() {
    let harness = ShimHarness::new();
    let options = WorkloadOptions {
        memory: Some(32 << 20),
        threads: Some(4),
        children: Some(2),
        open_files: Some(3),
        heartbeat_interval: Some(Duration::from_millis(20)),
        ..WorkloadOptions::default()
    };
    let (shim, init) = harness.run(&harness.workload_spec(options)).await;
    let ready = harness.wait_line("test-workload ready").await;
    let start = init.start_time;
    assert_eq!(
        ready,
        format!(
            "test-workload ready pid={} start={start} memory=33554432 threads=4 children=2",
            init.pid
        )
    );
    assert_eq!(
        harness.wait_line("heartbeat 3 ").await,
        format!("heartbeat 3 pid={} start={start}", init.pid)
    );
    harness.wait_line("child heartbeat 3 ").await;
    let stats = wait_for("all memory", || {
        let all = harness.processes();
        let all_allocated = all.iter().all(|process| {
            let process = process.pid;
            let count = |what: &str| std::fs::read_dir(format!("/proc/{process}/{what}")).map_or(0, Iterator::count);
            count("task") == 4 && count("fd") == 6 && pstree::resident_bytes(process) > 32 << 20
        });
        (all.len() == 3 && all_allocated).then_some(())
    });
    stats.await;
    assert!(shim.stats().await.expect("the shim responds").rss_bytes > 96 << 20);
    shim.signal(libc::SIGTERM).await.expect("the shim responds");
    assert_eq!(shim.wait_exit().await.code, 0);
    assert!(harness.processes().is_empty());
}

#[rstest]
#[case::default_code(None, 0)]
#[case::code(Some(42), 42)]
#[tokio::test]
async fn exits_after_the_requested_time(#[case] exit_code: Option<i32>, #[case] code: i32) {
    let harness = ShimHarness::new();
    let after = Duration::from_millis(300);
    let (shim, _) = harness
        .run(&harness.workload_spec(WorkloadOptions {
            exit_after: Some(after),
            exit_code,
            ..WorkloadOptions::default()
        }))
        .await;
    let exit = shim.wait_exit().await;
    assert_eq!((exit.code, exit.signal), (code, None));
    assert!(exit.finished_at_ns - exit.started_at_ns >= after.as_nanos() as i64);
}

#[tokio::test]
async fn ignores_sigterm_when_requested() {
    let harness = ShimHarness::new();
    let options = WorkloadOptions {
        on_sigterm: Some(OnSigterm::Ignore),
        heartbeat_interval: Some(Duration::from_millis(10)),
        ..WorkloadOptions::default()
    };
    let (shim, init) = harness.run(&harness.workload_spec(options)).await;
    harness.wait_line("heartbeat 1 ").await;
    shim.signal(libc::SIGTERM).await.expect("the shim responds");
    let heartbeats = harness.log_lines("stdout").len();
    harness.wait_line(&format!("heartbeat {} ", heartbeats + 5)).await;
    assert!(init.is_alive());
    shim.signal(libc::SIGKILL).await.expect("the shim responds");
    assert_eq!(shim.wait_exit().await.signal, Some(libc::SIGKILL));
}

#[tokio::test]
async fn canaries_are_random_and_only_in_log_and_memory() {
    let mut canaries = Vec::new();
    for _ in 0..2 {
        let harness = ShimHarness::new();
        let (_shim, init) = harness.run(&harness.workload_spec(WorkloadOptions::default())).await;
        let line = harness.wait_line("canary ").await;
        let canary = line["canary ".len()..].to_owned();
        assert!(
            canary.len() == 64 && canary.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{line}"
        );
        for name in ["cmdline", "environ", "comm"] {
            let text = std::fs::read(format!("/proc/{}/{name}", init.pid)).expect("the process is running");
            assert!(!String::from_utf8_lossy(&text).contains(&canary), "{name}");
        }
        for file in std::fs::read_dir(harness.shim_dir()).expect("the path exists") {
            let file = file.expect("the path exists").path();
            if file.is_file() && !file.is_symlink() {
                let text = std::fs::read(&file).expect("the file is accessible");
                assert!(!String::from_utf8_lossy(&text).contains(&canary), "{}", file.display());
            }
        }
        assert!(!canaries.contains(&canary));
        canaries.push(canary);
    }
}

#[tokio::test]
async fn uses_little_cpu_when_idle() {
    let harness = ShimHarness::new();
    let options = WorkloadOptions {
        threads: Some(8),
        ..WorkloadOptions::default()
    };
    let (shim, _) = harness.run(&harness.workload_spec(options)).await;
    harness.wait_line("heartbeat 1 ").await;
    let (before, since) = (shim.stats().await.expect("the shim responds").cpu_ns, Instant::now());
    harness.wait_line("heartbeat 10 ").await;
    let used = shim.stats().await.expect("the shim responds").cpu_ns - before;
    let share = used as f64 / since.elapsed().as_nanos() as f64;
    assert!(share < 0.05, "{share}");
}

/// A test workload without a shim.
struct WorkloadProcess(Child);

impl WorkloadProcess {
    fn start(name: &str, arguments: &[&str], more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(EXECUTABLE);
        command
            .arg0(name)
            .args(arguments)
            .env_clear()
            .envs(more.iter().copied());
        Self(
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the container starts"),
        )
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().expect("a pipe"))
            .lines()
            .map_while(Result::ok)
    }
}

impl Drop for WorkloadProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[rstest]
#[case::name("test-workload")]
#[case::path("/test-workload")]
fn runs_by_its_argv0(#[case] name: &str) {
    let arguments = [
        "--memory",
        "2Mi",
        "--threads=2",
        "--heartbeat-interval",
        "10ms",
        "--exit-after",
        "1s",
        "--exit-code=5",
    ];
    let mut workload = WorkloadProcess::start(name, &arguments, &[]);
    let mut lines = workload.lines();
    let ready = lines.next().expect("a line");
    assert!(
        ready.starts_with("test-workload ready pid=") && ready.ends_with(" memory=2097152 threads=2 children=0"),
        "{ready}"
    );
    assert!(lines.next().expect("a line").starts_with("canary "));
    assert!(lines.next().expect("a line").starts_with("heartbeat 1 pid="));
    assert_eq!(workload.0.wait().expect("the process is a child").code(), Some(5));
}

#[test]
fn environment_options_override_arguments() {
    let options = WorkloadOptions {
        threads: Some(3),
        ..WorkloadOptions::default()
    };
    let options = serde_json::to_string(&options).expect("valid data");
    let mut workload = WorkloadProcess::start(
        "test-workload",
        &["--threads", "2", "--memory", "4096"],
        &[("FAKE_CRI_TEST_WORKLOAD", &options)],
    );
    let ready = workload.lines().next().expect("a line");
    assert!(ready.ends_with(" memory=4096 threads=3 children=0"), "{ready}");
}

#[test]
fn children_end_with_their_parent() {
    let mut workload = WorkloadProcess::start(
        "test-workload",
        &["--children", "2", "--heartbeat-interval", "10ms"],
        &[],
    );
    let mut lines = workload.lines();
    lines
        .find(|line| line.starts_with("child heartbeat 1 "))
        .expect("a heartbeat of a child");
    workload.0.kill().expect("the process is a child");
    workload.0.wait().expect("the process is a child");
    // The pipe has EOF when no writer is left.
    assert!(lines.count() < 10_000);
}

#[rstest]
#[case::no_option(&["--nonsense"], "option: \"--nonsense\" is not allowed: expected --memory, --memory-pattern, ")]
#[case::no_size(&["--memory", "lots"], "--memory: \"lots\" is not allowed: expected a size such as 256Mi, 1Gi or 4096")]
#[case::no_value(&["--threads"], "--threads: \"\" is not allowed: expected 1 to 10000")]
fn invalid_arguments_are_refused(#[case] arguments: &[&str], #[case] words: &str) {
    let output = Command::new(EXECUTABLE)
        .arg0("test-workload")
        .args(arguments)
        .output()
        .expect("the container starts");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.starts_with(&format!("test-workload: {words}")), "{text}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (format!("fake-cri.dev/{key}"), (*value).to_owned()))
        .collect()
}

#[rstest]
#[case::memory("memory", "256Mi", WorkloadOptions { memory: Some(256 << 20), ..WorkloadOptions::default() })]
#[case::decimal("memory", "1M", WorkloadOptions { memory: Some(1_000_000), ..WorkloadOptions::default() })]
#[case::bytes("memory", "4096", WorkloadOptions { memory: Some(4096), ..WorkloadOptions::default() })]
#[case::gibi("memory", "1Gi", WorkloadOptions { memory: Some(1 << 30), ..WorkloadOptions::default() })]
#[case::memory_pattern("memory-pattern", "text", WorkloadOptions { memory_pattern: Some(MemoryPattern::Text), ..WorkloadOptions::default() })]
#[case::threads("threads", "8", WorkloadOptions { threads: Some(8), ..WorkloadOptions::default() })]
#[case::children("children", "2", WorkloadOptions { children: Some(2), ..WorkloadOptions::default() })]
#[case::open_files("open-files", "5", WorkloadOptions { open_files: Some(5), ..WorkloadOptions::default() })]
#[case::exit_after("exit-after", "1m 30s", WorkloadOptions { exit_after: Some(Duration::from_secs(90)), ..WorkloadOptions::default() })]
#[case::exit_code("exit-code", "255", WorkloadOptions { exit_code: Some(255), ..WorkloadOptions::default() })]
#[case::heartbeat_interval("heartbeat-interval", "20ms", WorkloadOptions { heartbeat_interval: Some(Duration::from_millis(20)), ..WorkloadOptions::default() })]
#[case::on_sigterm("on-sigterm", "ignore", WorkloadOptions { on_sigterm: Some(OnSigterm::Ignore), ..WorkloadOptions::default() })]
#[case::cwd("cwd", "/tmp", WorkloadOptions { cwd: Some(PathBuf::from("/tmp")), ..WorkloadOptions::default() })]
#[case::exec_stdout("exec-stdout", "pong\n", WorkloadOptions { exec_stdout: Some("pong\n".into()), ..WorkloadOptions::default() })]
#[case::exec_stderr("exec-stderr", "", WorkloadOptions { exec_stderr: Some(String::new()), ..WorkloadOptions::default() })]
#[case::exec_exit_code("exec-exit-code", "1", WorkloadOptions { exec_exit_code: Some(1), ..WorkloadOptions::default() })]
#[case::exec_delay("exec-delay", "2s", WorkloadOptions { exec_delay: Some(Duration::from_secs(2)), ..WorkloadOptions::default() })]
#[case::not_an_option("fault", "whatever", WorkloadOptions::default())]
#[case::restore("restore-from", "/a.tar", WorkloadOptions::default())]
#[case::of_another("threads.sidecar", "8", WorkloadOptions::default())]
fn annotations_set_options(#[case] name: &str, #[case] value: &str, #[case] expected: WorkloadOptions) {
    let annotated = annotations(&[(name, value)]);
    let none = BTreeMap::new();
    assert_eq!(
        WorkloadOptions::from_annotations(&annotated, &none, "app"),
        Ok(expected.clone())
    );
    assert_eq!(
        WorkloadOptions::from_annotations(&none, &annotated, "app"),
        Ok(expected.clone())
    );
    // An option of the Pod annotations is also an option of the command line.
    if !name.contains(['.']) && option_table().iter().any(|row| row.name == name) {
        assert_eq!(
            WorkloadOptions::from_arguments([format!("--{name}"), value.to_owned()]),
            Ok(expected)
        );
    }
}

#[rstest]
#[case("memory", "-1")]
#[case("memory", "256 potatoes")]
#[case("memory", "")]
#[case("memory-pattern", "Random")]
#[case("threads", "0")]
#[case("threads", "10001")]
#[case("children", "-1")]
#[case("open-files", "many")]
#[case("exit-after", "5")]
#[case("exit-code", "256")]
#[case("heartbeat-interval", "0s")]
#[case("on-sigterm", "die")]
#[case("cwd", "here")]
#[case("exec-exit-code", "-1")]
#[case("exec-delay", "soon")]
fn errors_name_annotation_value_and_allowed_values(#[case] name: &str, #[case] value: &str) {
    let row = option_table().iter().find(|row| row.name == name).expect("an option");
    let error = WorkloadOptions::from_annotations(&annotations(&[(name, value)]), &BTreeMap::new(), "app")
        .expect_err("an invalid annotation");
    assert_eq!(
        (error.name.as_str(), error.value.as_str()),
        (&*format!("fake-cri.dev/{name}"), value)
    );
    assert_eq!(error.allowed, row.value_help.replace('`', ""));
    let container_annotations = annotations(&[(&format!("{name}.app"), value)]);
    let error = WorkloadOptions::from_annotations(&container_annotations, &BTreeMap::new(), "app")
        .expect_err("an invalid annotation");
    assert_eq!(error.name, format!("fake-cri.dev/{name}.app"));
    assert!(WorkloadOptions::from_annotations(&container_annotations, &BTreeMap::new(), "other").is_ok());
}

#[test]
fn the_nearest_annotation_wins() {
    let pod = annotations(&[
        ("threads", "1"),
        ("threads.app", "2"),
        ("open-files", "1"),
        ("files.app", "2"),
        ("children.app", "2"),
    ]);
    let container = annotations(&[("threads", "3"), ("threads.app", "4"), ("open-files", "3")]);
    let options = WorkloadOptions::from_annotations(&pod, &container, "app").expect("valid annotations");
    assert_eq!(
        (options.threads, options.open_files, options.children),
        (Some(4), Some(3), Some(2))
    );
    let options = WorkloadOptions::from_annotations(&pod, &BTreeMap::new(), "other").expect("valid annotations");
    assert_eq!(
        (options.threads, options.open_files, options.children),
        (Some(1), Some(1), None)
    );
}
