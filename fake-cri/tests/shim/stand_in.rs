//! The stand-in below a shim, and by itself as in an image.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fake_cri::{
    process::family,
    shim::LaunchSpec,
    stand_in::{OnTerm, Options, Pattern, table},
};
use rstest::rstest;

use crate::rig::{EXECUTABLE, Rig, eventually};

#[tokio::test]
async fn it_shows_the_containers_argv_and_environment_and_nothing_else() {
    let rig = Rig::new();
    let spec = LaunchSpec {
        cwd: Some("/no/such/folder".into()),
        ..rig.stand_in(Options::default())
    };
    let (shim, init) = rig.run(&spec).await;
    rig.line("stand-in ready").await;
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", init.pid)).expect("it runs");
    assert_eq!(read("cmdline"), b"/app/server\0--port\x0080\0");
    let marker = format!("FAKE_CRI_CONTAINER={}", rig.id());
    assert_eq!(
        read("environ"),
        format!("PATH=/usr/local/bin:/usr/bin:/bin\0COLOUR=blue\0{marker}\0").into_bytes()
    );
    assert_eq!(read("comm"), b"stand-in\n");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", init.pid))
        .expect("it runs")
        .count();
    assert_eq!(descriptors, 3);
    shim.signal(libc::SIGTERM).await.expect("it runs");
    assert_eq!(shim.wait().await.code, 0);
}

#[tokio::test]
async fn it_is_as_large_as_it_was_told() {
    let rig = Rig::new();
    let options = Options {
        memory: Some(32 << 20),
        threads: Some(4),
        children: Some(2),
        files: Some(3),
        tick: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let (shim, init) = rig.run(&rig.stand_in(options)).await;
    let ready = rig.line("stand-in ready").await;
    let start = init.start_time;
    assert_eq!(
        ready,
        format!(
            "stand-in ready pid={} start={start} memory=33554432 threads=4 children=2",
            init.pid
        )
    );
    assert_eq!(
        rig.line("tick 3 ").await,
        format!("tick 3 pid={} start={start}", init.pid)
    );
    rig.line("child tick 3 ").await;
    let stats = eventually("all memory", || {
        let all = rig.processes();
        let settled = all.iter().all(|process| {
            let process = process.pid;
            let count = |what: &str| std::fs::read_dir(format!("/proc/{process}/{what}")).map_or(0, Iterator::count);
            count("task") == 4 && count("fd") == 6 && family::resident_bytes(process) > 32 << 20
        });
        (all.len() == 3 && settled).then_some(())
    });
    stats.await;
    assert!(shim.stats().await.expect("it runs").rss_bytes > 96 << 20);
    shim.signal(libc::SIGTERM).await.expect("it runs");
    assert_eq!(shim.wait().await.code, 0);
    assert!(rig.processes().is_empty());
}

#[rstest]
#[case::default_code(None, 0)]
#[case::code(Some(42), 42)]
#[tokio::test]
async fn it_ends_by_itself_when_told(#[case] exit_code: Option<i32>, #[case] code: i32) {
    let rig = Rig::new();
    let after = Duration::from_millis(300);
    let (shim, _) = rig
        .run(&rig.stand_in(Options {
            exit_after: Some(after),
            exit_code,
            ..Options::default()
        }))
        .await;
    let exit = shim.wait().await;
    assert_eq!((exit.code, exit.signal), (code, None));
    assert!(exit.finished_at_ns - exit.started_at_ns >= after.as_nanos() as i64);
}

#[tokio::test]
async fn it_ignores_sigterm_when_told() {
    let rig = Rig::new();
    let options = Options {
        on_term: Some(OnTerm::Ignore),
        tick: Some(Duration::from_millis(10)),
        ..Options::default()
    };
    let (shim, init) = rig.run(&rig.stand_in(options)).await;
    rig.line("tick 1 ").await;
    shim.signal(libc::SIGTERM).await.expect("it runs");
    let ticks = rig.lines("stdout").len();
    rig.line(&format!("tick {} ", ticks + 5)).await;
    assert!(init.alive());
    shim.signal(libc::SIGKILL).await.expect("it runs");
    assert_eq!(shim.wait().await.signal, Some(libc::SIGKILL));
}

#[tokio::test]
async fn the_canary_is_new_each_time_and_only_in_log_and_memory() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let rig = Rig::new();
        let (_shim, init) = rig.run(&rig.stand_in(Options::default())).await;
        let line = rig.line("canary ").await;
        let canary = line["canary ".len()..].to_owned();
        assert!(
            canary.len() == 64 && canary.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{line}"
        );
        for name in ["cmdline", "environ", "comm"] {
            let text = std::fs::read(format!("/proc/{}/{name}", init.pid)).expect("it runs");
            assert!(!String::from_utf8_lossy(&text).contains(&canary), "{name}");
        }
        for file in std::fs::read_dir(rig.dir()).expect("it is there") {
            let file = file.expect("it is there").path();
            if file.is_file() && !file.is_symlink() {
                let text = std::fs::read(&file).expect("it is ours");
                assert!(!String::from_utf8_lossy(&text).contains(&canary), "{}", file.display());
            }
        }
        assert!(!seen.contains(&canary));
        seen.push(canary);
    }
}

