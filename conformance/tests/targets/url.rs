//! Tests of a running kubelet by URL, with and without the control socket of its runtime and its directory of archives.

use std::{fs, path::PathBuf, process::Output, time::Duration};

use checkpoint_conformance::{
    targets::{Defect, Embedded, Identity, Kubelet, KubeletConfig, ServerVerification, Workload},
    tls::CertificateKeyPair,
};
use tempfile::TempDir;

/// A running kubelet, and files with the credentials for it.
struct RunningKubelet {
    kubelet: Kubelet,
    files: TempDir,
}

impl RunningKubelet {
    async fn start() -> RunningKubelet {
        RunningKubelet::with_preset(None).await
    }

    async fn with_preset(preset: Option<&str>) -> RunningKubelet {
        let embedded = Embedded {
            defect: preset.map(|name| (name.to_owned(), Defect::Runtime(format!("preset:{name}")))),
            executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
            ..Embedded::default()
        };
        let kubelet = embedded.start().await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let running = RunningKubelet { kubelet, files };
        running.write_credentials().await;
        running
    }

    async fn write_credentials(&self) {
        let client = self.kubelet.client().await;
        let (Identity::Certificate(CertificateKeyPair { certificate, key }), ServerVerification::CaBundle(ca)) =
            (&client.endpoint().identity, &client.endpoint().verification)
        else {
            panic!("the embedded target has certificates");
        };
        for (name, content) in [("cert.pem", certificate), ("key.pem", key), ("ca.pem", ca)] {
            fs::write(self.files.path().join(name), content).unwrap();
        }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    fn checkpoints(&self) -> PathBuf {
        self.kubelet.checkpoints_dir.clone().unwrap()
    }

    async fn run_harness(&self, extra_args: &[&str]) -> (Output, String) {
        let client = self.kubelet.client().await;
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .args(["kubelet", "--kubelet-url", client.endpoint().base_url.as_str()])
            .args([
                "--client-cert",
                &self.file("cert.pem"),
                "--client-key",
                &self.file("key.pem"),
            ])
            .args([
                "--ca",
                &self.file("ca.pem"),
                "--container",
                &self.kubelet.container_under_test.to_string(),
            ])
            .args(extra_args)
            .output()
            .await
            .unwrap();
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        (output, stdout)
    }

    async fn end(self) {
        self.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_access_skips_what_needs_an_own_kubelet() {
    let kubelet_under_test = RunningKubelet::start().await;
    let control = kubelet_under_test
        .kubelet
        .fake_cri
        .as_ref()
        .unwrap()
        .socket()
        .to_str()
        .unwrap()
        .to_owned();
    let checkpoints = kubelet_under_test.checkpoints();
    let directory = checkpoints.to_str().unwrap();
    let connect_args = [
        "--fake-cri-control",
        &control,
        "--checkpoints-dir",
        directory,
        "--include-siblings",
        "--include-load",
    ];

    let (output, stdout) = kubelet_under_test.run_harness(&connect_args).await;
    assert_eq!(output.status.code(), Some(4), "{stdout}");
    // Without a token, the key of the CA, further Pods and restarts.
    let not_run = [
        "kubelet/archive-name/long-pod-name",
        "kubelet/authentication/altered-token-rejected",
        "kubelet/authentication/expired-certificate-rejected",
        "kubelet/authentication/future-certificate-rejected",
        "kubelet/authentication/namesake-ca-rejected",
        "kubelet/authentication/server-certificate-rejected",
        "kubelet/checkpoint/named-pod-only",
        "kubelet/feature-gate/disabled",
    ];
    let verdict = format!(
        "verdict: incomplete (documented cases did not run: {})",
        not_run.join(", ")
    );
    assert!(stdout.contains(&verdict), "{stdout}");
    assert!(stdout.contains("restart with another configuration"), "{stdout}");
    let leftover: Vec<_> = fs::read_dir(&checkpoints).unwrap().collect();
    assert!(leftover.is_empty(), "archives were not removed: {leftover:?}");

    // The run left no fault rule active, and its calls are not taken for those of the next run: a second run has the same
    // result, the one failure of the reference kubelet.
    let (output, stdout) = kubelet_under_test
        .run_harness(&[&connect_args[..], &["--allow-incomplete"]].concat())
        .await;
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains(" pass, 1 fail, "), "{stdout}");
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_alone_skips_faults() {
    let kubelet_under_test = RunningKubelet::start().await;
    let (output, stdout) = kubelet_under_test.run_harness(&[]).await;
    assert_eq!(output.status.code(), Some(4), "{stdout}");
    for id in [
        "kubelet/runtime-error/status-code,",
        "kubelet/feature-gate/disabled,",
        "kubelet/timeout/zero-uses-default",
    ] {
        let verdict = stdout.lines().last().unwrap();
        assert!(verdict.contains(id), "{id}: {verdict}");
    }
    let named_archives: Vec<_> = stdout
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('/'))
        .collect();
    let existing: Vec<_> = fs::read_dir(kubelet_under_test.checkpoints())
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    assert!(!existing.is_empty());
    for path in &existing {
        assert!(
            named_archives.contains(&path.as_str()),
            "{path} is not in the report: {stdout}"
        );
    }
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_cases_need_the_option() {
    let kubelet_under_test = RunningKubelet::start().await;
    let checkpoints = kubelet_under_test.checkpoints();
    let report = kubelet_under_test.file("report.json");
    let json = format!("json={report}");
    let connect_args = ["--checkpoints-dir", checkpoints.to_str().unwrap(), "--report", &json];
    let load_args = [
        &connect_args[..],
        &["--allow-incomplete", "--filter", "kubelet/concurrency/all-served"],
    ]
    .concat();
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&report).unwrap()).unwrap();

    let (output, _) = kubelet_under_test.run_harness(&load_args).await;
    let written = read();
    assert_eq!(written["cases"][0]["skip_kind"], "excluded", "{written}");
    assert_eq!(written["footprint"]["max_archives"], 1);
    assert_eq!(written["footprint"]["free_bytes_source"], "checkpoints-dir");
    let containers = &written["footprint"]["containers"];
    assert_eq!(
        *containers,
        serde_json::json!([kubelet_under_test.kubelet.container_under_test.to_string()])
    );
    assert_eq!(written["tool"]["name"], "checkpoint-conformance");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("the run creates at most 1 archives of"), "{stderr}");

