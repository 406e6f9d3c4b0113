//! 404 with the feature gate off: the endpoint is not there, for nobody.

use super::{RESPONSE, SERVER, session::Session};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    target::{Answer, Credentials, Gate},
};

const OFF: &str = "kubelet/404/gate-off";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: OFF,
            clause: "with the feature gate ContainerCheckpoint off a checkpoint is answered 404",
            source: RESPONSE,
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(off(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/gate-off-body",
            clause: "with the gate off there is no such route, so its 404 is that of any unknown path",
            source: SERVER,
            level: Level::Reference,
            expected: "404 page not found and a newline",
        },
        |s| Box::pin(body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/404/gate-off-without-credentials",
            clause: "with the gate off there is nothing to authenticate for: no credentials, 404 as well",
            source: SERVER,
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(without_credentials(s)),
    ),
];

async fn ask_with_gate_off(s: &Session, credentials: Credentials) -> Result<Answer, Stop> {
    s.served().await?;
    s.sound()?;
    // The runner puts the gate back after the case.
    match s.kubelet.switch(Gate::Off).await {
        Some(switched) => switched?,
        None => {
            return Err(Stop::Skip(
                "needs a kubelet that can be started again with the gate off".to_owned(),
            ));
        }
    }
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
