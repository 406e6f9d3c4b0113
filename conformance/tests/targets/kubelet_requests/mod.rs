//! Compares the CRI requests of the runtime suite and of the reference kubelet with recorded requests of an unmodified
//! kubelet: the same fields, with values of the same kinds.
//!
//! The recording is `fixtures/kubelet/requests-v1.36.3.json`. To record it again, as root:
//! `RECORD=1 KUBELET_BINARY=PATH cargo test -p checkpoint-conformance --test kubelet_requests -- --ignored`.

mod fields;

use std::path::PathBuf;

use self::fields::{AllowedDifference, Requests, collect_fields, differences};
use checkpoint_conformance::targets::{
    Embedded, RealKubelet,
    runtime::{CheckpointCall, ContainerOptions, EmbeddedRuntime},
};

/// The compared methods: those that create, start and checkpoint a container.
const COMPARED_METHODS: [&str; 7] = [
    "Version",
    "ImageStatus",
    "PullImage",
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "CheckpointContainer",
];

const REASON_CGROUP: &str =
    "the kubelet creates the cgroup of the Pod; a runtime would create a missing cgroup parent and not remove it";
const REASON_ANNOTATIONS: &str = "annotations of the Pod, which configure fake-cri";
const REASON_STATIC_POD: &str = "annotations that only static Pods have";
const REASON_RUN_LABEL: &str = "the label by which a run finds and removes its Pods and containers";
const REASON_HOST_NETWORK: &str = "the Pods of the runtime suite are in the host's network, which needs no CNI plugin";
const REASON_ROOT_ONLY: &str =
    "only sent by a harness that runs as root, like a kubelet: a rootless runtime cannot apply it";

const ALLOWED_DIFFERENCES: &[AllowedDifference] = &[
    AllowedDifference {
        method: "RunPodSandbox",
        field: "config.linux.cgroup_parent",
        reason: REASON_CGROUP,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "sandbox_config.linux.cgroup_parent",
        reason: REASON_CGROUP,
    },
    AllowedDifference {
        method: "PullImage",
        field: "sandbox_config.linux.cgroup_parent",
        reason: REASON_CGROUP,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "config.linux.security_context.run_as_user",
        reason: REASON_ROOT_ONLY,
    },
];

const RUNTIME_SUITE_DIFFERENCES: &[AllowedDifference] = &[
    AllowedDifference {
        method: "CreateContainer",
        field: "config.metadata.attempt",
        reason: "a container of the recording was restarted; attempt 0 of a first run is not on the wire",
    },
    AllowedDifference {
        method: "RunPodSandbox",
        field: "config.annotations",
        reason: REASON_STATIC_POD,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "sandbox_config.annotations",
        reason: REASON_STATIC_POD,
    },
    AllowedDifference {
        method: "PullImage",
        field: "sandbox_config.annotations",
        reason: REASON_STATIC_POD,
    },
    AllowedDifference {
        method: "PullImage",
        field: "image.annotations",
        reason: REASON_STATIC_POD,
    },
    AllowedDifference {
        method: "ImageStatus",
        field: "image.annotations",
        reason: REASON_ANNOTATIONS,
    },
    AllowedDifference {
        method: "RunPodSandbox",
        field: "config.labels.checkpoint-conformance.dev/run",
        reason: REASON_RUN_LABEL,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "config.labels.checkpoint-conformance.dev/run",
        reason: REASON_RUN_LABEL,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "sandbox_config.labels.checkpoint-conformance.dev/run",
        reason: REASON_RUN_LABEL,
    },
    AllowedDifference {
        method: "PullImage",
        field: "sandbox_config.labels.checkpoint-conformance.dev/run",
        reason: REASON_RUN_LABEL,
    },
    AllowedDifference {
        method: "RunPodSandbox",
        field: "config.hostname",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "sandbox_config.hostname",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "PullImage",
        field: "sandbox_config.hostname",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "RunPodSandbox",
        field: "config.linux.security_context.namespace_options.network",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "sandbox_config.linux.security_context.namespace_options.network",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "PullImage",
        field: "sandbox_config.linux.security_context.namespace_options.network",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "config.linux.security_context.namespace_options.network",
        reason: REASON_HOST_NETWORK,
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "config.command",
        reason: "the command of the workload includes its options",
    },
    AllowedDifference {
        method: "CreateContainer",
        field: "config.envs",
        reason: "a case may need a variable",
    },
];

fn record_path() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/kubelet/requests-v1.36.3.json"
    ))
}

fn recorded_fields() -> Requests {
    serde_json::from_slice(&std::fs::read(record_path()).unwrap()).unwrap()
}

fn compared_fields(requests: &[(String, serde_json::Value)]) -> Requests {
    let mut reduced = collect_fields(requests);
    reduced.retain(|method, _| COMPARED_METHODS.contains(&method.as_str()));
    reduced
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_kubelet_sends_the_kubelets_requests() {
    let embedded = Embedded {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let kubelet = embedded.start().await.unwrap();
    kubelet.checkpoint(&kubelet.container_under_test, "").await.unwrap();
    let requests = kubelet.fake_cri.as_ref().unwrap().requests().await.unwrap();
    kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    let sent = compared_fields(&requests);
    assert!(
        sent.contains_key("CreateContainer") && sent.contains_key("CheckpointContainer"),
        "{sent:?}"
    );
    assert_eq!(
        differences(&recorded_fields(), &sent, ALLOWED_DIFFERENCES),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_suite_sends_the_kubelets_requests() {
    let embedded = EmbeddedRuntime {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..EmbeddedRuntime::default()
    };
    let runtime = embedded.start().await.unwrap();
    let container = runtime
        .run_container(ContainerOptions::new().separate_pod())
        .await
        .unwrap();
    let location = runtime.location("requests");
    let call = CheckpointCall::to(location.to_string_lossy()).timeout(120);
    assert!(runtime.checkpoint(&container, &call).await.is_ok());
    let requests = runtime.fake_cri.as_ref().unwrap().requests().await.unwrap();
    runtime.shutdown().await.unwrap();
    let sent = compared_fields(&requests);
    assert!(
        sent.contains_key("CreateContainer") && sent.contains_key("CheckpointContainer"),
        "{sent:?}"
    );
    let image = &sent["CreateContainer"]["config.image.user_specified_image"];
    assert_eq!(image.iter().collect::<Vec<_>>(), ["text"]);
    let allowed = [ALLOWED_DIFFERENCES, RUNTIME_SUITE_DIFFERENCES].concat();
    assert_eq!(differences(&recorded_fields(), &sent, &allowed), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kubelet v1.36, named by KUBELET_BINARY, and root"]
async fn record_matches_the_real_kubelet() {
    let target = RealKubelet {
        binary: std::env::var_os("KUBELET_BINARY")
            .expect("KUBELET_BINARY is set")
            .into(),
        extra_args: Vec::new(),
        runtime_endpoint: None,
        control_socket: None,
        log_dir: None,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
    };
    let kubelet = target.start().await.unwrap();
    kubelet.checkpoint(&kubelet.container_under_test, "").await.unwrap();
    let requests = kubelet.fake_cri.as_ref().unwrap().requests().await.unwrap();
    kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    let sent = compared_fields(&requests);
    if std::env::var_os("RECORD").is_some() {
        std::fs::write(record_path(), serde_json::to_vec_pretty(&sent).unwrap()).unwrap();
    }
    assert_eq!(differences(&recorded_fields(), &sent, &[]), Vec::<String>::new());
    assert_eq!(differences(&sent, &recorded_fields(), &[]), Vec::<String>::new());
}
