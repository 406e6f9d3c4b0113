//! A kubelet that runs already, judged by its URL: with and without its runtime's control and its folder of archives.

use std::{fs, path::PathBuf, process::Output, time::Duration};

use checkpoint_conformance::target::{Defect, Embedded, Identity, Kubelet, Trust, Workload};
use tempfile::TempDir;

/// A running kubelet, and files with what is needed to reach it.
struct Bench {
    kubelet: Kubelet,
    files: TempDir,
}

impl Bench {
    async fn start() -> Bench {
        Bench::with(None).await
    }

    async fn with(preset: Option<&str>) -> Bench {
        let embedded = Embedded {
            defect: preset.map(|name| (name.to_owned(), Defect::Runtime(format!("preset:{name}")))),
            executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
            ..Embedded::default()
        };
        let kubelet = embedded.start().await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let client = kubelet.client().await;
        let (Identity::Certificate { certificate, key }, Trust::Authorities(ca)) =
            (&client.access().identity, &client.access().trust)
        else {
            panic!("the embedded target has certificates");
        };
        for (name, content) in [("cert.pem", certificate), ("key.pem", key), ("ca.pem", ca)] {
            fs::write(files.path().join(name), content).unwrap();
        }
        Bench { kubelet, files }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    fn checkpoints(&self) -> PathBuf {
        self.kubelet.checkpoints.clone().unwrap()
    }

    async fn judge(&self, more: &[&str]) -> (Output, String) {
        let client = self.kubelet.client().await;
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .args(["kubelet", "--kubelet-url", client.access().base.as_str()])
            .args([
                "--client-cert",
                &self.file("cert.pem"),
                "--client-key",
                &self.file("key.pem"),
            ])
            .args(["--ca", &self.file("ca.pem"), "--pod", &self.kubelet.subject.to_string()])
            .args(more)
            .output()
            .await
            .unwrap();
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        (output, stdout)
    }

    async fn end(self) {
        self.kubelet.steering.as_ref().unwrap().shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_runtime_and_its_archives_only_the_restart_is_missing() {
    let bench = Bench::start().await;
    let control = bench
        .kubelet
        .faults
        .as_ref()
        .unwrap()
        .socket()
        .to_str()
        .unwrap()
        .to_owned();
    let checkpoints = bench.checkpoints();
    let folder = checkpoints.to_str().unwrap();
    let reach = [
        "--fake-cri-control",
        &control,
        "--checkpoints-dir",
        folder,
        "--include-siblings",
        "--include-load",
    ];

    let (output, stdout) = bench.judge(&reach).await;
    assert_eq!(output.status.code(), Some(4), "{stdout}");
    assert!(
        stdout.contains("verdict: incomplete (not judged: kubelet/404/gate-off)"),
        "{stdout}"
    );
    assert!(stdout.contains("started again with another configuration"), "{stdout}");
    let left: Vec<_> = fs::read_dir(&checkpoints).unwrap().collect();
    assert!(left.is_empty(), "archives are removed: {left:?}");

    // The run left no rule in force: a second one finds the same.
    let (output, stdout) = bench.judge(&[&reach[..], &["--allow-incomplete"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_endpoint_alone_faults_are_skipped_and_archives_are_named() {
    let bench = Bench::start().await;
    let (output, stdout) = bench.judge(&[]).await;
    assert_eq!(output.status.code(), Some(4), "{stdout}");
    for id in [
        "kubelet/500/runtime-error,",
        "kubelet/404/gate-off,",
        "kubelet/timeout/zero",
    ] {
        let verdict = stdout.lines().last().unwrap();
        assert!(verdict.contains(id), "{id}: {verdict}");
    }
    let named: Vec<_> = stdout
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('/'))
        .collect();
    let there: Vec<_> = fs::read_dir(bench.checkpoints())
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    assert!(!there.is_empty());
    for path in &there {
        assert!(named.contains(&path.as_str()), "{path} is not named: {stdout}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_is_left_out_unless_asked_for_and_the_report_says_what_the_run_makes() {
    let bench = Bench::start().await;
    let checkpoints = bench.checkpoints();
    let report = bench.file("report.json");
    let json = format!("json={report}");
    let reach = ["--checkpoints-dir", checkpoints.to_str().unwrap(), "--report", &json];
    let many = [
        &reach[..],
        &["--allow-incomplete", "--filter", "kubelet/concurrent/many"],
    ]
    .concat();
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&report).unwrap()).unwrap();

    let (output, _) = bench.judge(&many).await;
    let written = read();
    assert_eq!(written["cases"][0]["skip"], "excluded", "{written}");
    assert_eq!(written["footprint"]["archives"], 1);
    assert_eq!(written["footprint"]["free_from"], "checkpoints-dir");
    let containers = &written["footprint"]["containers"];
    assert_eq!(*containers, serde_json::json!([bench.kubelet.subject.to_string()]));
    assert_eq!(written["tool"]["name"], "checkpoint-conformance");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("the run makes at most 1 archives of"), "{stderr}");

    let (_, stdout) = bench.judge(&[&many[..], &["--include-load"]].concat()).await;
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    assert_eq!(read()["footprint"]["archives"], 33);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_someone_who_may_not_checkpoint_403_is_judged() {
    let bench = Bench::start().await;
    let filter = ["--filter", "kubelet/403/denied", "--allow-incomplete"];
    let (_, stdout) = bench.judge(&filter).await;
    assert!(stdout.contains("1 case: 1 skip"), "{stdout}");
    let client = bench.kubelet.client().await;
    let mut options = Vec::new();
    match client.access().others.denied.as_ref().unwrap() {
        Identity::Certificate { certificate, key } => {
            for (option, name, content) in [
                ("--denied-client-cert", "denied.pem", certificate),
                ("--denied-client-key", "denied.key", key),
            ] {
                fs::write(bench.file(name), content).unwrap();
                options.extend([option.to_owned(), bench.file(name)]);
            }
        }
        Identity::Token(token) => {
            fs::write(bench.file("denied"), token).unwrap();
            options.extend(["--denied-token-file".to_owned(), bench.file("denied")]);
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let (output, stdout) = bench.judge(&[&filter[..], &options[..]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_container_is_checkpointed_unless_its_siblings_are_asked_for() {
    let bench = Bench::start().await;
    let checkpoints = bench.checkpoints();
    let reach = ["--allow-incomplete", "--checkpoints-dir", checkpoints.to_str().unwrap()];
    let second = [&reach[..], &["--filter", "kubelet/200/named-container"]].concat();
    let (_, stdout) = bench.judge(&[&second[..], &["--include-siblings"]].concat()).await;
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    let (_, stdout) = bench.judge(&second).await;
    assert!(stdout.contains("1 case: 1 skip"), "{stdout}");
    assert!(stdout.contains("needs a second running container"), "{stdout}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_known_is_told_as_a_failure_and_stays_secret() {
    let bench = Bench::start().await;
    let token = bench.file("token");
    fs::write(&token, "a-token-nobody-issued-0123456789\n").unwrap();
    let client = bench.kubelet.client().await;
    let reports = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args([
            "--kubelet-url",
            client.access().base.as_str(),
            "--token-file",
            &token,
            "--insecure",
        ])
        .args(["--pod", &bench.kubelet.subject.to_string(), "--report-dir"])
        .arg(reports.path())
        .output()
        .await
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("does not hold: kubelet/200/ok)"), "{stdout}");
    for name in ["report.json", "junit.xml"] {
        let text = fs::read_to_string(reports.path().join(name)).unwrap();
        assert!(!text.contains("nobody-issued"), "{text}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_left_frozen_is_let_go_before_the_next_case() {
    let bench = Bench::with(Some("left-frozen")).await;
    let (kubelet, subject) = (&bench.kubelet, &bench.kubelet.subject);
    kubelet.restore().await.unwrap();
    assert_eq!(kubelet.thawed(), Vec::<String>::new());
    for times in 1..=2 {
        let answer = kubelet.checkpoint(subject, "").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let before = kubelet.workload(subject).await.unwrap();
        kubelet.restore().await.unwrap();
        assert_eq!(kubelet.thawed().len(), times, "{:?}", kubelet.thawed());
        let later = |later: &Workload| later.tick > before.tick;
        let moves = kubelet.workload_until(subject, Duration::from_secs(5), later).await;
        assert!(moves.unwrap().is_some_and(|later| later.same_process(&before)));
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_left_frozen_is_let_go_at_the_end() {
    let bench = Bench::with(Some("left-frozen")).await;
    let (output, stdout) = bench.judge(&["--filter", "kubelet/copy/runs-on"]).await;
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let subject = bench.kubelet.subject.to_string();
    assert!(
        stderr.contains(&format!("container {subject} was left frozen: ")),
        "{stderr}"
    );
    let now = bench.kubelet.workload(&bench.kubelet.subject).await.unwrap();
    let moves = bench
        .kubelet
        .workload_until(&bench.kubelet.subject, Duration::from_secs(5), |later| {
            later.tick > now.tick
        })
        .await
        .unwrap();
    assert!(moves.is_some_and(|later| later.same_process(&now)), "it stands still");
    bench.end().await;
}
