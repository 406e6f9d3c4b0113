//! Faults, journal and conditions of a real fake-cri, through the command line and the control API.

use crate::{cri, fault_server};

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use cri::{Cri, annotated, builder, pod_config};
use cri_proto::runtime::v1;
use fake_cri::fault::Rpc;
use fault_server::call;
use futures_util::StreamExt as _;
use tonic::{Code, Request};

fn run_fake_cri(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fake-cri"))
        .args(args)
        .env_remove("FAKE_CRI_CONTROL")
        .output()
        .expect("the command starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn errors_can_be_injected_into_every_served_rpc() {
    let cri = Cri::start().await;
    let control = cri.process.control();
    let channel = fault_server::connect(cri.process.socket()).await;
    for (index, rpc) in Rpc::all().iter().enumerate() {
        let code = Code::from_i32(index as i32 % 16 + 1);
        let message = format!("no {} today", rpc.name());
        control
            .add_faults([format!("{}:before=error({code:?},{message:?})", rpc.name())])
            .await
            .expect("a valid rule");
        let status = call(channel.clone(), rpc.path(), Request::new(Vec::new()))
            .await
            .expect_err("an error");
        assert_eq!(
            (status.code(), status.message()),
            (code, message.as_str()),
            "{}",
            rpc.name()
        );
    }
    let journal = control.journal(0).await.expect("the journal");
    let methods: Vec<_> = journal.iter().map(|entry| entry.method.as_str()).collect();
    assert_eq!(methods, Rpc::all().iter().map(Rpc::short_path).collect::<Vec<_>>());
    assert!(journal.iter().all(|entry| entry.faults.len() == 1));
    assert_eq!(control.clear_faults(&[]).await.expect("the call succeeds"), 43);
    cri.runtime()
        .version(v1::VersionRequest::default())
        .await
        .expect("no rule is left");
}

#[tokio::test]
async fn fault_commands_control_a_running_fake_cri() {
    let cri = Cri::start_with(builder().fault("Status(nth=1):before=error(Aborted,\"from the flag\")")).await;
    let endpoint = cri.process.control_endpoint();
    let status = cri
        .runtime()
        .status(v1::StatusRequest::default())
        .await
        .expect_err("the fault of the flag");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "from the flag"));

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, "[[fault]]\npreset = \"hang\"\ncontainer = \"app\"\n").expect("the file is writable");
    let path = file.path().to_str().expect("UTF-8");
    let added = run_fake_cri(&[
        "fault",
        "add",
        "Version:before=disconnect; preset:crash",
        "--file",
        path,
        "--control",
        &endpoint,
    ]);
    assert_eq!(text(&added.stdout), "f2\nf3\nf4\n", "{}", text(&added.stderr));

    let listed = run_fake_cri(&["fault", "list", "--control", &endpoint]);
    let expected = "f1\tmatched=1\tfired=1\tsource=flag\tStatus(nth=1):before=error(Aborted,\"from the flag\")\n\
                    f2\tmatched=0\tfired=0\tsource=control\tCheckpointContainer(container=app):before=hang\n\
                    f3\tmatched=0\tfired=0\tsource=control\tVersion:before=disconnect\n\
                    f4\tmatched=0\tfired=0\tsource=control\tCheckpointContainer:write=crash\n";
    assert_eq!(text(&listed.stdout), expected);
    assert_eq!(
        text(&run_fake_cri(&["fault", "clear", "f1", "--control", &endpoint]).stdout),
        "cleared 1\n"
    );
    assert_eq!(
        text(&run_fake_cri(&["fault", "clear", "--control", &endpoint]).stdout),
        "cleared 3\n"
    );

    let journal = run_fake_cri(&["journal", "--json", "--control", &endpoint]);
    let lines: Vec<serde_json::Value> = text(&journal.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("valid JSON"))
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["method"], "RuntimeService/Status");
    assert_eq!(
        (&lines[0]["code"], &lines[0]["message"]),
        (&"Aborted".into(), &"from the flag".into())
    );
    assert_eq!(
        (&lines[0]["faults"], &lines[0]["request"]),
        (&serde_json::json!(["f1"]), &serde_json::json!({}))
    );
    let plain = run_fake_cri(&["journal", "--control", &endpoint]);
    let plain = text(&plain.stdout);
    assert!(
        plain.starts_with("1 ") && plain.ends_with("\"from the flag\" faults=f1\n"),
        "{plain}"
    );

    // Without --control, the socket in the state directory is used. This fake-cri listens elsewhere.
    let state = cri.process.state_dir().to_str().expect("UTF-8");
    let nobody = run_fake_cri(&["fault", "list", "--state-dir", state]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        text(&nobody.stderr).starts_with("fake-cri: cannot reach fake-cri at "),
        "{}",
        text(&nobody.stderr)
    );
}

