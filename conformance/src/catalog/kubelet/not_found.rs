//! 404: namespaces, Pods and containers that are not there.

use super::{RESPONSE, SERVER, session::Session};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
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
            source: RESPONSE,
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, namespace_unknown(s))),
    ),
    Case::new(
        Clause {
            id: POD,
            clause: "a Pod that cannot be found is answered 404",
            source: RESPONSE,
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, pod_unknown(s))),
    ),
    Case::new(
        Clause {
            id: CONTAINER,
            clause: "a container that its Pod does not have is answered 404",
            source: RESPONSE,
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(status_is_404(s, container_unknown(s))),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/namespace-unknown-body",
            clause: "the body for an unknown namespace is that for an unknown Pod",
            source: SERVER,
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
            source: SERVER,
            level: Level::Reference,
            expected: "pod does not exist",
        },
        |s| Box::pin(body_is(s, pod_unknown(s), POD, "pod does not exist".to_owned())),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/container-unknown-body",
            clause: "the body for an unknown container names it",
            source: SERVER,
            level: Level::Reference,
            expected: "container <name> does not exist",
        },
        |s| {
            let unknown = container_unknown(s);
            let body = format!("container {} does not exist", unknown.container);
            Box::pin(body_is(s, unknown, CONTAINER, body))
        },
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
