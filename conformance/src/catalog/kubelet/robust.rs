//! What a careful operator wants, and what the kubelet promises its callers only by its code.

use std::time::Duration;

use super::{
    rule,
    session::{LATE, Session, WHEN_DONE, next_second},
};
use crate::{
    case::{Authority, Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::{Evidence, Workload},
};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/cancel/client-gone",
            clause: "a client that goes away ends the call to the runtime",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "the runtime's call is cancelled",
        },
        |s| Box::pin(client_gone(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/second-checkpoint",
            clause: "a container can be checkpointed again",
            authority: Authority::PROJECT,
            motivation: "containerd 2.4-beta: a second checkpoint failed after one that ran out of time",
            level: Level::Robust,
            expected: "200 again",
        },
        |s| Box::pin(second_checkpoint(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/names-differ",
            clause: "two checkpoints within one second do not overwrite each other",
            authority: Authority::PROJECT,
            motivation: "kubernetes#115888: two checkpoints within a second share a name",
            level: Level::Robust,
            expected: "two locations",
        },
        |s| Box::pin(names_differ(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/no-partial-archive",
            clause: "after an error of the runtime nothing is left at the location",
            authority: authority::CLEANUP,
            motivation: "containerd 2.4: a failed copy leaves a partial file behind",
            level: Level::Robust,
            expected: "no file",
        },
        |s| Box::pin(no_partial_archive(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/runs-on-after-error",
            clause: "after a checkpoint that failed the container runs on as it was",
            authority: authority::KEP_FAILED,
            motivation: "containerd 2.4: a container was left frozen after a deadline, while its status said RUNNING",
            level: Level::Robust,
            expected: "the same process, and its counter moves",
        },
        |s| Box::pin(runs_on_after_error(s)),
    ),
];

async fn client_gone(s: &Session) -> Judgement {
    // The runtime would hang until the kubelet's own deadline, minutes later.
    const WITHIN: Duration = Duration::from_secs(3);
    s.again().await?;
    let faults = s.faults()?;
    faults.add(&[&rule(s.subject(), "before", "hang")]).await?;
    let mark = faults.mark().await?;
    // The request is dropped, and its connection with it, as soon as the runtime has the call.
    let reached = tokio::select! {
        answer = s.kubelet.checkpoint(s.subject(), "") => {
            // It did not wait for the runtime at all.
            answer?;
            return Err(Stop::Blocked(WHEN_DONE));
        }
        reached = faults.fires(WITHIN) => reached?,
    };
    if !reached {
        return fail("the runtime was not called");
    }
    match faults.next_checkpoint(mark, WITHIN).await? {
        Some(call) => judge(
            call.cancelled,
            format!("the call ended with code {}, cancelled {}", call.code, call.cancelled),
        ),
        None => fail(format!("the runtime's call goes on {} s later", WITHIN.as_secs())),
    }
}

async fn second_checkpoint(s: &Session) -> Judgement {
    s.again().await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    judge(answer.status == 200, answer.brief())
}

async fn names_differ(s: &Session) -> Judgement {
    s.again().await?;
    // A pair that begins with a second has all of it, unless the machine stands still.
    for pair in 0..3 {
        if pair > 0 {
            next_second().await;
        }
        let one = s.attempt(s.subject()).await?;
        let two = s.attempt(s.subject()).await?;
        let (Some(a), Some(b)) = (&one.location, &two.location) else {
            return Err(Stop::Skip(
                "neither body, journal nor folder says where the archives are".to_owned(),
            ));
        };
        if a == b {
            return fail(format!("both at {a}"));
        }
        if one.began.as_second() == two.ended.as_second() {
            return pass(format!("{a} and {b}"));
        }
    }
    Err(Stop::Skip("no two checkpoints were done within one second".to_owned()))
}

async fn no_partial_archive(s: &Session) -> Judgement {
    let first = s.first().await?;
    if first.answer.status != 200
        && let Some(call) = &first.sent
    {
        // It failed by itself, and that is what is to be judged.
        return leaves_nothing(s, &call.location, first.answer.status, &[]);
    }
    s.file().await?;
    s.sound()?;
    let beside = first.location.as_deref().unwrap_or_default();
    let faults = s.faults()?;
    // Not at the call's beginning but when the archive is whole and about to appear.
    faults
        .add(&[&rule(s.subject(), "finish", "error(Internal,\"asked for\")")])
        .await?;
    let mark = faults.mark().await?;
    // The name holds whole seconds, so an earlier archive may be there by the same name; that one may stay.
    let before = s.files_beside(beside);
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    match faults.next_checkpoint(mark, LATE).await? {
        Some(call) => leaves_nothing(s, &call.location, answer.status, &before),
        None => fail(format!("{}, and the runtime was not called", answer.brief())),
    }
}

fn leaves_nothing(s: &Session, location: &str, status: u16, before: &[Evidence]) -> Judgement {
    let Some(path) = s.reachable(location) else {
        return Err(Stop::Skip("needs the kubelet's archives: --checkpoints-dir".to_owned()));
    };
    match Evidence::of(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => pass(format!("{status}, no file")),
        Err(error) => fail(format!("{status}, {}: {error}", path.display())),
        // Of an earlier one by the same name.
        Ok(file) if before.contains(&file) => pass(format!("{status}, no file")),
        Ok(file) => fail(format!("{status}, {} bytes at {}", file.length, path.display())),
    }
}

async fn runs_on_after_error(s: &Session) -> Judgement {
    const WITHIN: Duration = Duration::from_secs(3);
    s.again().await?;
    let faults = s.faults()?;
    let before = s.kubelet.workload(s.subject()).await?;
    if !before.is_stand_in() {
        return Err(Stop::Skip(format!(
            "{} is no stand-in: its log tells no ticks",
            s.subject()
        )));
    }
    let subject = s.subject();
    faults
        .add(&[&rule(subject, "write", "error(Internal,\"asked for\")")])
        .await?;
    let answer = s.kubelet.checkpoint(subject, "").await?;
    if answer.status == 200 {
        // What a success leaves behind says nothing of an error.
        return Err(Stop::Blocked("kubelet/500/runtime-error"));
    }
    let now = s.kubelet.workload(subject).await?;
    let enough = |later: &Workload| !later.same_process(&before) || later.tick >= now.tick + 2;
    match s.kubelet.workload_until(subject, WITHIN, enough).await? {
        Some(later) if later.same_process(&before) => judge(
            true,
            format!("{}, tick {} before, {} after", answer.status, before.tick, later.tick),
        ),
        Some(_) => fail(format!("{}, and it is another process", answer.status)),
        None => fail(format!("{}, and it stands still at tick {}", answer.status, now.tick)),
    }
}
