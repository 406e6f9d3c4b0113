//! The life of containers, over a real socket and with real processes.

use crate::cri;

use std::time::{Duration, Instant};

use cri::{Cri, IMAGE, alive, annotated, builder, code, container_config, image, pod_config};
use cri_proto::runtime::v1::{self, ContainerState};
use rstest::rstest;
use tonic::Code;

#[tokio::test]
async fn container_lifecycle() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config
        .labels
        .insert("io.kubernetes.container.name".to_owned(), "app".to_owned());
    config.annotations.insert("note".to_owned(), "as sent".to_owned());
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: "/tmp".to_owned(),
        readonly: true,
        ..Default::default()
    });
    let id = pod.create(config.clone()).await.unwrap();
    assert_eq!(id.len(), 64);
    let created = cri.status(&id).await.unwrap();
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert_eq!((created.started_at, created.finished_at, cri.pid(&id).await), (0, 0, 0));
    assert_eq!(
        (&created.labels, &created.annotations),
        (&config.labels, &config.annotations)
    );
    assert_eq!(
        (created.metadata, created.mounts),
        (config.metadata.clone(), Vec::new()),
        "no mount is made, so none is told of"
    );
    assert_eq!(created.image_id.len(), "sha256:".len() + 64);
    assert!(created.log_path.ends_with("app/0.log"));

    cri.start_container(&id).await.unwrap();
    let running = cri.status(&id).await.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at && running.created_at > 1_600_000_000_000_000_000);
    let pid = cri.pid(&id).await;
    assert!(alive(pid));
    let log = pod.wait_logged("app", &format!("pid={pid}")).await;
    let line: Vec<_> = log.lines().next().unwrap().splitn(4, ' ').collect();
    assert!(
        line[0].contains('T') && (line[0].ends_with('Z') || line[0].contains('+')),
        "{line:?}"
    );
    assert_eq!((line[1], line[2]), ("stdout", "F"), "{line:?}");

    cri.stop(&id, 10).await.unwrap();
    let exited = cri.status(&id).await.unwrap();
    assert_eq!(exited.state(), ContainerState::ContainerExited);
    assert_eq!((exited.exit_code, exited.reason.as_str()), (0, "Completed"));
    assert!(exited.finished_at >= running.started_at);
    assert!(!alive(pid));
    assert_eq!(cri.pid(&id).await, 0);

    cri.remove(&id).await.unwrap();
    assert_eq!(code(cri.status(&id).await), Code::NotFound);
    assert!(pod.logs.path().join("app/0.log").exists(), "the log is the caller's");
}

#[tokio::test]
async fn stop_and_remove_are_idempotent_in_every_state() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let created = pod.create(container_config("created")).await.unwrap();
    let running = pod.run(container_config("running")).await;
    let exited = pod.run(container_config("exited")).await;
    cri.stop(&exited, 0).await.unwrap();
    for id in [&created, &running, &exited] {
        cri.stop(id, 5).await.unwrap();
        cri.stop(id, 5).await.unwrap();
        cri.remove(id).await.unwrap();
        cri.remove(id).await.unwrap();
        cri.stop(id, 5).await.unwrap();
    }
    let unknown = "f".repeat(64);
    cri.stop(&unknown, 0).await.unwrap();
    cri.remove(&unknown).await.unwrap();
    assert_eq!(code(cri.start_container(&unknown).await), Code::NotFound);
}

#[tokio::test]
async fn only_a_created_container_starts() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let error = cri.start_container(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("CONTAINER_RUNNING"), "{error}");
    cri.stop(&id, 0).await.unwrap();
    let error = cri.start_container(&id).await.unwrap_err();
    assert!(error.message().contains("CONTAINER_EXITED"), "{error}");
}

#[tokio::test]
async fn stop_waits_for_the_grace_period_then_kills() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("on-sigterm", "ignore"), ("children", "2")]);
    let id = pod.run(config).await;
    let pid = cri.pid(&id).await;
    pod.wait_logged("app", "ready").await;
    let start = Instant::now();
    cri.stop(&id, 1).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let status = cri.status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(!alive(pid));
}

