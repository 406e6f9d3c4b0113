//! The static Pods of the reference kubelet, with a runtime that records its calls.

use cri_proto::runtime::v1::{
    ContainerState, CreateContainerRequest, PodSandboxState, RunPodSandboxRequest, StopContainerRequest,
};
use http::StatusCode;

use crate::scripted::{
    kubelet::{TestKubelet, WEB_POD},
    runtime::ScriptedRuntime,
};

const RUNNING: ContainerState = ContainerState::ContainerRunning;
const EXITED: ContainerState = ContainerState::ContainerExited;

#[tokio::test]
async fn starts_a_pod_like_the_kubelet() {
    let kubelet_under_test = TestKubelet::with_config(|_| {}).await;
    kubelet_under_test.finish_init_container().await;
    kubelet_under_test
        .wait_for_pods("it runs", |pods| pods["items"][0]["status"]["phase"] == "Running")
        .await;
    let steps = [
        "RunPodSandbox",
        "PullImage",
        "CreateContainer",
        "StartContainer",
        "CreateContainer",
        "StartContainer",
    ];
    let rest = ["CreateContainer", "StartContainer"];
    assert_eq!(
        kubelet_under_test.runtime.mutating_calls(),
        [&steps[..], &rest].concat(),
        "the image is pulled once"
    );

    let sandbox = kubelet_under_test
        .runtime
        .messages::<RunPodSandboxRequest>("RunPodSandbox")
        .remove(0)
        .config
        .unwrap();
    let metadata = sandbox.metadata.clone().unwrap();
    assert_eq!(
        (metadata.name.as_str(), metadata.namespace.as_str(), metadata.attempt),
        ("web-node", "default", 0)
    );
    assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], metadata.uid);
    assert_eq!(
        (
            sandbox.labels["app"].as_str(),
            sandbox.annotations["example.dev/of-the-pod"].as_str()
        ),
        ("web", "yes")
    );
    let logs = kubelet_under_test
        .root()
        .join(format!("pod-logs/default_web-node_{}", metadata.uid));
    assert_eq!(sandbox.log_directory, logs.display().to_string());

    let containers: Vec<CreateContainerRequest> = kubelet_under_test.runtime.messages("CreateContainer");
    let names: Vec<_> = containers
        .iter()
        .map(|request| request.config.clone().unwrap().metadata.unwrap().name)
        .collect();
    assert_eq!(names, ["first", "app", "side"]);
    let app = containers[1].config.clone().unwrap();
    assert_eq!(app.labels["io.kubernetes.container.name"], "app");
    assert_eq!(app.labels["io.kubernetes.pod.namespace"], "default");
    assert!(!app.annotations.contains_key("example.dev/of-the-pod"));
    assert_eq!(
        (
            app.log_path.as_str(),
            app.annotations["io.kubernetes.container.restartCount"].as_str()
        ),
        ("app/0.log", "0")
    );
    assert_eq!(containers[1].sandbox_config.clone().unwrap().metadata, sandbox.metadata);
}