#[tokio::test]
async fn it_is_idle_when_it_has_nothing_to_do() {
    let rig = Rig::new();
    let options = Options {
        threads: Some(8),
        ..Options::default()
    };
    let (shim, _) = rig.run(&rig.stand_in(options)).await;
    rig.line("tick 1 ").await;
    let (before, since) = (shim.stats().await.expect("it runs").cpu_ns, Instant::now());
    rig.line("tick 10 ").await;
    let used = shim.stats().await.expect("it runs").cpu_ns - before;
    let share = used as f64 / since.elapsed().as_nanos() as f64;
    assert!(share < 0.05, "{share}");
}

/// A stand-in without a shim.
struct Alone(Child);

impl Alone {
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
                .expect("it starts"),
        )
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().expect("a pipe"))
            .lines()
            .map_while(Result::ok)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[rstest]
#[case::name("stand-in")]
#[case::path("/stand-in")]
fn it_runs_by_its_name_as_in_an_image(#[case] name: &str) {
    let arguments = [
        "--memory",
        "2Mi",
        "--threads=2",
        "--tick",
        "10ms",
        "--exit-after",
        "1s",
        "--exit-code=5",
    ];
    let mut alone = Alone::start(name, &arguments, &[]);
    let mut lines = alone.lines();
    let ready = lines.next().expect("a line");
    assert!(
        ready.starts_with("stand-in ready pid=") && ready.ends_with(" memory=2097152 threads=2 children=0"),
        "{ready}"
    );
    assert!(lines.next().expect("a line").starts_with("canary "));
    assert!(lines.next().expect("a line").starts_with("tick 1 pid="));
    assert_eq!(alone.0.wait().expect("it is ours").code(), Some(5));
}

#[test]
fn options_of_the_environment_win_over_the_command_line() {
    let options = Options {
        threads: Some(3),
        ..Options::default()
    };
    let options = serde_json::to_string(&options).expect("plain data");
    let mut alone = Alone::start(
        "stand-in",
        &["--threads", "2", "--memory", "4096"],
        &[("FAKE_CRI_STAND_IN", &options)],
    );
    let ready = alone.lines().next().expect("a line");
    assert!(ready.ends_with(" memory=4096 threads=3 children=0"), "{ready}");
}

#[test]
fn its_children_end_with_it() {
    let mut alone = Alone::start("stand-in", &["--children", "2", "--tick", "10ms"], &[]);
    let mut lines = alone.lines();
    lines
        .find(|line| line.starts_with("child tick 1 "))
        .expect("a child ticks");
    alone.0.kill().expect("it is ours");
    alone.0.wait().expect("it is ours");
    // The pipe ends when nobody is left who could write.
    assert!(lines.count() < 10_000);
}

#[rstest]
#[case::no_option(&["--nonsense"], "option: \"--nonsense\" is not allowed: expected --memory, --pattern, ")]
#[case::no_size(&["--memory", "lots"], "--memory: \"lots\" is not allowed: expected a size such as 256Mi, 1Gi or 4096")]
#[case::no_value(&["--threads"], "--threads: \"\" is not allowed: expected 1 to 10000")]
fn a_command_line_it_does_not_know_is_refused(#[case] arguments: &[&str], #[case] words: &str) {
    let output = Command::new(EXECUTABLE)
        .arg0("stand-in")
        .args(arguments)
        .output()
        .expect("it starts");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.starts_with(&format!("stand-in: {words}")), "{text}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (format!("fake-cri.dev/{key}"), (*value).to_owned()))
        .collect()
}