#[tokio::test]
async fn removing_a_running_container_kills_it() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let pid = cri.pid(&id).await;
    cri.remove(&id).await.unwrap();
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_stopped_pod_runs_and_accepts_no_container() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let waiting = pod.create(container_config("waiting")).await.unwrap();
    let running = pod.run(container_config("running")).await;
    let pid = cri.pid(&running).await;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    cri.runtime().stop_pod_sandbox(request).await.unwrap();
    assert!(!alive(pid));
    assert_eq!(
        cri.status(&running).await.unwrap().state(),
        ContainerState::ContainerExited
    );
    assert_eq!(code(cri.start_container(&waiting).await), Code::FailedPrecondition);
    assert_eq!(
        code(pod.create(container_config("new")).await),
        Code::FailedPrecondition
    );
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    cri.runtime().remove_pod_sandbox(request).await.unwrap();
    assert_eq!(code(cri.status(&running).await), Code::NotFound);
}

#[tokio::test]
async fn exit_codes_and_reasons_are_reported() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    for (name, exit_code, reason) in [("fine", "0", "Completed"), ("broken", "3", "Error")] {
        let mut config = container_config(name);
        config.annotations = annotated(&[("exit-after", "10ms"), ("exit-code", exit_code)]);
        let id = pod.run(config).await;
        let status = cri.wait_exited(&id).await;
        assert_eq!(
            (status.exit_code.to_string().as_str(), status.reason.as_str()),
            (exit_code, reason)
        );
    }
}

#[tokio::test]
async fn a_pod_annotation_applies_to_the_named_container() {
    let cri = Cri::start().await;
    let mut config = pod_config("web");
    config.annotations = annotated(&[("exit-code", "4"), ("exit-after", "10ms"), ("exit-code.other", "5")]);
    let pod = cri.pod_with_config(config).await;
    let (app, other) = (
        pod.run(container_config("app")).await,
        pod.run(container_config("other")).await,
    );
    assert_eq!(cri.wait_exited(&app).await.exit_code, 4);
    assert_eq!(cri.wait_exited(&other).await.exit_code, 5);
}

#[tokio::test]
async fn name_and_attempt_are_unique_in_a_pod() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let first = pod.create(container_config("app")).await.unwrap();
    let error = pod.create(container_config("app")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains(&first), "{error}");
    let mut second = container_config("app");
    second.metadata.as_mut().unwrap().attempt = 1;
    pod.create(second).await.unwrap();
    cri.pod("other").await.create(container_config("app")).await.unwrap();
    cri.remove(&first).await.unwrap();
    pod.create(container_config("app")).await.unwrap();
}

#[tokio::test]
async fn a_failed_create_leaves_its_name_free() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.image = Some(image("example.com/not-pulled"));
    let error = pod.create(config.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("example.com/not-pulled"), "{error}");
    config.image = Some(image(IMAGE));
    config.annotations = annotated(&[("memory", "much")]);
    let error = pod.create(config.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("fake-cri.dev/memory"), "{error}");
    config.annotations.clear();
    pod.create(config).await.unwrap();
}

