//! 200: a running container is checkpointed, and the answer says where its archive is.

use std::time::Duration;

use super::session::{ARCHIVE, First, LATE, Missing, OK, Session, TAR, WHEN_DONE, inspect, is_tar, item_of};
use crate::case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass};
use crate::{catalog::authority, target::policy};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: OK,
            clause: "a checkpoint of a running container is answered 200",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "200",
        },
        |s| Box::pin(ok(s)),
    ),
    Case::new(
        Clause {
            id: ARCHIVE,
            clause: "after a 200 the archive is where the runtime was asked to store it",
            authority: authority::OPERATIONS,
            motivation: "",
            level: Level::Documented,
            expected: "a regular file",
        },
        |s| Box::pin(archive(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/body",
            clause: "the body of 200 is the JSON object whose `items` lists the archive, without a newline",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: r#"{"items":["<location>"]}"#,
        },
        |s| Box::pin(body(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/body-location",
            clause: "the location in the body is the one that the runtime was asked to write",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "the same path",
        },
        |s| Box::pin(body_location(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/content-type",
            clause: "the content type of 200 is application/json",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "application/json",
        },
        |s| Box::pin(content_type(s)),
    ),
];

/// What asks for further checkpoints, and so comes after what judges the first one.
pub(super) const FURTHER: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: WHEN_DONE,
            clause: "the answer comes when the runtime is done, not before",
            authority: authority::PARAMETERS,
            motivation: "",
            level: Level::Documented,
            expected: "no answer while the runtime is at work",
        },
        |s| Box::pin(when_done(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/200/named-container",
            clause: "the kubelet must checkpoint the container that the path names, and no other",
            authority: authority::OPERATIONS,
            motivation: "",
            level: Level::Documented,
            expected: "the archive and the call to the runtime are of the named container",
        },
        |s| Box::pin(named_container(s)),
    ),
];

async fn ok(s: &Session) -> Judgement {
    let first = s.first().await?;
    if first.answer.status == 500 && policy::makes_no_checkpoint(&first.answer.body) {
        return Err(Stop::Policy(first.answer.brief()));
    }
    judge(first.answer.status == 200, first.answer.brief())
}

async fn archive(s: &Session) -> Judgement {
    match &s.made().await?.file {
        Ok(file) => pass(format!("{} bytes at {}", file.length, file.path.display())),
        Err(Missing::NotThere(reason)) => fail(reason.clone()),
        Err(Missing::OutOfReach(reason)) => Err(Stop::Skip(reason.clone())),
    }
}

async fn when_done(s: &Session) -> Judgement {
    // Long enough to tell from scheduling, short enough not to be felt.
    const WORK: Duration = Duration::from_millis(300);
    s.again().await?;
    let faults = s.faults()?;
    faults
        .add(&[&super::rule(s.subject(), "before", "delay(300ms)")])
        .await?;
    let mark = faults.mark().await?;
    let began = std::time::Instant::now();
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    let took = began.elapsed();
    let seen = format!(
        "{} after {} ms, the runtime worked for {} ms",
        answer.status,
        took.as_millis(),
        WORK.as_millis()
    );
    if took < WORK {
        s.spoil(WHEN_DONE);
        // What is still on its way is not to be taken for a later case's.
        faults.next_checkpoint(mark, LATE).await?;
    }
    judge(answer.status == 200 && took >= WORK, seen)
}

async fn named_container(s: &Session) -> Judgement {
    let Some(other) = &s.kubelet.neighbours.running else {
        return Err(Stop::Skip("needs a second running container in the Pod".to_owned()));
    };
    let first = s.again().await?;
    let second = s.attempt(other).await?;
    if second.answer.status != 200 {
        return fail(second.answer.brief());
    }
    if let (Some(one), Some(two)) = (&first.sent, &second.sent) {
        let differ = one.container_id != two.container_id;
        let seen = format!(
            "{} for {}, {} for {other}",
            one.container_id,
            s.subject(),
            two.container_id
        );
        return judge(differ, seen);
    }
    holds_own_memory(second).await
}

async fn holds_own_memory(second: First) -> Judgement {
    let (Ok(file), Some(canary)) = (second.file, second.workload.canary) else {
        return Err(Stop::Skip(
            "needs the runtime's journal, or the archive and a stand-in's canary".to_owned(),
        ));
    };
    let archive = inspect(&file, Some(canary)).await?;
    if !is_tar(&archive) {
        return Err(Stop::Blocked(TAR));
    }
    if !archive.is_criu() {
        return Err(Stop::Skip("the archive is not in CRIU's format".to_owned()));
    }
    let found = archive.memory.flatten();
    judge(found.is_some(), format!("its canary: {found:?}"))
}

async fn body(s: &Session) -> Judgement {
    let first = s.made().await?;
    let seen = format!("{:?}", first.answer.body);
    let Some(item) = item_of(&first.answer) else {
        return fail(seen);
    };
    let exact = serde_json::json!({ "items": [item] }).to_string();
    judge(first.answer.body == exact, seen)
}

async fn body_location(s: &Session) -> Judgement {
    let first = s.made().await?;
    let item = item_of(&first.answer).ok_or(Stop::Blocked("kubelet/200/body"))?;
    match &first.sent {
        Some(call) => judge(
            item == call.location,
            format!("{item}; the runtime was asked for {}", call.location),
        ),
        None => match &first.file {
            Ok(file) => pass(format!("{item}, found as {}", file.path.display())),
            Err(Missing::NotThere(reason)) => fail(reason.clone()),
            Err(Missing::OutOfReach(reason)) => Err(Stop::Skip(reason.clone())),
        },
    }
}

async fn content_type(s: &Session) -> Judgement {
    let seen = s.made().await?.answer.header("content-type");
    judge(seen == "application/json", seen)
}