#[tokio::test]
async fn serves_logs_without_the_cri_prefix() {
    let kubelet_under_test = TestKubelet::start().await;
    let text = |path: &'static str| async { kubelet_under_test.get(path).await.text().await.unwrap() };
    assert_eq!(text("/containerLogs/default/web-node/app").await, "hello from app\n");
    assert_eq!(
        text("/containerLogs/default/web-node/first?tailLines=5").await,
        "hello from first\n"
    );
    assert_eq!(
        text("/containerLogs/default/nope/app").await,
        "pod \"nope\" does not exist"
    );
    let missing = kubelet_under_test.get("/containerLogs/default/web-node/nope").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        missing.text().await.unwrap(),
        "container \"nope\" not found in pod \"web-node\""
    );
    let previous = kubelet_under_test
        .get("/containerLogs/default/web-node/app?previous=true")
        .await;
    assert_eq!(previous.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn restarts_exited_containers_and_keeps_the_last_run() {
    let kubelet_under_test = TestKubelet::start().await;
    for attempt in 1..=3 {
        kubelet_under_test.runtime.exit_container("app", 3);
        let restarted = |name: &str, number: u32| (name.to_owned(), number, RUNNING);
        kubelet_under_test
            .runtime
            .wait_until("the container is restarted", |runtime| {
                runtime.containers().contains(&restarted("app", attempt))
            })
            .await;
    }
    kubelet_under_test
        .wait_for_pods("the status has the restarts", |pods| {
            let app = &pods["items"][0]["status"]["containerStatuses"][0];
            app["restartCount"] == 3 && app["lastState"]["terminated"]["exitCode"] == 3 && app["ready"] == true
        })
        .await;
    let kept_runs = |runtime: &ScriptedRuntime| {
        let runs = runtime.containers();
        runs.iter()
            .filter(|(name, ..)| name == "app")
            .map(|(_, attempt, _)| *attempt)
            .collect::<Vec<_>>()
            == [2, 3]
    };
    kubelet_under_test
        .runtime
        .wait_until("older runs are removed", kept_runs)
        .await;
    assert_eq!(
        kubelet_under_test
            .runtime
            .messages::<RunPodSandboxRequest>("RunPodSandbox")
            .len(),
        1
    );
    let first = kubelet_under_test
        .runtime
        .containers()
        .into_iter()
        .filter(|(name, ..)| name == "first")
        .collect::<Vec<_>>();
    assert_eq!(
        first,
        [("first".to_owned(), 0, EXITED)],
        "the init container is not run again"
    );
}

#[tokio::test]
async fn pod_with_restart_policy_never_completes() {
    let kubelet_under_test = TestKubelet::with_config(|config| {
        let path = config.static_pod_path.clone().unwrap().join("web.yaml");
        std::fs::write(path, WEB_POD.replace("spec:", "spec:\n  restartPolicy: Never")).unwrap();
    })
    .await;
    kubelet_under_test.wait_until_ready().await;
    kubelet_under_test.runtime.exit_container("app", 0);
    kubelet_under_test.runtime.exit_container("side", 1);
    kubelet_under_test
        .wait_for_pods("Pod failed", |pods| pods["items"][0]["status"]["phase"] == "Failed")
        .await;
    let answer = kubelet_under_test.post("/checkpoint/default/web-node/app").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = "checkpointing of default/web-node/app failed (container app not found)";
    assert_eq!(answer.text().await.unwrap(), text);
    assert_eq!(
        kubelet_under_test.runtime.containers().len(),
        3,
        "no container was restarted"
    );
}

#[tokio::test]
async fn container_waits_with_image_pull_error() {
    let kubelet_under_test = TestKubelet::with_config(|config| {
        let path = config.static_pod_path.clone().unwrap().join("web.yaml");
        let text =
            "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: app, image: missing}]}}";
        std::fs::write(path, text).unwrap();
    })
    .await;
    kubelet_under_test
        .wait_for_pods("the status has the reason", |pods| {
            let waiting = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "ErrImagePull" && waiting["message"].as_str().unwrap().contains("code = NotFound")
        })
        .await;
    let answer = kubelet_under_test.post("/checkpoint/default/web-node/app").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn restarted_kubelet_adopts_running_pods() {
    let kubelet_under_test = TestKubelet::start().await;
    let TestKubelet {
        runtime,
        kubelet,
        directory,
        ..
    } = kubelet_under_test;
    kubelet.shutdown().await;
    assert_eq!(runtime.sandboxes().len(), 1, "the Pods keep running");
    let kubelet_under_test =
        TestKubelet::over_runtime(runtime, directory, |config| config.remove_pods_at_shutdown = true).await;
    kubelet_under_test
        .wait_for_pods("it runs", |pods| pods["items"][0]["status"]["phase"] == "Running")
        .await;
    assert_eq!(
        kubelet_under_test
            .runtime
            .messages::<RunPodSandboxRequest>("RunPodSandbox")
            .len(),
        1
    );
    assert_eq!(
        kubelet_under_test
            .runtime
            .messages::<CreateContainerRequest>("CreateContainer")
            .len(),
        3
    );

    let TestKubelet {
        runtime,
        kubelet,
        directory,
        ..
    } = kubelet_under_test;
    kubelet.shutdown().await;
    assert!(
        runtime.sandboxes().is_empty() && runtime.containers().is_empty(),
        "the Pods are removed with remove_pods_at_shutdown"
    );
    assert_eq!(
        std::fs::read_dir(directory.path().join("root/pod-logs"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn removing_the_manifest_removes_the_pod() {
    let kubelet_under_test = TestKubelet::start().await;
    let manifest = kubelet_under_test.directory.path().join("manifests/web.yaml");
    std::fs::write(&manifest, WEB_POD.replace("web", "shop")).unwrap();
    let only_pod = |runtime: &ScriptedRuntime| {
        let names: Vec<_> = runtime
            .sandboxes()
            .into_iter()
            .map(|(config, _)| config.metadata.unwrap().name)
            .collect();
        names == ["shop-node"]
    };
    kubelet_under_test
        .runtime
        .wait_until("only the new Pod is left", only_pod)
        .await;
    let stops: Vec<StopContainerRequest> = kubelet_under_test.runtime.messages("StopContainer");
    assert_eq!(
        stops.iter().map(|stop| stop.timeout).collect::<Vec<_>>(),
        [30, 30],
        "StopContainer has the grace period"
    );
    assert_eq!(
        kubelet_under_test
            .post("/checkpoint/default/web-node/app")
            .await
            .text()
            .await
            .unwrap(),
        "pod does not exist"
    );

    std::fs::remove_file(&manifest).unwrap();
    kubelet_under_test
        .runtime
        .wait_until("all sandboxes are removed", |runtime| runtime.sandboxes().is_empty())
        .await;
}

#[tokio::test]
async fn replaces_a_lost_sandbox() {
    let kubelet_under_test = TestKubelet::start().await;
    kubelet_under_test.runtime.lose_sandboxes();
    let ready = |runtime: &ScriptedRuntime| {
        let ready = runtime
            .sandboxes()
            .into_iter()
            .filter(|(_, state)| *state == PodSandboxState::SandboxReady);
        ready
            .map(|(config, _)| config.metadata.unwrap().attempt)
            .collect::<Vec<_>>()
            == [1]
    };
    kubelet_under_test
        .runtime
        .wait_until("the Pod has a new sandbox", ready)
        .await;
    let first = |runtime: &ScriptedRuntime| runtime.containers().contains(&("first".to_owned(), 1, RUNNING));
    kubelet_under_test
        .runtime
        .wait_until("the init container runs in the new sandbox", first)
        .await;
    kubelet_under_test.runtime.exit_container("first", 0);
    // A start in the old sandbox that came too late may have used an attempt.
    let restarted =
        |(name, attempt, state): &(String, u32, ContainerState)| name == "app" && *attempt > 0 && *state == RUNNING;
    let app = |runtime: &ScriptedRuntime| runtime.containers().iter().any(restarted);
    kubelet_under_test
        .runtime
        .wait_until("the container runs in the new sandbox", app)
        .await;
}
