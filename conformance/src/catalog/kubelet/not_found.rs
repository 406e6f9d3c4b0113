//! 404: namespaces, Pods and containers that are not there.

use super::session::Session;
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    catalog::authority,
    target::{Answer, ContainerRef},
};

const NAMESPACE: &str = "kubelet/404/namespace-unknown";
const POD: &str = "kubelet/404/pod-unknown";
const CONTAINER: &str = "kubelet/404/container-unknown";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: NAMESPACE,
            clause: "a namespace that cannot be found is answered 404",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, namespace_unknown(s))),
    ),
    Case::new(
        Clause {
            id: POD,
            clause: "a Pod that cannot be found is answered 404",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, pod_unknown(s))),
    ),
    Case::new(
        Clause {
            id: CONTAINER,
            clause: "a container that its Pod does not have is answered 404",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, container_unknown(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/namespace-unknown-body",
            clause: "the body for an unknown namespace is that for an unknown Pod",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "pod does not exist",
        },
        |s| {
            Box::pin(body_is(
                s,
                namespace_unknown(s),
                NAMESPACE,
                "pod does not exist".to_owned(),
            ))
        },
    ),
    Case::new(
        Clause {
            id: "kubelet/404/pod-unknown-body",
            clause: "the body for an unknown Pod says so",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "pod does not exist",
        },
        |s| Box::pin(body_is(s, pod_unknown(s), POD, "pod does not exist".to_owned())),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/container-unknown-body",
            clause: "the body for an unknown container names it",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "container <name> does not exist",
        },
        |s| {
            let unknown = container_unknown(s);
            let body = format!("container {} does not exist", unknown.container);
            Box::pin(body_is(s, unknown, CONTAINER, body))
        },
    ),
    Case::new(
        Clause {
            id: "kubelet/404/strange-names",
            clause: "a name that no object can have is not found, and is no error of another kind",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 for names with letters beyond ASCII, blanks, line ends, `..` encoded",
        },
        |s| Box::pin(strange_names(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/over-long-name",
            clause: "a name of some thousand bytes is not found, and is no error of another kind",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(over_long_name(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/static-pod-full-name",
            clause: "a static Pod is known by the name that ends in its node's, not by that of its manifest",
            authority: authority::STATIC_PODS,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(static_pod(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/pod-before-timeout",
            clause: "the Pod is looked up before the timeout is read",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 pod does not exist, for a timeout that is no number",
        },
        |s| Box::pin(pod_before_timeout(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/timeout-before-state",
            clause: "the timeout is read before it is seen whether the container runs",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 cannot parse value of timeout parameter, for a container that has exited",
        },
        |s| Box::pin(timeout_before_state(s)),
    ),
];

// Only one part of the path is wrong each time: the others are those of a container that can be checkpointed.

fn namespace_unknown(s: &Session) -> ContainerRef {
    ContainerRef {
        namespace: "checkpoint-conformance-no-such-namespace".to_owned(),
        ..s.subject().clone()
    }
}

fn pod_unknown(s: &Session) -> ContainerRef {
    ContainerRef {
        pod: "checkpoint-conformance-no-such-pod".to_owned(),
        ..s.subject().clone()
    }
}

fn container_unknown(s: &Session) -> ContainerRef {
    s.subject().sibling("checkpoint-conformance-no-such-container")
}

async fn ask(s: &Session, container: &ContainerRef) -> Result<Answer, Stop> {
    // A kubelet that does not serve the endpoint at all answers 404 to everything.
    s.served().await?;
    Ok(s.kubelet.checkpoint(container, "").await?)
}

async fn status_is_404(s: &Session, container: ContainerRef) -> Judgement {
    let answer = ask(s, &container).await?;
    judge(answer.status == 404, answer.brief())
}

async fn body_is(s: &Session, container: ContainerRef, status: &'static str, body: String) -> Judgement {
    let answer = ask(s, &container).await?;
    if answer.status != 404 {
        return Err(Stop::Blocked(status));
    }
    judge(answer.body == body, format!("{:?}", answer.body))
}

async fn strange_names(s: &Session) -> Judgement {
    let subject = s.subject();
    let names = ["käse", "\u{1f9c0}", "a b", "a\nb", "..", "%00", "UPPER", "-"];
    let mut wrong = Vec::new();
    for name in names {
        let pod = ContainerRef {
            pod: name.to_owned(),
            ..subject.clone()
        };
        for container in [pod, subject.sibling(name)] {
            // `..` would be taken out of a URL; encoded it is a name like any other.
            let path = format!("/checkpoint/{}", encoded(&container));
            let answer = s.raw(&path).await?;
            if answer.status != 404 {
                wrong.push(format!("{container:?}: {}", answer.brief()));
            }
        }
    }
    let seen = if wrong.is_empty() {
        format!("404 for {} names, as a Pod's and as a container's", names.len())
    } else {
        wrong.join("; ")
    };
    judge(wrong.is_empty(), seen)
}

/// Every byte of the names encoded.
fn encoded(container: &ContainerRef) -> String {
    let encode = |name: &str| name.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let names = [&container.namespace, &container.pod, &container.container];
    names.map(|name| encode(name)).join("/")
}

async fn over_long_name(s: &Session) -> Judgement {
    const LENGTH: usize = 8000;
    let long = s.subject().sibling(&"x".repeat(LENGTH));
    let answer = ask(s, &long).await?;
    let holds = answer.status == 404;
    judge(holds, format!("{} for {LENGTH} bytes", answer.status))
}

async fn static_pod(s: &Session) -> Judgement {
    let suffix = s.kubelet.node.as_ref().map(|node| format!("-{node}"));
    let Some(short) = suffix.and_then(|suffix| s.subject().pod.strip_suffix(suffix.as_str()).map(str::to_owned)) else {
        return Err(Stop::Skip("needs a static Pod of the harness".to_owned()));
    };
    let container = ContainerRef {
        pod: short,
        ..s.subject().clone()
    };
    let answer = ask(s, &container).await?;
    judge(answer.status == 404, format!("{} for {container}", answer.brief()))
}

async fn pod_before_timeout(s: &Session) -> Judgement {
    let unknown = pod_unknown(s);
    let plain = ask(s, &unknown).await?;
    if plain.status != 404 {
        return Err(Stop::Blocked(POD));
    }
    let answer = s.kubelet.checkpoint(&unknown, "timeout=soon").await?;
    // The same answer as without a timeout, whatever its words are.
    judge(answer.status == 404 && answer.body == plain.body, answer.brief())
}

async fn timeout_before_state(s: &Session) -> Judgement {
    const BODY: &str = "cannot parse value of timeout parameter";
    s.served().await?;
    let Some(exited) = &s.kubelet.neighbours.exited else {
        return Err(Stop::Skip("needs a container that has exited".to_owned()));
    };
    // A kubelet that takes any timeout is told so by another case.
    let running = s.kubelet.checkpoint(s.subject(), "timeout=soon").await?;
    if running.body != BODY {
        return Err(Stop::Blocked("kubelet/timeout/malformed"));
    }
    let answer = s.kubelet.checkpoint(exited, "timeout=soon").await?;
    judge(answer.status == 404 && answer.body == BODY, answer.brief())
}
