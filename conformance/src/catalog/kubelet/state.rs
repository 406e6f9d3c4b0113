//! Containers of every state: which can be checkpointed, and what is said of those that cannot.

use std::time::{Duration, Instant};

use super::session::{Session, described};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, judge},
    catalog::authority,
    target::ContainerRef,
};

/// The case about containers that have exited.
const EXITED: &str = "kubelet/500/exited";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: EXITED,
            clause: "a container that has exited is answered 500, and the runtime is not called",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.neighbours.exited.as_ref())),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/init-finished",
            clause: "an init container that has finished is answered 500, and the runtime is not called",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.neighbours.init.as_ref())),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/created",
            clause: "a container that was created and never started is answered 500, and the runtime is not called",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.neighbours.created.as_ref())),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/restarting",
            clause: "a container that ends again and again and waits to be started is answered 500, and the runtime is not called",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(restarting(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/ephemeral",
            clause: "an ephemeral container is one of its Pod's: one that does not run is answered 500, not 404",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 when it does not run, 200 when it does",
        },
        |s| Box::pin(ephemeral(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/sidecar",
            clause: "an init container that runs can be checkpointed as any other",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(sidecar(s)),
    ),
];

/// What is said of a container that is there and does not run.
fn not_found(container: &ContainerRef) -> String {
    format!(
        "checkpointing of {container} failed (container {} not found)",
        container.container
    )
}

async fn not_running(s: &Session, container: Option<&ContainerRef>) -> Judgement {
    s.served().await?;
    let Some(container) = container else {
        return Err(Stop::Skip(
            "needs a container that does not run, in this state".to_owned(),
        ));
    };
    let mark = s.mark().await?;
    let answer = s.kubelet.checkpoint(container, "").await?;
    let calls = s.calls_after(mark).await?;
    if let Some(call) = calls.iter().flatten().next() {
        return fail(format!(
            "{}, and the runtime was called for {}",
            answer.brief(),
            call.container_id
        ));
    }
    judge(
        answer.status == 500 && answer.body == not_found(container),
        format!("{}; {}", answer.brief(), described(&calls)),
    )
}

async fn restarting(s: &Session) -> Judgement {
    s.served().await?;
    let Some(container) = &s.kubelet.neighbours.restarting else {
        return Err(Stop::Skip("needs a container that fails again and again".to_owned()));
    };
    // The pause is seconds long; after it the container runs for a moment, of which older kubelets tell late.
    const WITHIN: Duration = Duration::from_secs(10);
    const POLL: Duration = Duration::from_millis(100);
    let began = Instant::now();
    while began.elapsed() < WITHIN {
        let Some(before) = s.kubelet.restarts(container).await? else {
            tokio::time::sleep(POLL).await;
            continue;
        };
        // It must have waited all the time.
        let judgement = not_running(s, Some(container)).await;
        if s.kubelet.restarts(container).await? == Some(before) {
            return judgement;
        }
    }
    Err(Stop::Skip(format!("{container} does not wait to be started")))
}

async fn ephemeral(s: &Session) -> Judgement {
    s.served().await?;
    let Some(container) = &s.kubelet.neighbours.ephemeral else {
        return Err(Stop::Skip(
            "needs an ephemeral container, which only an API server adds to a Pod".to_owned(),
        ));
    };
    let answer = s.kubelet.checkpoint(container, "").await?;
    let holds = answer.status == 200 || (answer.status == 500 && answer.body == not_found(container));
    judge(holds, answer.brief())
}

async fn sidecar(s: &Session) -> Judgement {
    s.again().await?;
    let Some(container) = &s.kubelet.neighbours.sidecar else {
        return Err(Stop::Skip("needs an init container that runs".to_owned()));
    };
    let answer = s.kubelet.checkpoint(container, "").await?;
    judge(answer.status == 200, answer.brief())
}