#[rstest]
#[case::no_config(None)]
#[case::no_metadata(Some(v1::ContainerConfig { metadata: None, ..container_config("a") }))]
#[case::no_name(Some(container_config("")))]
#[case::no_image(Some(v1::ContainerConfig { image: None, ..container_config("a") }))]
#[case::empty_image(Some(v1::ContainerConfig { image: Some(image("")), ..container_config("a") }))]
#[tokio::test]
async fn missing_fields_are_invalid_arguments(#[case] config: Option<v1::ContainerConfig>) {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let request = |pod_sandbox_id: &str| v1::CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.to_owned(),
        config: config.clone(),
        sandbox_config: None,
    };
    assert_eq!(
        code(cri.runtime().create_container(request(&pod.id)).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.runtime().create_container(request("ffff")).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_image_may_be_named_by_id_and_removed() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = cri.pull(IMAGE).await.unwrap();
    let mut config = container_config("app");
    config.image = Some(image(&id));
    let container = pod.create(config).await.unwrap();
    let request = v1::RemoveImageRequest {
        image: Some(image(&id)),
    };
    cri.images().remove_image(request).await.unwrap();
    cri.start_container(&container).await.unwrap();
    let status = cri.status(&container).await.unwrap();
    assert_eq!(status.image_id, id);
    assert_eq!(status.image.unwrap().image, IMAGE);
}

#[rstest]
#[case::all(|_: &[String], _: &[String]| v1::ContainerFilter::default(), &[0, 1, 2])]
#[case::id(|ids: &[String], _: &[String]| v1::ContainerFilter { id: ids[1].clone(), ..Default::default() }, &[1])]
#[case::prefix(|ids: &[String], _: &[String]| v1::ContainerFilter { id: ids[1][..20].to_owned(), ..Default::default() }, &[1])]
#[case::unknown(|_: &[String], _: &[String]| v1::ContainerFilter { id: "zz".to_owned(), ..Default::default() }, &[])]
#[case::created(|_: &[String], _: &[String]| v1::ContainerFilter { state: state_filter(ContainerState::ContainerCreated), ..Default::default() }, &[0])]
#[case::running(|_: &[String], _: &[String]| v1::ContainerFilter { state: state_filter(ContainerState::ContainerRunning), ..Default::default() }, &[1])]
#[case::exited(|_: &[String], _: &[String]| v1::ContainerFilter { state: state_filter(ContainerState::ContainerExited), ..Default::default() }, &[2])]
#[case::pod(|_: &[String], pods: &[String]| v1::ContainerFilter { pod_sandbox_id: pods[0][..20].to_owned(), ..Default::default() }, &[0, 1])]
#[case::no_pod(|_: &[String], _: &[String]| v1::ContainerFilter { pod_sandbox_id: "zz".to_owned(), ..Default::default() }, &[])]
#[case::label(|_: &[String], _: &[String]| v1::ContainerFilter { label_selector: [("index".to_owned(), "2".to_owned())].into(), ..Default::default() }, &[2])]
#[case::all_fields(
    |ids: &[String], pods: &[String]| v1::ContainerFilter {
        id: ids[1].clone(),
        state: state_filter(ContainerState::ContainerRunning),
        pod_sandbox_id: pods[0].clone(),
        label_selector: [("index".to_owned(), "1".to_owned())].into(),
    },
    &[1]
)]
#[case::wrong_pod(
    |ids: &[String], pods: &[String]| v1::ContainerFilter { id: ids[1].clone(), pod_sandbox_id: pods[1].clone(), ..Default::default() },
    &[]
)]
#[tokio::test]
async fn container_filters_apply_every_field(
    #[case] filter: fn(&[String], &[String]) -> v1::ContainerFilter,
    #[case] expected: &[usize],
) {
    let cri = Cri::start().await;
    let (pod, other) = (cri.pod("web").await, cri.pod("other").await);
    let mut ids = Vec::new();
    for (index, pod) in [&pod, &pod, &other].into_iter().enumerate() {
        let mut config = container_config(&format!("c{index}"));
        config.labels = [("index".to_owned(), index.to_string())].into();
        ids.push(pod.create(config).await.unwrap());
    }
    for id in &ids[1..] {
        cri.start_container(id).await.unwrap();
    }
    cri.stop(&ids[2], 0).await.unwrap();

    let filter = filter(&ids, &[pod.id.clone(), other.id.clone()]);
    let index = |id: &String| ids.iter().position(|known| known == id).unwrap();
    let request = v1::ListContainersRequest {
        filter: Some(filter.clone()),
    };
    let containers = cri
        .runtime()
        .list_containers(request)
        .await
        .unwrap()
        .into_inner()
        .containers;
    let found: Vec<_> = containers.iter().map(|container| index(&container.id)).collect();
    assert_eq!(found, expected);

    // The filter of the stats has the same fields except the state.
    if filter.state.is_none() {
        let request = v1::ListContainerStatsRequest {
            filter: Some(v1::ContainerStatsFilter {
                id: filter.id,
                pod_sandbox_id: filter.pod_sandbox_id,
                label_selector: filter.label_selector,
            }),
        };
        let stats = cri
            .runtime()
            .list_container_stats(request)
            .await
            .unwrap()
            .into_inner()
            .stats;
        let found: Vec<_> = stats
            .iter()
            .map(|stats| index(&stats.attributes.as_ref().unwrap().id))
            .collect();
        assert_eq!(found, expected);
    }
}

fn state_filter(state: ContainerState) -> Option<v1::ContainerStateValue> {
    Some(v1::ContainerStateValue { state: state as i32 })
}

#[tokio::test]
async fn a_missing_command_fails_with_the_runc_error() {
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = vec!["no-such-command".to_owned()];
    let id = pod.create(config).await.unwrap();
    let error = cri.start_container(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    let expected = r#"unable to start container process: exec: "no-such-command": executable file not found in $PATH"#;
    assert!(error.message().contains(expected), "{error}");
    let status = cri.status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 128)
    );
    assert_eq!(status.reason, "StartError");
    assert!(status.message.contains("no-such-command"));
}
