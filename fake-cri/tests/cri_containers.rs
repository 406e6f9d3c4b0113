//! Containers from their making to their removal, over a real socket and with real processes.

mod cri;

use std::time::{Duration, Instant};

use cri::{Cri, IMAGE, alive, annotated, builder, code, container_config, image, pod_config};
use cri_proto::runtime::v1::{self, ContainerState};
use rstest::rstest;
use tonic::Code;

#[tokio::test]
async fn a_container_lives_its_life() {
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
        (config.metadata.clone(), config.mounts.clone())
    );
    assert_eq!(created.image_id.len(), "sha256:".len() + 64);
    assert!(created.log_path.ends_with("app/0.log"));

    cri.start_container(&id).await.unwrap();
    let running = cri.status(&id).await.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at && running.created_at > 1_600_000_000_000_000_000);
    let pid = cri.pid(&id).await;
    assert!(alive(pid));
    let log = pod.logged("app", &format!("pid={pid}")).await;
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
    let refused = cri.start_container(&id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("CONTAINER_RUNNING"), "{refused}");
    cri.stop(&id, 0).await.unwrap();
    let refused = cri.start_container(&id).await.unwrap_err();
    assert!(refused.message().contains("CONTAINER_EXITED"), "{refused}");
}

#[tokio::test]
async fn the_grace_period_is_honoured_and_then_everything_is_killed() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("on-term", "ignore"), ("children", "2")]);
    let id = pod.run(config).await;
    let pid = cri.pid(&id).await;
    pod.logged("app", "ready").await;
    let begun = Instant::now();
    cri.stop(&id, 1).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
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
async fn a_stopped_pod_has_no_running_container_and_takes_no_new_one() {
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
async fn exit_codes_and_reasons_are_told() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    for (name, exit_code, reason) in [("fine", "0", "Completed"), ("broken", "3", "Error")] {
        let mut config = container_config(name);
        config.annotations = annotated(&[("exit-after", "10ms"), ("exit-code", exit_code)]);
        let id = pod.run(config).await;
        let status = cri.ended(&id).await;
        assert_eq!(
            (status.exit_code.to_string().as_str(), status.reason.as_str()),
            (exit_code, reason)
        );
    }
}

#[tokio::test]
async fn a_pods_annotation_reaches_the_container_it_names() {
    let cri = Cri::start().await;
    let mut config = pod_config("web");
    config.annotations = annotated(&[("exit-code", "4"), ("exit-after", "10ms"), ("exit-code.other", "5")]);
    let pod = cri.pod_of(config).await;
    let (app, other) = (
        pod.run(container_config("app")).await,
        pod.run(container_config("other")).await,
    );
    assert_eq!(cri.ended(&app).await.exit_code, 4);
    assert_eq!(cri.ended(&other).await.exit_code, 5);
}

#[tokio::test]
async fn a_name_and_attempt_is_given_once_in_a_pod() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let first = pod.create(container_config("app")).await.unwrap();
    let refused = pod.create(container_config("app")).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains(&first), "{refused}");
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
    let refused = pod.create(config.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("example.com/not-pulled"), "{refused}");
    config.image = Some(image(IMAGE));
    config.annotations = annotated(&[("memory", "much")]);
    let refused = pod.create(config.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("fake-cri.dev/memory"), "{refused}");
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
async fn what_is_missing_is_an_invalid_argument(#[case] config: Option<v1::ContainerConfig>) {
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
async fn the_image_may_be_named_by_its_id_and_may_go() {
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
#[case::created(|_: &[String], _: &[String]| v1::ContainerFilter { state: state(ContainerState::ContainerCreated), ..Default::default() }, &[0])]
#[case::running(|_: &[String], _: &[String]| v1::ContainerFilter { state: state(ContainerState::ContainerRunning), ..Default::default() }, &[1])]
#[case::exited(|_: &[String], _: &[String]| v1::ContainerFilter { state: state(ContainerState::ContainerExited), ..Default::default() }, &[2])]
#[case::pod(|_: &[String], pods: &[String]| v1::ContainerFilter { pod_sandbox_id: pods[0][..20].to_owned(), ..Default::default() }, &[0, 1])]
#[case::no_pod(|_: &[String], _: &[String]| v1::ContainerFilter { pod_sandbox_id: "zz".to_owned(), ..Default::default() }, &[])]
#[case::label(|_: &[String], _: &[String]| v1::ContainerFilter { label_selector: [("index".to_owned(), "2".to_owned())].into(), ..Default::default() }, &[2])]
#[case::all_fields(
    |ids: &[String], pods: &[String]| v1::ContainerFilter {
        id: ids[1].clone(),
        state: state(ContainerState::ContainerRunning),
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
async fn the_lists_know_every_field_of_their_filters(
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

    // The list of stats has the same fields but for the state.
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

fn state(state: ContainerState) -> Option<v1::ContainerStateValue> {
    Some(v1::ContainerStateValue { state: state as i32 })
}

#[tokio::test]
async fn stats_tell_memory_and_cpu_time() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("memory", "32Mi")]);
    let id = pod.run(config).await;
    pod.logged("app", "ready").await;
    let request = v1::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = cri
        .runtime()
        .container_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    assert!(memory.rss_bytes.unwrap().value >= 32 << 20, "{memory:?}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert_eq!(stats.attributes.unwrap().id, id);
    let request = v1::ContainerStatsRequest {
        container_id: "ffff".to_owned(),
    };
    assert_eq!(code(cri.runtime().container_stats(request).await), Code::NotFound);
}

#[tokio::test]
async fn updated_resources_are_told() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.create(container_config("app")).await.unwrap();
    let limits = v1::LinuxContainerResources {
        memory_limit_in_bytes: 1 << 30,
        cpu_shares: 512,
        ..Default::default()
    };
    let request = |id: &str| v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits.clone()),
        ..Default::default()
    };
    cri.runtime().update_container_resources(request(&id)).await.unwrap();
    assert_eq!(
        cri.status(&id).await.unwrap().resources.unwrap().linux,
        Some(limits.clone())
    );
    assert_eq!(
        code(cri.runtime().update_container_resources(request("ffff")).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_rotated_log_is_opened_anew() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    pod.logged("app", "tick").await;
    let path = pod.logs.path().join("app/0.log");
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    let request = v1::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    cri.runtime().reopen_container_log(request.clone()).await.unwrap();
    pod.logged("app", "tick").await;
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(
        code(cri.runtime().reopen_container_log(request).await),
        Code::FailedPrecondition
    );
}

fn exec(id: &str, cmd: &[&str], timeout: i64) -> v1::ExecSyncRequest {
    v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: cmd.iter().map(|&part| part.to_owned()).collect(),
        timeout,
    }
}