    let (_, stdout) = kubelet_under_test
        .run_harness(&[&load_args[..], &["--include-load"]].concat())
        .await;
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    assert_eq!(read()["footprint"]["max_archives"], 33);
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_credential_enables_403_cases() {
    let kubelet_under_test = RunningKubelet::start().await;
    let filter = [
        "--filter",
        "kubelet/authorization/permission-required",
        "--allow-incomplete",
    ];
    let (_, stdout) = kubelet_under_test.run_harness(&filter).await;
    assert!(stdout.contains("1 case: 1 skip"), "{stdout}");
    let client = kubelet_under_test.kubelet.client().await;
    let mut options = Vec::new();
    match client.endpoint().extra_identities.denied_user.as_ref().unwrap() {
        Identity::Certificate(CertificateKeyPair { certificate, key }) => {
            for (option, name, content) in [
                ("--denied-client-cert", "denied.pem", certificate),
                ("--denied-client-key", "denied.key", key),
            ] {
                fs::write(kubelet_under_test.file(name), content).unwrap();
                options.extend([option.to_owned(), kubelet_under_test.file(name)]);
            }
        }
        Identity::Token(token) => {
            fs::write(kubelet_under_test.file("denied"), token).unwrap();
            options.extend(["--denied-token-file".to_owned(), kubelet_under_test.file("denied")]);
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let (output, stdout) = kubelet_under_test
        .run_harness(&[&filter[..], &options[..]].concat())
        .await;
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_need_the_option() {
    let kubelet_under_test = RunningKubelet::start().await;
    let checkpoints = kubelet_under_test.checkpoints();
    let connect_args = ["--allow-incomplete", "--checkpoints-dir", checkpoints.to_str().unwrap()];
    let second = [
        &connect_args[..],
        &["--filter", "kubelet/checkpoint/named-container-only"],
    ]
    .concat();
    let (_, stdout) = kubelet_under_test
        .run_harness(&[&second[..], &["--include-siblings"]].concat())
        .await;
    assert!(stdout.contains("1 case: 1 pass"), "{stdout}");
    let (_, stdout) = kubelet_under_test.run_harness(&second).await;
    assert!(stdout.contains("1 case: 1 skip"), "{stdout}");
    assert!(stdout.contains("requires a second running container"), "{stdout}");
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_token_fails_and_stays_secret() {
    let kubelet_under_test = RunningKubelet::start().await;
    let token = kubelet_under_test.file("token");
    fs::write(&token, "a-token-nobody-issued-0123456789\n").unwrap();
    let client = kubelet_under_test.kubelet.client().await;
    let reports = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args([
            "--kubelet-url",
            client.endpoint().base_url.as_str(),
            "--token-file",
            &token,
            "--insecure",
        ])
        .args([
            "--container",
            &kubelet_under_test.kubelet.container_under_test.to_string(),
            "--report-dir",
        ])
        .arg(reports.path())
        .output()
        .await
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(
        stdout.contains("required cases failed: kubelet/checkpoint/succeeds)"),
        "{stdout}"
    );
    for name in ["report.json", "junit.xml"] {
        let text = fs::read_to_string(reports.path().join(name)).unwrap();
        assert!(!text.contains("nobody-issued"), "{text}");
    }
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_container_is_unfrozen_between_cases() {
    let kubelet_under_test = RunningKubelet::with_preset(Some("left-frozen")).await;
    let (kubelet, subject) = (
        &kubelet_under_test.kubelet,
        &kubelet_under_test.kubelet.container_under_test,
    );
    kubelet.reset().await.unwrap();
    assert_eq!(kubelet.unfreeze_notes(), Vec::<String>::new());
    for times in 1..=2 {
        let answer = kubelet.checkpoint(subject, "").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let before = kubelet.workload(subject).await.unwrap();
        kubelet.reset().await.unwrap();
        assert_eq!(kubelet.unfreeze_notes().len(), times, "{:?}", kubelet.unfreeze_notes());
        let later = |later: &Workload| later.heartbeat > before.heartbeat;
        let progress = kubelet.workload_until(subject, Duration::from_secs(5), later).await;
        assert!(progress.unwrap().is_some_and(|later| later.same_process(&before)));
    }
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_container_is_unfrozen_at_the_end() {
    let kubelet_under_test = RunningKubelet::with_preset(Some("left-frozen")).await;
    let (output, stdout) = kubelet_under_test
        .run_harness(&["--filter", "kubelet/container/keeps-running"])
        .await;
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let subject = kubelet_under_test.kubelet.container_under_test.to_string();
    assert!(
        stderr.contains(&format!("container {subject} was left frozen: ")),
        "{stderr}"
    );
    let before = kubelet_under_test
        .kubelet
        .workload(&kubelet_under_test.kubelet.container_under_test)
        .await
        .unwrap();
    let progress = kubelet_under_test
        .kubelet
        .workload_until(
            &kubelet_under_test.kubelet.container_under_test,
            Duration::from_secs(5),
            |later| later.heartbeat > before.heartbeat,
        )
        .await
        .unwrap();
    assert!(
        progress.is_some_and(|later| later.same_process(&before)),
        "the container is frozen"
    );
    kubelet_under_test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_endpoint_asks_for_the_feature_gate() {
    let kubelet_under_test = RunningKubelet::start().await;
    kubelet_under_test
        .kubelet
        .restart(KubeletConfig::GateOff)
        .await
        .unwrap()
        .unwrap();
    // The restarted kubelet has new certificates.
    kubelet_under_test.write_credentials().await;
    let (output, stdout) = kubelet_under_test
        .run_harness(&["--filter", "kubelet/checkpoint/succeeds"])
        .await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stdout}\n{stderr}");
    // The report wraps long values.
    let words: Vec<_> = stdout.split_whitespace().collect();
    assert!(
        words
            .join(" ")
            .contains("is the feature gate ContainerCheckpoint of the kubelet enabled?"),
        "{stdout}"
    );
    kubelet_under_test.end().await;
}
