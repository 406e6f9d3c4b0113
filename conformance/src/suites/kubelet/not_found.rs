//! 404: namespaces, Pods and containers that do not exist.

use super::session::{KubeletSession, OK_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, pass_if},
    suites::authority,
    targets::{ContainerRef, HttpResponse},
};

const NAMESPACE_UNKNOWN_CASE: &str = "kubelet/lookup/namespace-unknown";
const POD_UNKNOWN_CASE: &str = "kubelet/lookup/pod-unknown";
const CONTAINER_UNKNOWN_CASE: &str = "kubelet/lookup/container-unknown";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/lookup/namespace-unknown", Level::Documented)
        .requirement("The kubelet must return 404 when the namespace does not exist.")
        .authority(authority::API_RESPONSE)
        .expected("404")
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(status_is_404(s, namespace_unknown(s)))),
    case("kubelet/lookup/pod-unknown", Level::Documented)
        .requirement("The kubelet must return 404 when the Pod does not exist.")
        .authority(authority::API_RESPONSE)
        .expected("404")
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(status_is_404(s, pod_unknown(s)))),
    case("kubelet/lookup/container-unknown", Level::Documented)
        .requirement("The kubelet must return 404 when the Pod has no container of that name.")
        .authority(authority::API_RESPONSE)
        .expected("404")
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(status_is_404(s, container_unknown(s)))),
    case("kubelet/lookup/namespace-unknown-body", Level::Reference)
        .requirement("The kubelet must send the same body for an unknown namespace as for an unknown Pod.")
        .authority(authority::KUBELET_SERVER)
        .expected("pod does not exist")
        .depends_on(&["kubelet/lookup/namespace-unknown"])
        .shared()
        .run(|s| {
            Box::pin(body_is(
                s,
                namespace_unknown(s),
                NAMESPACE_UNKNOWN_CASE,
                "pod does not exist".to_owned(),
            ))
        }),
    case("kubelet/lookup/pod-unknown-body", Level::Reference)
        .requirement("The kubelet must state in the body of the 404 that the Pod does not exist.")
        .authority(authority::KUBELET_SERVER)
        .expected("pod does not exist")
        .depends_on(&["kubelet/lookup/pod-unknown"])
        .shared()
        .run(|s| {
            Box::pin(body_is(
                s,
                pod_unknown(s),
                POD_UNKNOWN_CASE,
                "pod does not exist".to_owned(),
            ))
        }),
    case("kubelet/lookup/container-unknown-body", Level::Reference)
        .requirement("The kubelet must name the unknown container in the body of the 404.")
        .authority(authority::KUBELET_SERVER)
        .expected("container <name> does not exist")
        .depends_on(&["kubelet/lookup/container-unknown"])
        .shared()
        .run(|s| {
            let unknown = container_unknown(s);
            let body = format!("container {} does not exist", unknown.container);
            Box::pin(body_is(s, unknown, CONTAINER_UNKNOWN_CASE, body))
        }),
    case("kubelet/lookup/invalid-names", Level::Reference)
        .requirement("The kubelet must return 404 for a name that no object can have.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 for names with non-ASCII letters, spaces, line breaks, encoded `..`")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(invalid_names(s))),
    case("kubelet/lookup/exact-names", Level::Documented)
        .requirement("The kubelet must return 404 for a name that differs from an existing one in any character.")
        .authority(authority::API_RESPONSE)
        .motivation("rules in front of the kubelet compare the names as they are written")
        .expected("404 for the names in other case, shortened, lengthened, with blanks, NUL, `;a=b`, encoded twice")
        .requires(&[Capability::DirectConnection])
        .may_depend_on(&[
            OK_CASE,
            "kubelet/lookup/pod-unknown",
            "kubelet/lookup/container-unknown",
        ])
        .run(|s| Box::pin(exact_names(s))),
    case("kubelet/lookup/overlong-name", Level::Reference)
        .requirement("The kubelet must return 404 for a name of several thousand bytes.")
        .authority(authority::KUBELET_SERVER)
        .expected("404")
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(over_long_name(s))),
    case("kubelet/lookup/static-pod-full-name", Level::Reference)
        .requirement(
            "The kubelet must know a static Pod by its full name, which ends in the node name, and not by the \
            name in the manifest.",
        )
        .authority(authority::STATIC_PODS)
        .expected("404")
        .requires(&[Capability::StaticPod])
        .may_depend_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(static_pod_manifest_name(s))),
    case("kubelet/lookup/before-timeout-validation", Level::Reference)
        .requirement("The kubelet must look up the Pod before it validates the `timeout` parameter.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 pod does not exist, for a timeout that is not a number")
        .depends_on(&["kubelet/lookup/pod-unknown"])
        .shared()
        .run(|s| Box::pin(pod_before_timeout(s))),
    case("kubelet/timeout/validated-before-state", Level::Reference)
        .requirement("The kubelet must validate the `timeout` parameter before it checks the container's state.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 cannot parse value of timeout parameter, for a container that has exited")
        .requires(&[Capability::ExitedContainer])
        .may_depend_on(&[OK_CASE, "kubelet/timeout/malformed-rejected"])
        .shared()
        .run(|s| Box::pin(timeout_before_state(s))),
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
    pass_if(
        problems.is_empty(),
        format!(
            "404 for {} names, each as the name of a Pod and of a container",
            names.len()
        ),
        problems.join("; "),
    )
}