#[rstest]
#[case::memory("memory", "256Mi", Options { memory: Some(256 << 20), ..Options::default() })]
#[case::decimal("memory", "1M", Options { memory: Some(1_000_000), ..Options::default() })]
#[case::bytes("memory", "4096", Options { memory: Some(4096), ..Options::default() })]
#[case::gibi("memory", "1Gi", Options { memory: Some(1 << 30), ..Options::default() })]
#[case::pattern("pattern", "text", Options { pattern: Some(Pattern::Text), ..Options::default() })]
#[case::threads("threads", "8", Options { threads: Some(8), ..Options::default() })]
#[case::children("children", "2", Options { children: Some(2), ..Options::default() })]
#[case::files("files", "5", Options { files: Some(5), ..Options::default() })]
#[case::exit_after("exit-after", "1m 30s", Options { exit_after: Some(Duration::from_secs(90)), ..Options::default() })]
#[case::exit_code("exit-code", "255", Options { exit_code: Some(255), ..Options::default() })]
#[case::tick("tick", "20ms", Options { tick: Some(Duration::from_millis(20)), ..Options::default() })]
#[case::on_term("on-term", "ignore", Options { on_term: Some(OnTerm::Ignore), ..Options::default() })]
#[case::cwd("cwd", "/tmp", Options { cwd: Some(PathBuf::from("/tmp")), ..Options::default() })]
#[case::exec_stdout("exec-stdout", "pong\n", Options { exec_stdout: Some("pong\n".into()), ..Options::default() })]
#[case::exec_stderr("exec-stderr", "", Options { exec_stderr: Some(String::new()), ..Options::default() })]
#[case::exec_code("exec-code", "1", Options { exec_code: Some(1), ..Options::default() })]
#[case::exec_delay("exec-delay", "2s", Options { exec_delay: Some(Duration::from_secs(2)), ..Options::default() })]
#[case::not_an_option("fault", "whatever", Options::default())]
#[case::restore("restore-from", "/a.tar", Options::default())]
#[case::of_another("threads.sidecar", "8", Options::default())]
fn annotations_are_options(#[case] name: &str, #[case] value: &str, #[case] expected: Options) {
    let given = annotations(&[(name, value)]);
    let none = BTreeMap::new();
    assert_eq!(Options::from_annotations(&given, &none, "app"), Ok(expected.clone()));
    assert_eq!(Options::from_annotations(&none, &given, "app"), Ok(expected.clone()));
    // What is an option on the Pod is one on the command line too.
    if !name.contains(['.']) && table().iter().any(|row| row.name == name) {
        assert_eq!(
            Options::from_arguments([format!("--{name}"), value.to_owned()]),
            Ok(expected)
        );
    }
}

#[rstest]
#[case("memory", "-1")]
#[case("memory", "256 potatoes")]
#[case("memory", "")]
#[case("pattern", "Random")]
#[case("threads", "0")]
#[case("threads", "10001")]
#[case("children", "-1")]
#[case("files", "many")]
#[case("exit-after", "5")]
#[case("exit-code", "256")]
#[case("tick", "0s")]
#[case("on-term", "die")]
#[case("cwd", "here")]
#[case("exec-code", "-1")]
#[case("exec-delay", "soon")]
fn a_bad_value_names_annotation_value_and_what_is_allowed(#[case] name: &str, #[case] value: &str) {
    let row = table().iter().find(|row| row.name == name).expect("an option");
    let error =
        Options::from_annotations(&annotations(&[(name, value)]), &BTreeMap::new(), "app").expect_err("it is bad");
    assert_eq!(
        (error.name.as_str(), error.value.as_str()),
        (&*format!("fake-cri.dev/{name}"), value)
    );
    assert_eq!(error.allowed, row.takes.replace('`', ""));
    let special = annotations(&[(&format!("{name}.app"), value)]);
    let error = Options::from_annotations(&special, &BTreeMap::new(), "app").expect_err("it is bad");
    assert_eq!(error.name, format!("fake-cri.dev/{name}.app"));
    assert!(Options::from_annotations(&special, &BTreeMap::new(), "other").is_ok());
}

#[test]
fn the_nearest_annotation_wins() {
    let pod = annotations(&[
        ("threads", "1"),
        ("threads.app", "2"),
        ("files", "1"),
        ("files.app", "2"),
        ("children.app", "2"),
    ]);
    let container = annotations(&[("threads", "3"), ("threads.app", "4"), ("files", "3")]);
    let options = Options::from_annotations(&pod, &container, "app").expect("all are good");
    assert_eq!(
        (options.threads, options.files, options.children),
        (Some(4), Some(3), Some(2))
    );
    let options = Options::from_annotations(&pod, &BTreeMap::new(), "other").expect("all are good");
    assert_eq!(
        (options.threads, options.files, options.children),
        (Some(1), Some(1), None)
    );
}
