//! The static Pods of the reference kubelet, over a runtime that writes down what it is told.

use cri_proto::runtime::v1::{
    ContainerState, CreateContainerRequest, PodSandboxState, RunPodSandboxRequest, StopContainerRequest,
};
use http::StatusCode;

use scripted::kubelet::{Bench, WEB};

mod scripted;

const RUNNING: ContainerState = ContainerState::ContainerRunning;
const EXITED: ContainerState = ContainerState::ContainerExited;

#[tokio::test]
async fn a_pod_is_started_as_a_kubelet_starts_it() {
    let bench = Bench::with(|_| {}).await;
    bench.end_init().await;
    bench
        .until_pods("it runs", |pods| pods["items"][0]["status"]["phase"] == "Running")
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
        bench.runtime.order(),
        [&steps[..], &rest].concat(),
        "the image is pulled once"
    );

    let sandbox = bench
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
    let logs = bench.root().join(format!("pod-logs/default_web-node_{}", metadata.uid));
    assert_eq!(sandbox.log_directory, logs.display().to_string());

    let containers: Vec<CreateContainerRequest> = bench.runtime.messages("CreateContainer");
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
async fn logs_are_served_without_their_prefix() {
    let bench = Bench::start().await;
    let text = |path: &'static str| async { bench.get(path).await.text().await.unwrap() };
    assert_eq!(text("/containerLogs/default/web-node/app").await, "hello from app\n");
    assert_eq!(
        text("/containerLogs/default/web-node/first?tailLines=5").await,
        "hello from first\n"
    );
    assert_eq!(
        text("/containerLogs/default/nope/app").await,
        "pod \"nope\" does not exist"
    );
    let missing = bench.get("/containerLogs/default/web-node/nope").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        missing.text().await.unwrap(),
        "container \"nope\" not found in pod \"web-node\""
    );
    let previous = bench.get("/containerLogs/default/web-node/app?previous=true").await;
    assert_eq!(previous.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_container_that_ends_is_started_again_and_its_last_run_kept() {
    let bench = Bench::start().await;
    for attempt in 1..=3 {
        bench.runtime.exit("app", 3);
        let again = |name: &str, number: u32| (name.to_owned(), number, RUNNING);
        bench
            .runtime
            .until("it runs again", |runtime| {
                runtime.containers().contains(&again("app", attempt))
            })
            .await;
    }
    bench
        .until_pods("the restarts are told", |pods| {
            let app = &pods["items"][0]["status"]["containerStatuses"][0];
            app["restartCount"] == 3 && app["lastState"]["terminated"]["exitCode"] == 3 && app["ready"] == true
        })
        .await;
    let kept = |runtime: &scripted::runtime::Runtime| {
        let runs = runtime.containers();
        runs.iter()
            .filter(|(name, ..)| name == "app")
            .map(|(_, attempt, _)| *attempt)
            .collect::<Vec<_>>()
            == [2, 3]
    };
    bench.runtime.until("older runs are removed", kept).await;
    assert_eq!(bench.runtime.messages::<RunPodSandboxRequest>("RunPodSandbox").len(), 1);
    let first = bench
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
async fn a_pod_that_is_never_restarted_ends() {
    let bench = Bench::with(|config| {
        let path = config.static_pod_path.clone().unwrap().join("web.yaml");
        std::fs::write(path, WEB.replace("spec:", "spec:\n  restartPolicy: Never")).unwrap();
    })
    .await;
    bench.ready().await;
    bench.runtime.exit("app", 0);
    bench.runtime.exit("side", 1);
    bench
        .until_pods("it has failed", |pods| pods["items"][0]["status"]["phase"] == "Failed")
        .await;
    let answer = bench.post("/checkpoint/default/web-node/app").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = "checkpointing of default/web-node/app failed (container app not found)";
    assert_eq!(answer.text().await.unwrap(), text);
    assert_eq!(bench.runtime.containers().len(), 3, "nothing was started again");
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_what_the_container_waits_for() {
    let bench = Bench::with(|config| {
        let path = config.static_pod_path.clone().unwrap().join("web.yaml");
        let text =
            "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: app, image: missing}]}}";
        std::fs::write(path, text).unwrap();
    })
    .await;
    bench
        .until_pods("the reason is told", |pods| {
            let waiting = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "ErrImagePull" && waiting["message"].as_str().unwrap().contains("code = NotFound")
        })
        .await;
    let answer = bench.post("/checkpoint/default/web-node/app").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn another_kubelet_finds_the_pods_again() {
    let bench = Bench::start().await;
    let Bench {
        runtime,
        kubelet,
        folder,
        ..
    } = bench;
    kubelet.shutdown().await;
    assert_eq!(runtime.sandboxes().len(), 1, "they run on");
    let bench = Bench::over(runtime, folder, |config| config.remove_pods_at_shutdown = true).await;
    bench
        .until_pods("it runs", |pods| pods["items"][0]["status"]["phase"] == "Running")
        .await;
    assert_eq!(bench.runtime.messages::<RunPodSandboxRequest>("RunPodSandbox").len(), 1);
    assert_eq!(
        bench
            .runtime
            .messages::<CreateContainerRequest>("CreateContainer")
            .len(),
        3
    );

    let Bench {
        runtime,
        kubelet,
        folder,
        ..
    } = bench;
    kubelet.shutdown().await;
    assert!(
        runtime.sandboxes().is_empty() && runtime.containers().is_empty(),
        "they are removed when that is asked for"
    );
    assert_eq!(
        std::fs::read_dir(folder.path().join("root/pod-logs")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_pod_goes_with_its_manifest() {
    let bench = Bench::start().await;
    let manifest = bench.folder.path().join("manifests/web.yaml");
    std::fs::write(&manifest, WEB.replace("web", "shop")).unwrap();
    let only = |runtime: &scripted::runtime::Runtime| {
        let names: Vec<_> = runtime
            .sandboxes()
            .into_iter()
            .map(|(config, _)| config.metadata.unwrap().name)
            .collect();
        names == ["shop-node"]
    };
    bench.runtime.until("the other Pod has taken its place", only).await;
    let stops: Vec<StopContainerRequest> = bench.runtime.messages("StopContainer");
    assert_eq!(
        stops.iter().map(|stop| stop.timeout).collect::<Vec<_>>(),
        [30, 30],
        "with their grace period"
    );
    assert_eq!(
        bench
            .post("/checkpoint/default/web-node/app")
            .await
            .text()
            .await
            .unwrap(),
        "pod does not exist"
    );

    std::fs::remove_file(&manifest).unwrap();
    bench
        .runtime
        .until("nothing is left", |runtime| runtime.sandboxes().is_empty())
        .await;
}

#[tokio::test]
async fn a_sandbox_that_is_lost_is_replaced() {
    let bench = Bench::start().await;
    bench.runtime.lose_sandboxes();
    let ready = |runtime: &scripted::runtime::Runtime| {
        let ready = runtime
            .sandboxes()
            .into_iter()
            .filter(|(_, state)| *state == PodSandboxState::SandboxReady);
        ready
            .map(|(config, _)| config.metadata.unwrap().attempt)
            .collect::<Vec<_>>()
            == [1]
    };
    bench.runtime.until("a new sandbox", ready).await;
    let first = |runtime: &scripted::runtime::Runtime| runtime.containers().contains(&("first".to_owned(), 1, RUNNING));
    bench.runtime.until("its init container runs", first).await;
    bench.runtime.exit("first", 0);
    // A start that came too late for the old sandbox may have used up an attempt.
    let again =
        |(name, attempt, state): &(String, u32, ContainerState)| name == "app" && *attempt > 0 && *state == RUNNING;
    let app = |runtime: &scripted::runtime::Runtime| runtime.containers().iter().any(again);
    bench.runtime.until("its container runs", app).await;
}
