//! 404: namespaces, Pods and containers that do not exist.

use super::session::KubeletSession;
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check},
    suites::authority,
    targets::{ContainerRef, HttpResponse},
};

const NAMESPACE_UNKNOWN_CASE: &str = "kubelet/lookup/namespace-unknown";
const POD_UNKNOWN_CASE: &str = "kubelet/lookup/pod-unknown";
const CONTAINER_UNKNOWN_CASE: &str = "kubelet/lookup/container-unknown";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: NAMESPACE_UNKNOWN_CASE,
            requirement: "The kubelet must return 404 when the namespace does not exist.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, namespace_unknown(s))),
    ),
    Case::new(
        CaseInfo {
            id: POD_UNKNOWN_CASE,
            requirement: "The kubelet must return 404 when the Pod does not exist.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, pod_unknown(s))),
    ),
    Case::new(
        CaseInfo {
            id: CONTAINER_UNKNOWN_CASE,
            requirement: "The kubelet must return 404 when the Pod has no container of that name.",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, container_unknown(s))),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/namespace-unknown-body",
            requirement: "The kubelet must send the same body for an unknown namespace as for an unknown Pod.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "pod does not exist",
        },
        |s| {
            Box::pin(body_is(
                s,
                namespace_unknown(s),
                NAMESPACE_UNKNOWN_CASE,
                "pod does not exist".to_owned(),
            ))
        },
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/pod-unknown-body",
            requirement: "The kubelet must state in the body of the 404 that the Pod does not exist.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "pod does not exist",
        },
        |s| {
            Box::pin(body_is(
                s,
                pod_unknown(s),
                POD_UNKNOWN_CASE,
                "pod does not exist".to_owned(),
            ))
        },
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/container-unknown-body",
            requirement: "The kubelet must name the unknown container in the body of the 404.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "container <name> does not exist",
        },
        |s| {
            let unknown = container_unknown(s);
            let body = format!("container {} does not exist", unknown.container);
            Box::pin(body_is(s, unknown, CONTAINER_UNKNOWN_CASE, body))
        },
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/invalid-names",
            requirement: "The kubelet must return 404 for a name that no object can have.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 for names with non-ASCII letters, spaces, line breaks, encoded `..`",
        },
        |s| Box::pin(invalid_names(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/overlong-name",
            requirement: "The kubelet must return 404 for a name of several thousand bytes.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(over_long_name(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/static-pod-full-name",
            requirement: "The kubelet must know a static Pod by its full name, which ends in the node name, and not \
                by the name in the manifest.",
            authority: authority::STATIC_PODS,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(static_pod_manifest_name(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/before-timeout-validation",
            requirement: "The kubelet must look up the Pod before it validates the `timeout` parameter.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 pod does not exist, for a timeout that is not a number",
        },
        |s| Box::pin(pod_before_timeout(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/timeout/validated-before-state",
            requirement: "The kubelet must validate the `timeout` parameter before it checks the container's state.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 cannot parse value of timeout parameter, for a container that has exited",
        },
        |s| Box::pin(timeout_before_state(s)),
    ),
];

// Only one segment of each path is unknown. The other segments name a container that can be checkpointed.

fn namespace_unknown(s: &KubeletSession) -> ContainerRef {
    ContainerRef {
        namespace: "checkpoint-conformance-no-such-namespace".to_owned(),
        ..s.container_under_test().clone()
    }
}

fn pod_unknown(s: &KubeletSession) -> ContainerRef {
    ContainerRef {
        pod: "checkpoint-conformance-no-such-pod".to_owned(),
        ..s.container_under_test().clone()
    }
}

fn container_unknown(s: &KubeletSession) -> ContainerRef {
    s.container_under_test()
        .sibling("checkpoint-conformance-no-such-container")
}

async fn checkpoint(s: &KubeletSession, container: &ContainerRef) -> Result<HttpResponse, NonPass> {
    // A kubelet that does not serve the endpoint returns 404 for every path.
    s.require_endpoint().await?;
    Ok(s.kubelet.checkpoint(container, "").await?)
}

async fn status_is_404(s: &KubeletSession, container: ContainerRef) -> CaseResult {
    let response = checkpoint(s, &container).await?;
    check(response.status == 404, response.summary())
}

async fn body_is(s: &KubeletSession, container: ContainerRef, status: &'static str, body: String) -> CaseResult {
    let response = checkpoint(s, &container).await?;
    if response.status != 404 {
        return Err(NonPass::Blocked(status));
    }
    check(response.body == body, format!("{:?}", response.body))
}

async fn invalid_names(s: &KubeletSession) -> CaseResult {
    let container_under_test = s.container_under_test();
    let names = ["käse", "\u{1f9c0}", "a b", "a\nb", "..", "%00", "UPPER", "-"];
    let mut problems = Vec::new();
    for name in names {
        let pod = ContainerRef {
            pod: name.to_owned(),
            ..container_under_test.clone()
        };
        for container in [pod, container_under_test.sibling(name)] {
            // A client would remove `..` from the URL. Percent-encoded, `..` is a name like any other.
            let path = format!("/checkpoint/{}", percent_encoded(&container));
            let response = s.post_raw_path(&path).await?;
            if response.status != 404 {
                problems.push(format!("{container:?}: {}", response.summary()));
            }
        }
    }
    let actual = if problems.is_empty() {
        format!(
            "404 for {} names, each as the name of a Pod and of a container",
            names.len()
        )
    } else {
        problems.join("; ")
    };
    check(problems.is_empty(), actual)
}

fn percent_encoded(container: &ContainerRef) -> String {
    let encode = |name: &str| name.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let names = [&container.namespace, &container.pod, &container.container];
    names.map(|name| encode(name)).join("/")
}

async fn over_long_name(s: &KubeletSession) -> CaseResult {
    const NAME_BYTES: usize = 8000;
    let long = s.container_under_test().sibling(&"x".repeat(NAME_BYTES));
    let response = checkpoint(s, &long).await?;
    let as_expected = response.status == 404;
    check(as_expected, format!("{} for {NAME_BYTES} bytes", response.status))
}

async fn static_pod_manifest_name(s: &KubeletSession) -> CaseResult {
    let suffix = s.kubelet.node_name.as_ref().map(|node| format!("-{node}"));
    let Some(short) = suffix.and_then(|suffix| {
        s.container_under_test()
            .pod
            .strip_suffix(suffix.as_str())
            .map(str::to_owned)
    }) else {
        return Err(NonPass::Skip("requires a static Pod of the harness".to_owned()));
    };
    let container = ContainerRef {
        pod: short,
        ..s.container_under_test().clone()
    };
    let response = checkpoint(s, &container).await?;
    check(
        response.status == 404,
        format!("{} for {container}", response.summary()),
    )
}

async fn pod_before_timeout(s: &KubeletSession) -> CaseResult {
    let unknown = pod_unknown(s);
    let plain = checkpoint(s, &unknown).await?;
    if plain.status != 404 {
        return Err(NonPass::Blocked(POD_UNKNOWN_CASE));
    }
    let response = s.kubelet.checkpoint(&unknown, "timeout=soon").await?;
    // The response must equal the response without a timeout, whatever its wording.
    check(
        response.status == 404 && response.body == plain.body,
        response.summary(),
    )
}

async fn timeout_before_state(s: &KubeletSession) -> CaseResult {
    const EXPECTED_BODY: &str = "cannot parse value of timeout parameter";
    s.require_endpoint().await?;
    let Some(exited) = &s.kubelet.siblings.exited else {
        return Err(NonPass::Skip("requires a container that has exited".to_owned()));
    };
    // Another case fails for a kubelet that accepts any timeout.
    let running = s.kubelet.checkpoint(s.container_under_test(), "timeout=soon").await?;
    if running.body != EXPECTED_BODY {
        return Err(NonPass::Blocked("kubelet/timeout/malformed-rejected"));
    }
    let response = s.kubelet.checkpoint(exited, "timeout=soon").await?;
    check(
        response.status == 404 && response.body == EXPECTED_BODY,
        response.summary(),
    )
}