#[test]
fn a_bad_rule_flag_names_its_column() {
    for args in [
        ["serve", "--fault", "Version:befor=hang"],
        ["fault", "add", "Version:befor=hang"],
    ] {
        let output = run_fake_cri(&args);
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains("column 9: expected a point"), "{error}");
        assert!(error.contains("\n  Version:befor=hang\n          ^"), "{error}");
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = dir.path().to_str().expect("UTF-8");
    let socket = format!("unix://{state}/cri.sock");
    let file = "/nonexistent.toml";
    let output = run_fake_cri(&["serve", "--fault-file", file, "--state-dir", state, "--listen", &socket]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cannot read /nonexistent.toml"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_pods_annotation_makes_that_pod_fail() {
    let cri = Cri::start().await;
    let fault = "StopPodSandbox(times=1):before=error(Internal,\"stuck\")";
    let mut config = pod_config("faulty");
    config.annotations = annotated(&[("fault", fault)]);
    let (faulty, well) = (cri.run_pod(config.clone()).await, cri.run_pod(pod_config("well")).await);
    let stop = async |id: &str| {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        cri.runtime().stop_pod_sandbox(request).await
    };
    stop(&well).await.expect("a call about another pod");
    // A unique prefix of the id is enough, as for all calls.
    assert_eq!(
        stop(&faulty[..12]).await.expect_err("the injected error").message(),
        "stuck"
    );
    stop(&faulty).await.expect("the second call succeeds");

    config.annotations = annotated(&[("fault", "StopPodSandbox:sometime=hang")]);
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let status = cri
        .runtime()
        .run_pod_sandbox(request)
        .await
        .expect_err("an invalid annotation");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("annotation fake-cri.dev/fault: column 16: expected a point"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_hang_blocks_neither_other_calls_nor_shutdown() {
    let cri = Cri::start_with(builder().fault("Version:before=hang")).await;
    let mut client = cri.runtime();
    let hanging = tokio::spawn(async move { client.version(v1::VersionRequest::default()).await });
    let control = cri.process.control();
    while control.list_faults().await.expect("a list")[0].fired == 0 {
        tokio::task::yield_now().await;
    }
    cri.runtime()
        .status(v1::StatusRequest::default())
        .await
        .expect("another call");
    let start = Instant::now();
    assert!(cri.process.shutdown().await.is_some_and(|status| status.success()));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    hanging.await.expect("no panic").expect_err("the server was killed");
}

#[tokio::test]
async fn status_reports_the_set_conditions() {
    let cri = Cri::start().await;
    let ready = async || {
        let answer = cri
            .runtime()
            .status(v1::StatusRequest::default())
            .await
            .expect("a status")
            .into_inner();
        let conditions = answer.status.expect("a status").conditions;
        let ready = |kind| {
            conditions
                .iter()
                .any(|condition| condition.r#type == kind && condition.status)
        };
        (ready("RuntimeReady"), ready("NetworkReady"))
    };
    assert_eq!(ready().await, (true, true));
    cri.process
        .control()
        .set_conditions(None, Some(false))
        .await
        .expect("the call succeeds");
    assert_eq!(ready().await, (true, false));
    cri.process
        .control()
        .set_conditions(Some(false), Some(true))
        .await
        .expect("the call succeeds");
    assert_eq!(ready().await, (false, true));
}

#[tokio::test]
async fn journal_and_log_contain_no_secret() {
    const SECRET: &str = "correct-horse-battery-staple";
    let mut cri = Cri::start_with(builder().env("FAKE_CRI_LOG", "trace")).await;
    let pull = v1::PullImageRequest {
        image: Some(cri::image("registry.example/private")),
        auth: Some(v1::AuthConfig {
            username: SECRET.to_owned(),
            password: SECRET.to_owned(),
            registry_token: SECRET.to_owned(),
            ..Default::default()
        }),
        sandbox_config: None,
    };
    cri.images().pull_image(pull).await.expect("the image is pulled");
    let pod = cri.pod("secrets").await;
    let mut config = cri::container_config("app");
    config.envs = vec![v1::KeyValue {
        key: "TOKEN".to_owned(),
        value: SECRET.into(),
    }];
    let last_applied = "kubectl.kubernetes.io/last-applied-configuration";
    config.annotations = [(last_applied.to_owned(), SECRET.to_owned())].into();
    let id = pod.run(config).await;
    cri.status_and_info(&id).await.expect("a status");
    cri.stop(&id, 0).await.expect("the process stops");
    cri.remove(&id).await.expect("the request succeeds");
    let journal = cri.process.control().journal(0).await.expect("the journal");
    let names = ["PullImage", "CreateContainer", "ContainerStatus"];
    assert!(
        names
            .iter()
            .all(|name| journal.iter().any(|entry| entry.method.ends_with(name)))
    );
    let created = journal
        .iter()
        .find(|entry| entry.method.ends_with("CreateContainer"))
        .expect("the process existed");
    assert!(
        created.request.contains("TOKEN") && created.request.contains(last_applied),
        "{}",
        created.request
    );
    assert!(!format!("{journal:?}").contains(SECRET));
    drop(pod);
    cri.process.kill().await;
    let log = cri.process.log();
    assert!(log.contains("CreateContainer"), "the log was on");
    let leak = log.lines().find(|line| line.contains(SECRET));
    assert_eq!(leak, None);
}

#[tokio::test]
async fn the_journal_can_be_followed() {
    let cri = Cri::start().await;
    let mut entries = cri.process.control().follow_journal(0).await.expect("a stream");
    for sequence in 1..=3 {
        cri.runtime()
            .version(v1::VersionRequest::default())
            .await
            .expect("a version");
        let entry = tokio::time::timeout(cri::WAIT_TIMEOUT, entries.next())
            .await
            .expect("an immediate entry");
        let entry = entry.expect("the process continues").expect("no error");
        assert_eq!(
            (entry.sequence, entry.method.as_str()),
            (sequence, "RuntimeService/Version")
        );
        assert!(entry.response.contains("fake-cri"), "{}", entry.response);
    }
}

#[rstest::rstest]
#[case("before")]
#[case("after")]
#[tokio::test]
async fn state_survives_an_injected_crash(#[case] point: &str) {
    let mut cri = Cri::start().await;
    let pod = cri.run_pod(pod_config("web")).await;
    let fault = format!("StopPodSandbox:{point}=crash");
    cri.process.control().add_faults([fault]).await.expect("a valid rule");
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    cri.runtime()
        .stop_pod_sandbox(request)
        .await
        .expect_err("fake-cri was killed");
    let status = cri.process.wait_exit().await.expect("fake-cri was running");
    assert_eq!(status.to_string(), "signal: 9 (SIGKILL)");
    cri.process.restart().await.expect("fake-cri restarts");
    let state = cri.pod_status(&pod).await.expect("the pod is known").state();
    let expected = match point {
        "before" => v1::PodSandboxState::SandboxReady,
        _ => v1::PodSandboxState::SandboxNotready,
    };
    assert_eq!(state, expected, "{point}");
    assert!(
        cri.process.control().list_faults().await.expect("a list").is_empty(),
        "rules end with the process"
    );
}
