//! The requests that the runtime suite and the reference kubelet make of a runtime, beside those that were recorded of an unmodified
//! kubelet: the same fields, with values of the same kinds.
//!
//! `fixtures/kubelet/requests-v1.36.3.json` is the record. To make it anew, as root:
//! `RECORD=1 KUBELET_BINARY=PATH cargo test -p checkpoint-conformance --test kubelet_requests -- --ignored`.

mod fields;

use std::path::PathBuf;

use checkpoint_conformance::target::{
    Embedded, RealKubelet,
    runtime::{Checkpoint, ContainerOptions, EmbeddedRuntime},
};
use fields::{Allowed, Requests, differences, reduce};

/// The calls that are compared: those that make, start and checkpoint a container.
const METHODS: [&str; 7] = [
    "Version",
    "ImageStatus",
    "PullImage",
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "CheckpointContainer",
];

const CGROUP: &str =
    "the kubelet makes the Pod's cgroup itself; who sends a parent that is not there has the runtime make and leave it";
const ANNOTATIONS: &str = "annotations of the Pod itself, by which fake-cri is told what to do";
const STATIC: &str = "annotations that only static Pods have";
const LABEL: &str = "the label by which a run finds and removes what it made";
const HOST_NETWORK: &str = "the Pods of the runtime suite are in the host's network, which needs no CNI plugin";
const HOSTS_USER: &str = "sent by a harness that is root, as a kubelet is: another user's runtime cannot apply it";

const ALLOWED: &[Allowed] = &[
    Allowed {
        method: "RunPodSandbox",
        field: "config.linux.cgroup_parent",
        why: CGROUP,
    },
    Allowed {
        method: "CreateContainer",
        field: "sandbox_config.linux.cgroup_parent",
        why: CGROUP,
    },
    Allowed {
        method: "PullImage",
        field: "sandbox_config.linux.cgroup_parent",
        why: CGROUP,
    },
    Allowed {
        method: "CreateContainer",
        field: "config.linux.security_context.run_as_user",
        why: HOSTS_USER,
    },
];

const OF_THE_RUNTIME_SUITE: &[Allowed] = &[
    Allowed {
        method: "CreateContainer",
        field: "config.metadata.attempt",
        why: "a container of the record was started again; the first run is attempt 0, which is not on the wire",
    },
    Allowed {
        method: "RunPodSandbox",
        field: "config.annotations",
        why: STATIC,
    },
    Allowed {
        method: "CreateContainer",
        field: "sandbox_config.annotations",
        why: STATIC,
    },
    Allowed {
        method: "PullImage",
        field: "sandbox_config.annotations",
        why: STATIC,
    },
    Allowed {
        method: "PullImage",
        field: "image.annotations",
        why: STATIC,
    },
    Allowed {
        method: "ImageStatus",
        field: "image.annotations",
        why: ANNOTATIONS,
    },
    Allowed {
        method: "RunPodSandbox",
        field: "config.labels.checkpoint-conformance.dev/run",
        why: LABEL,
    },
    Allowed {
        method: "CreateContainer",
        field: "config.labels.checkpoint-conformance.dev/run",
        why: LABEL,
    },
    Allowed {
        method: "CreateContainer",
        field: "sandbox_config.labels.checkpoint-conformance.dev/run",
        why: LABEL,
    },
    Allowed {
        method: "PullImage",
        field: "sandbox_config.labels.checkpoint-conformance.dev/run",
        why: LABEL,
    },
    Allowed {
        method: "RunPodSandbox",
        field: "config.hostname",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "CreateContainer",
        field: "sandbox_config.hostname",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "PullImage",
        field: "sandbox_config.hostname",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "RunPodSandbox",
        field: "config.linux.security_context.namespace_options.network",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "CreateContainer",
        field: "sandbox_config.linux.security_context.namespace_options.network",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "PullImage",
        field: "sandbox_config.linux.security_context.namespace_options.network",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "CreateContainer",
        field: "config.linux.security_context.namespace_options.network",
        why: HOST_NETWORK,
    },
    Allowed {
        method: "CreateContainer",
        field: "config.command",
        why: "the workload is named with its options",
    },
    Allowed {
        method: "CreateContainer",
        field: "config.envs",
        why: "a case may need a variable",
    },
];

fn path() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/kubelet/requests-v1.36.3.json"
    ))
}

fn recorded() -> Requests {
    serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap()
}

fn compared(requests: &[(String, serde_json::Value)]) -> Requests {
    let mut reduced = reduce(requests);
    reduced.retain(|method, _| METHODS.contains(&method.as_str()));
    reduced
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_kubelet_asks_as_the_kubelet_does() {
    let embedded = Embedded {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let kubelet = embedded.start().await.unwrap();
    kubelet.checkpoint(&kubelet.subject, "").await.unwrap();
    let requests = kubelet.faults.as_ref().unwrap().requests().await.unwrap();
    kubelet.steering.as_ref().unwrap().shutdown().await.unwrap();
    let ours = compared(&requests);
    assert!(
        ours.contains_key("CreateContainer") && ours.contains_key("CheckpointContainer"),
        "{ours:?}"
    );
    assert_eq!(differences(&recorded(), &ours, ALLOWED), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_suite_asks_as_the_kubelet_does() {
    let embedded = EmbeddedRuntime {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..EmbeddedRuntime::default()
    };
    let runtime = embedded.start().await.unwrap();
    let container = runtime.container(ContainerOptions::new().own_pod()).await.unwrap();
    let location = runtime.location("requests");
    let call = Checkpoint::to(location.to_string_lossy()).timeout(120);
    assert!(runtime.checkpoint(&container, &call).await.is_ok());
    let requests = runtime.faults.as_ref().unwrap().requests().await.unwrap();
    runtime.shutdown().await.unwrap();
    let ours = compared(&requests);
    assert!(
        ours.contains_key("CreateContainer") && ours.contains_key("CheckpointContainer"),
        "{ours:?}"
    );
    let image = &ours["CreateContainer"]["config.image.user_specified_image"];
    assert_eq!(image.iter().collect::<Vec<_>>(), ["text"]);
    let allowed = [ALLOWED, OF_THE_RUNTIME_SUITE].concat();
    assert_eq!(differences(&recorded(), &ours, &allowed), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kubelet v1.36, named by KUBELET_BINARY, and root"]
async fn the_record_is_what_the_kubelet_sends() {
    let target = RealKubelet {
        binary: std::env::var_os("KUBELET_BINARY")
            .expect("KUBELET_BINARY names a kubelet")
            .into(),
        args: Vec::new(),
        runtime_endpoint: None,
        control: None,
        logs: None,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
    };
    let kubelet = target.start().await.unwrap();
    kubelet.checkpoint(&kubelet.subject, "").await.unwrap();
    let requests = kubelet.faults.as_ref().unwrap().requests().await.unwrap();
    kubelet.steering.as_ref().unwrap().shutdown().await.unwrap();
    let sent = compared(&requests);
    if std::env::var_os("RECORD").is_some() {
        std::fs::write(path(), serde_json::to_vec_pretty(&sent).unwrap()).unwrap();
    }
    assert_eq!(differences(&recorded(), &sent, &[]), Vec::<String>::new());
    assert_eq!(differences(&sent, &recorded(), &[]), Vec::<String>::new());
}