/// A name close to a name, and what it differs in.
type NameAlteration = (&'static str, fn(&str) -> String);

/// How a name in the path differs from an existing one.
const NAME_ALTERATIONS: [NameAlteration; 17] = [
    ("upper case", |name| name.to_ascii_uppercase()),
    ("first letter in upper case", |name| {
        let (first, rest) = name.split_at(1);
        first.to_ascii_uppercase() + rest
    }),
    ("a letter with the same lower case", |name| {
        name.replacen('s', "%C5%BF", 1)
    }),
    ("without its last character", |name| name[..name.len() - 1].to_owned()),
    ("without its first character", |name| name[1..].to_owned()),
    ("with a character more", |name| format!("{name}x")),
    ("with a blank at the end", |name| format!("{name}%20")),
    ("with a blank at the start", |name| format!("%20{name}")),
    ("with a line break at the end", |name| format!("{name}%0A")),
    ("with NUL at the end", |name| format!("{name}%00")),
    ("with NUL and text at the end", |name| format!("{name}%00x")),
    ("with a matrix parameter", |name| format!("{name};a=b")),
    ("with an encoded query", |name| format!("{name}%3Fx")),
    ("with an encoded fragment", |name| format!("{name}%23x")),
    ("encoded twice", |name| {
        format!("%25{:02X}{}", name.as_bytes()[0], &name[1..])
    }),
    ("with _ for -", |name| name.replace('-', "_")),
    ("with a wildcard", |name| format!("{}%2A", &name[..name.len() - 1])),
];

async fn exact_names(s: &KubeletSession) -> CaseResult {
    let ContainerRef {
        namespace,
        pod,
        container,
    } = s.container_under_test();
    let names = [namespace, pod, container];
    if checkpoint(s, &pod_unknown(s)).await?.status != 404 {
        return Err(NonPass::Blocked(POD_UNKNOWN_CASE));
    }
    if checkpoint(s, &container_unknown(s)).await?.status != 404 {
        return Err(NonPass::Blocked(CONTAINER_UNKNOWN_CASE));
    }
    let (mut rejected, mut problems) = (0, Vec::new());
    for (index, what) in ["namespace", "Pod", "container"].into_iter().enumerate() {
        for (how, alter) in NAME_ALTERATIONS {
            let mut path_names = names.map(String::clone);
            path_names[index] = alter(&path_names[index]);
            if path_names[index] == *names[index] || path_names[index].is_empty() {
                continue;
            }
            let response = s
                .post_raw_path(&format!("/checkpoint/{}", path_names.join("/")))
                .await?;
            if response.status == 404 {
                rejected += 1;
            } else {
                problems.push(format!("{} for the {what} {how}", response.summary()));
            }
        }
    }
    pass_if(
        problems.is_empty(),
        format!("404 for {rejected} names"),
        problems.join("; "),
    )
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
    let short = s
        .kubelet
        .static_pod_name()
        .ok_or(NonPass::Missing(Capability::StaticPod))?;
    let container = ContainerRef {
        pod: short.to_owned(),
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
    let exited = s.require_sibling(Capability::ExitedContainer)?;
    // Another case fails for a kubelet that accepts any timeout.
    let running = s.request("timeout=soon").await?;
    if running.body != EXPECTED_BODY {
        return Err(NonPass::Blocked("kubelet/timeout/malformed-rejected"));
    }
    let response = s.kubelet.checkpoint(exited, "timeout=soon").await?;
    check(
        response.status == 404 && response.body == EXPECTED_BODY,
        response.summary(),
    )
}