#[tokio::test]
async fn exec_answers_as_annotated() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("exec-stdout", "hello"), ("exec-stderr", "oh"), ("exec-code", "7")]);
    let id = pod.run(config).await;
    let answer = cri
        .runtime()
        .exec_sync(exec(&id, &["ls"], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.stdout, answer.stderr, answer.exit_code),
        (b"hello".to_vec(), b"oh".to_vec(), 7)
    );
    let plain = pod.run(container_config("plain")).await;
    let answer = cri
        .runtime()
        .exec_sync(exec(&plain, &["ls"], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.stdout, answer.exit_code), (Vec::new(), 0));
    let mut config = container_config("slow");
    config.annotations = annotated(&[("exec-delay", "1h")]);
    let slow = pod.run(config).await;
    assert_eq!(
        code(cri.runtime().exec_sync(exec(&slow, &["ls"], 1)).await),
        Code::DeadlineExceeded
    );
    assert_eq!(
        code(cri.runtime().exec_sync(exec(&id, &[], 0)).await),
        Code::InvalidArgument
    );
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(
        code(cri.runtime().exec_sync(exec(&id, &["ls"], 0)).await),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn with_exec_host_the_command_runs_with_its_environment() {
    let cri = Cri::with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = ["/bin/sh", "-c"].map(str::to_owned).into();
    config.args = vec!["echo value=$KEY host=$HOSTNAME; echo oops >&2; exec sleep 1000".to_owned()];
    config.envs = vec![v1::KeyValue {
        key: "KEY".to_owned(),
        value: b"a b".to_vec(),
    }];
    let id = pod.run(config).await;
    let log = pod.logged("app", "stderr F oops").await;
    assert!(log.contains("stdout F value=a b host=web"), "{log}");
    let script = "echo $KEY; echo no >&2; exit 3";
    let answer = cri
        .runtime()
        .exec_sync(exec(&id, &["/bin/sh", "-c", script], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.stdout, answer.stderr, answer.exit_code),
        (b"a b\n".to_vec(), b"no\n".to_vec(), 3)
    );
    assert_eq!(
        code(cri.runtime().exec_sync(exec(&id, &["sleep", "1000"], 1)).await),
        Code::DeadlineExceeded
    );
    assert_eq!(
        code(cri.runtime().exec_sync(exec(&id, &["no-such-command"], 0)).await),
        Code::Unknown
    );
}

#[tokio::test]
async fn a_missing_command_fails_the_start_as_runc_says_it() {
    let cri = Cri::with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = vec!["no-such-command".to_owned()];
    let id = pod.create(config).await.unwrap();
    let failed = cri.start_container(&id).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unknown);
    let expected = r#"unable to start container process: exec: "no-such-command": executable file not found in $PATH"#;
    assert!(failed.message().contains(expected), "{failed}");
    let status = cri.status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 128)
    );
    assert_eq!(status.reason, "StartError");
    assert!(status.message.contains("no-such-command"));
}
