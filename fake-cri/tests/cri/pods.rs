//! Pod sandboxes and the status of the runtime over a real socket.

use crate::cri;

use cri::{Cri, code, pod_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::Code;

#[tokio::test]
async fn version_status_and_config_serve_a_kubelet() {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let version = runtime
        .version(v1::VersionRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (version.version.as_str(), version.runtime_api_version.as_str()),
        ("0.1.0", "v1")
    );
    assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());

    let status = runtime
        .status(v1::StatusRequest { verbose: true })
        .await
        .unwrap()
        .into_inner();
    let conditions = status.status.unwrap().conditions;
    let names: Vec<_> = conditions
        .iter()
        .map(|condition| (condition.r#type.as_str(), condition.status))
        .collect();
    assert_eq!(names, [("RuntimeReady", true), ("NetworkReady", true)]);
    let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(config["strictImages"], false);

    let config = runtime
        .runtime_config(v1::RuntimeConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver, v1::CgroupDriver::Cgroupfs as i32);
    let update = v1::UpdateRuntimeConfigRequest {
        runtime_config: Some(v1::RuntimeConfig {
            network_config: Some(v1::NetworkConfig {
                pod_cidr: "10.1.0.0/16".to_owned(),
            }),
        }),
    };
    runtime.update_runtime_config(update).await.unwrap();
    let status = runtime
        .status(v1::StatusRequest { verbose: true })
        .await
        .unwrap()
        .into_inner();
    assert!(status.info["config"].contains("10.1.0.0/16"));
}

#[tokio::test]
async fn pod_status_returns_the_request() {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let mut config = pod_config("web");
    config.labels.insert("app".to_owned(), "web".to_owned());
    config
        .annotations
        .insert("note".to_owned(), "\u{e9} \"quoted\"".to_owned());
    let id = cri.run_pod(config.clone()).await;
    assert_eq!(id.len(), 64);

    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: true,
    };
    let answer = runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(status.id, id);
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(
        (status.labels, status.annotations),
        (config.labels.clone(), config.annotations.clone())
    );
    assert!(
        status.created_at > 1_600_000_000_000_000_000,
        "nanoseconds: {}",
        status.created_at
    );
    assert_eq!(status.network.unwrap().ip, "127.0.0.1");
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    assert_eq!(info["config"]["metadata"]["name"], "web");

    let items = runtime
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items;
    assert_eq!(items.len(), 1);
    assert_eq!(
        (&items[0].labels, &items[0].annotations),
        (&config.labels, &config.annotations)
    );
}

#[tokio::test]
async fn stop_and_remove_are_idempotent_and_a_stopped_pod_is_not_ready() {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let id = cri.run_pod(pod_config("web")).await;
    for _ in 0..2 {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        runtime.stop_pod_sandbox(request).await.unwrap();
        assert_eq!(
            cri.pod_status(&id).await.unwrap().state(),
            v1::PodSandboxState::SandboxNotready
        );
    }
    for _ in 0..2 {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        runtime.remove_pod_sandbox(request).await.unwrap();
        assert_eq!(code(cri.pod_status(&id).await), Code::NotFound);
    }
}

#[tokio::test]
async fn name_and_attempt_are_unique_until_removal() {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let run = |config| v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let id = cri.run_pod(pod_config("web")).await;
    let error = runtime.run_pod_sandbox(run(pod_config("web"))).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(
        error.message().contains("reserved") && error.message().contains(&id),
        "{error}"
    );

    let mut next = pod_config("web");
    next.metadata.as_mut().unwrap().attempt = 1;
    cri.run_pod(next).await;
    runtime
        .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id })
        .await
        .unwrap();
    cri.run_pod(pod_config("web")).await;
}

#[tokio::test]
async fn unique_id_prefixes_are_accepted() {
    let cri = Cri::start().await;
    let mut ids = Vec::new();
    // With 17 ids, at least two have the same first digit.
    for index in 0..17 {
        ids.push(cri.run_pod(pod_config(&format!("pod-{index}"))).await);
    }
    let shared = ids
        .iter()
        .find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1)
        .unwrap();
    assert_eq!(code(cri.pod_status(&shared[..1]).await), Code::InvalidArgument);
    assert_eq!(cri.pod_status(&ids[0][..12]).await.unwrap().id, ids[0]);
    assert_eq!(code(cri.pod_status("").await), Code::InvalidArgument);
    assert_eq!(code(cri.pod_status("zz").await), Code::NotFound);
}

