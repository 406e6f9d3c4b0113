//! A runtime that hangs, breaks off, is gone, comes back, or answers too late.

use std::time::{Duration, Instant};

use super::{
    rule,
    session::{LATE, Session},
};
use crate::{
    case::{Authority, Case, Clause, Judgement, Level, Stop, fail, judge},
    catalog::authority,
    target::{SHORT_DEADLINE, Variation},
};

const SECOND: &str = "kubelet/robust/second-checkpoint";

pub(super) const CASES: &[Case<Session>] = &[Case::new(
    Clause {
        id: "kubelet/500/connection-lost",
        clause: "a runtime that breaks off the connection is answered 500, and is not called again by itself",
        authority: authority::CRI_CLIENT,
        motivation: "",
        level: Level::Reference,
        expected: "500 with code = Unavailable, one call",
    },
    |s| Box::pin(connection_lost(s)),
)];

/// What restarts the runtime.
pub(super) const RUNTIME: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/500/runtime-gone",
            clause: "a runtime that cannot be reached is answered 500",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with code = Unavailable",
        },
        |s| Box::pin(runtime_gone(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/runtime-restarted",
            clause: "a runtime that was killed and started again serves checkpoints without a restart of the kubelet",
            authority: Authority::PROJECT,
            motivation: "containerd and CRI-O: containers outlive a restart of the runtime",
            level: Level::Robust,
            expected: "200 soon after",
        },
        |s| Box::pin(runtime_restarted(s)),
    ),
];

/// What restarts the kubelet with a short deadline.
pub(super) const DEADLINES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/500/deadline",
            clause: "a runtime that does not answer before the deadline is answered 500, at the deadline, and its call is cancelled",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with code = DeadlineExceeded, about when the deadline passes",
        },
        |s| Box::pin(deadline(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/late-answer",
            clause: "a runtime that is done only after the deadline does not spoil the next checkpoint",
            authority: Authority::PROJECT,
            motivation: "containerd 2.4-beta: after a checkpoint that ran out of time the next one failed",
            level: Level::Robust,
            expected: "500, then 200",
        },
        |s| Box::pin(late_answer(s)),
    ),
];

/// Whether the body wraps this code of the runtime's client.
fn wraps(body: &str, code: &str) -> bool {
    body.starts_with("checkpointing of ") && body.contains(&format!("(rpc error: code = {code} desc = "))
}

async fn connection_lost(s: &Session) -> Judgement {
    s.again().await?;
    let faults = s.faults()?;
    // Once: a second call of the kubelet's own would find a runtime that is well.
    let text = rule(s.subject(), "before", "drop").replacen(')', ",times=1)", 1);
    faults.add(&[&text]).await?;
    let mark = s.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    faults.next_checkpoint(mark.unwrap_or_default(), LATE).await?;
    let calls = s.calls_after(mark).await?.unwrap_or_default().len();
    let holds = answer.status == 500 && wraps(&answer.body, "Unavailable") && calls == 1;
    judge(holds, format!("{}, {calls} calls", answer.brief()))
}

/// Kills the runtime; the runner starts it again after the case.
async fn kill(s: &Session) -> Result<(), Stop> {
    s.again().await?;
    if s.kubelet.kill_runtime().await {
        return Ok(());
    }
    Err(Stop::Skip("needs a runtime that is started here: fake-cri".to_owned()))
}

async fn runtime_gone(s: &Session) -> Judgement {
    kill(s).await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    let holds = answer.status == 500 && wraps(&answer.body, "Unavailable");
    // The message differs from run to run: the kubelet's client may or may not have noticed the lost connection
    // before the call ("error reading from server" or "connection refused").
    judge(
        holds,
        if holds {
            "500 with code = Unavailable".to_owned()
        } else {
            answer.brief()
        },
    )
}

async fn runtime_restarted(s: &Session) -> Judgement {
    // The kubelet's client waits longer and longer before it connects again, up to some seconds.
    const WITHIN: Duration = Duration::from_secs(12);
    const POLL: Duration = Duration::from_millis(50);
    kill(s).await?;
    s.kubelet.restart_runtime().await?;
    let began = Instant::now();
    loop {
        let answer = s.kubelet.checkpoint(s.subject(), "").await?;
        if answer.status == 200 || began.elapsed() > WITHIN {
            let soon = began.elapsed() <= WITHIN;
            return judge(answer.status == 200 && soon, answer.brief());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A kubelet whose calls of the runtime end soon, and a runtime that does this to the next checkpoint.
async fn impatient(s: &Session, phase: &str, effect: &str) -> Result<(), Stop> {
    s.again().await?;
    let faults = s.faults()?;
    match s.kubelet.configure(Variation::ShortDeadline).await {
        Some(configured) => configured?,
        None => {
            let reason = "needs a kubelet that can be started again with a short deadline";
            return Err(Stop::Skip(reason.to_owned()));
        }
    }
    let text = rule(s.subject(), phase, effect).replacen(')', ",times=1)", 1);
    faults.add(&[&text]).await?;
    Ok(())
}

async fn deadline(s: &Session) -> Judgement {
    // What a busy machine may add; far from the two minutes that are the default.
    const SLACK: Duration = Duration::from_secs(8);
    impatient(s, "before", "hang").await?;
    let mark = s.mark().await?;
    let began = Instant::now();
    // Whether there is a deadline without a timeout is another case's.
    let answer = s.kubelet.checkpoint(s.subject(), "timeout=1").await?;
    let took = began.elapsed();
    let call = s.faults()?.next_checkpoint(mark.unwrap_or_default(), LATE).await?;
    let Some(call) = call else {
        return fail(format!("{}, and the runtime's call goes on", answer.brief()));
    };
    let in_time = took + Duration::from_millis(50) >= SHORT_DEADLINE && took < SHORT_DEADLINE + SLACK;
    let holds = answer.status == 500 && wraps(&answer.body, "DeadlineExceeded") && in_time;
    // The caller's reset and the runtime's own clock race at the deadline: the journal has either, and both are its end.
    let ended = match call.code {
        1 | 4 => "ended with it".to_owned(),
        other => format!("ended with code {other}"),
    };
    let seen = format!(
        "{} about the deadline of {} s: {in_time}; the runtime's call {ended}",
        answer.brief(),
        SHORT_DEADLINE.as_secs(),
    );
    judge(holds, seen)
}

async fn late_answer(s: &Session) -> Judgement {
    impatient(s, "after", "delay(1500ms)").await?;
    let late = s.kubelet.checkpoint(s.subject(), "").await?;
    if late.status != 500 {
        return Err(Stop::Blocked("kubelet/500/deadline"));
    }
    let next = s.kubelet.checkpoint(s.subject(), "").await?;
    if next.status != 200 {
        return fail(format!("{} at the deadline, then {}", late.status, next.brief()));
    }
    if s.kubelet.checkpoint(s.subject(), "").await?.status != 200 {
        return Err(Stop::Blocked(SECOND));
    }
    judge(true, format!("{}, then {}", late.status, next.status))
}
