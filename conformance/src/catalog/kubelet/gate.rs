//! Where the endpoint is served and where it is not: 404 with the feature gate off, without debugging handlers, on the
//! read-only port; 200 where the gate is left alone.

use reqwest::Method;

use super::session::{Session, described};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    catalog::authority,
    target::{Answer, Credentials, Variation},
};

const OFF: &str = "kubelet/404/gate-off";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: OFF,
            clause: "with the feature gate ContainerCheckpoint off a checkpoint is answered 404",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(off(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/gate-off-body",
            clause: "with the gate off there is no such route, so its 404 is that of any unknown path",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 page not found and a newline",
        },
        |s| Box::pin(body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/gate-off-without-credentials",
            clause: "with the gate off there is nothing to authenticate for: no credentials, 404 as well",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(without_credentials(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/gate-default",
            clause: "a kubelet whose configuration does not name the feature gate ContainerCheckpoint serves checkpoints",
            authority: authority::FEATURES,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(default(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/debugging-off",
            clause: "without debugging handlers there is no such route",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 page not found and a newline, with credentials and without",
        },
        |s| Box::pin(debugging_off(s)),
    ),
];

/// What needs no restart.
pub(super) const READ_ONLY: &[Case<Session>] = &[Case::new(
    Clause {
        id: "kubelet/404/read-only-port",
        clause: "the port that asks nobody who they are has no checkpoints",
        authority: authority::SERVER,
        motivation: "CVE-2025-0426: checkpoints through the read-only port filled the disk",
        level: Level::Reference,
        expected: "404 page not found and a newline, and the runtime is not called",
    },
    |s| Box::pin(read_only_port(s)),
)];

/// Sees to it that the kubelet runs with one thing changed; the runner puts it back for cases that build on the usual configuration.
async fn configured(s: &Session, variation: Variation) -> Result<(), Stop> {
    s.served().await?;
    s.sound()?;
    match s.kubelet.configure(variation).await {
        Some(configured) => Ok(configured?),
        None => Err(Stop::Skip(
            "needs a kubelet that can be started again with another configuration".to_owned(),
        )),
    }
}

async fn ask_with_gate_off(s: &Session, credentials: Credentials) -> Result<Answer, Stop> {
    configured(s, Variation::GateOff).await?;
    Ok(s.kubelet.checkpoint_as(credentials, s.subject(), "").await?)
}

async fn off(s: &Session) -> Judgement {
    let answer = ask_with_gate_off(s, Credentials::Good).await?;
    judge(answer.status == 404, answer.brief())
}

async fn body(s: &Session) -> Judgement {
    let answer = ask_with_gate_off(s, Credentials::Good).await?;
    if answer.status != 404 {
        return Err(Stop::Blocked(OFF));
    }
    judge(answer.body == "404 page not found\n", format!("{:?}", answer.body))
}

async fn without_credentials(s: &Session) -> Judgement {
    let answer = ask_with_gate_off(s, Credentials::Good).await?;
    if answer.status != 404 {
        return Err(Stop::Blocked(OFF));
    }
    let answer = s.kubelet.checkpoint_as(Credentials::None, s.subject(), "").await?;
    judge(answer.status == 404, answer.brief())
}

async fn default(s: &Session) -> Judgement {
    s.again().await?;
    configured(s, Variation::GateDefault).await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    judge(answer.status == 200, answer.brief())
}

const NO_ROUTE: &str = "404 page not found\n";

async fn debugging_off(s: &Session) -> Judgement {
    configured(s, Variation::DebuggingOff).await?;
    let good = s.kubelet.checkpoint(s.subject(), "").await?;
    let none = s.kubelet.checkpoint_as(Credentials::None, s.subject(), "").await?;
    let holds = [&good, &none]
        .iter()
        .all(|answer| answer.status == 404 && answer.body == NO_ROUTE);
    judge(
        holds,
        format!("{} with credentials, {} without", good.brief(), none.brief()),
    )
}

async fn read_only_port(s: &Session) -> Judgement {
    s.again().await?;
    let mark = s.mark().await?;
    let path = format!("/checkpoint/{}", s.subject());
    let client = s.kubelet.client().await;
    let Some(answer) = client.send_read_only(Method::POST, &path).await? else {
        return Err(Stop::Skip("needs a kubelet with a read-only port".to_owned()));
    };
    s.kubelet.remember_items(&answer);
    let calls = s.calls_after(mark).await?;
    let called = described(&calls);
    let holds = answer.status == 404 && answer.body == NO_ROUTE && calls.is_none_or(|calls| calls.is_empty());
    judge(holds, format!("{}; {called}", answer.brief()))
}