#[rstest]
#[case::all(|_: &[String]| v1::PodSandboxFilter::default(), &[0, 1, 2])]
#[case::id(|ids: &[String]| v1::PodSandboxFilter { id: ids[1].clone(), ..Default::default() }, &[1])]
#[case::prefix(|ids: &[String]| v1::PodSandboxFilter { id: ids[1][..20].to_owned(), ..Default::default() }, &[1])]
#[case::unknown(|_: &[String]| v1::PodSandboxFilter { id: "zz".to_owned(), ..Default::default() }, &[])]
#[case::ready(|_: &[String]| v1::PodSandboxFilter { state: Some(v1::PodSandboxStateValue { state: 0 }), ..Default::default() }, &[0, 1])]
#[case::not_ready(|_: &[String]| v1::PodSandboxFilter { state: Some(v1::PodSandboxStateValue { state: 1 }), ..Default::default() }, &[2])]
#[case::label(|_: &[String]| v1::PodSandboxFilter { label_selector: labels(&[("index", "0")]), ..Default::default() }, &[0])]
#[case::labels(|_: &[String]| v1::PodSandboxFilter { label_selector: labels(&[("index", "0"), ("all", "no")]), ..Default::default() }, &[])]
#[case::both(
    |ids: &[String]| v1::PodSandboxFilter {
        id: ids[2].clone(),
        state: Some(v1::PodSandboxStateValue { state: 0 }),
        ..Default::default()
    },
    &[]
)]
#[tokio::test]
async fn pod_filters_apply_every_field(
    #[case] filter: fn(&[String]) -> v1::PodSandboxFilter,
    #[case] expected: &[usize],
) {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let mut ids = Vec::new();
    for index in 0..3 {
        let mut config = pod_config(&format!("pod-{index}"));
        config.labels = labels(&[("index", &index.to_string()), ("all", "yes")]);
        ids.push(cri.run_pod(config).await);
    }
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: ids[2].clone(),
    };
    runtime.stop_pod_sandbox(request).await.unwrap();
    let request = v1::ListPodSandboxRequest {
        filter: Some(filter(&ids)),
    };
    let items = runtime.list_pod_sandbox(request).await.unwrap().into_inner().items;
    let found: Vec<_> = items
        .iter()
        .map(|item| ids.iter().position(|id| *id == item.id).unwrap())
        .collect();
    assert_eq!(found, expected);
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[rstest]
#[case::no_config(None)]
#[case::no_metadata(Some(v1::PodSandboxConfig::default()))]
#[case::no_name(Some(v1::PodSandboxConfig { metadata: Some(v1::PodSandboxMetadata::default()), ..Default::default() }))]
#[tokio::test]
async fn a_pod_without_a_name_is_refused(#[case] config: Option<v1::PodSandboxConfig>) {
    let cri = Cri::start().await;
    let request = v1::RunPodSandboxRequest {
        config,
        runtime_handler: String::new(),
    };
    assert_eq!(
        code(cri.runtime().run_pod_sandbox(request).await),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn pods_survive_a_kill() {
    let mut cri = Cri::start().await;
    let ready = cri.run_pod(pod_config("ready")).await;
    let stopped = cri.run_pod(pod_config("stopped")).await;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: stopped.clone(),
    };
    cri.runtime().stop_pod_sandbox(request).await.unwrap();
    let before = (
        cri.pod_status(&ready).await.unwrap(),
        cri.pod_status(&stopped).await.unwrap(),
    );
    cri.process.kill().await;
    cri.process.restart().await.unwrap();
    let after = (
        cri.pod_status(&ready).await.unwrap(),
        cri.pod_status(&stopped).await.unwrap(),
    );
    assert_eq!(before, after);
}

#[tokio::test]
async fn unimplemented_calls_say_so() {
    let cri = Cri::start().await;
    let mut runtime = cri.runtime();
    let error = runtime.exec(v1::ExecRequest::default()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unimplemented, "method Exec not implemented")
    );
    assert_eq!(
        code(runtime.get_container_events(v1::GetEventsRequest {}).await),
        Code::Unimplemented
    );
    assert_eq!(
        code(runtime.stream_containers(v1::StreamContainersRequest::default()).await),
        Code::Unimplemented
    );
}
