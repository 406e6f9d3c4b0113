//! A checkpoint of a running container, its archive, and another one after it.

use jiff::{SignedDuration, Timestamp};

use super::{
    archive::number_at,
    session::{ARCHIVE, MEMBERS, OK, RuntimeSession, SECOND, WHEN_DONE, find, inspect},
};
use crate::case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass};
use crate::{catalog::authority, target::policy};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: OK,
            clause: "a checkpoint of a running container succeeds",
            authority: authority::CRI_CALL,
            motivation: "",
            level: Level::Documented,
            expected: "success",
        },
        |s| Box::pin(ok(s)),
    ),
    Case::new(
        Clause {
            id: ARCHIVE,
            clause: "when the call has succeeded, the archive is at the location of the request",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "a file that is not empty",
        },
        |s| Box::pin(archive(s)),
    ),
    Case::new(
        Clause {
            id: WHEN_DONE,
            clause: "the answer comes when the archive is complete, not before",
            authority: authority::RUNTIMES,
            motivation: "the kubelet hands the location on with the answer",
            level: Level::Reference,
            expected: "the whole archive is there with the answer",
        },
        |s| Box::pin(when_done(s)),
    ),
    Case::new(
        Clause {
            id: SECOND,
            clause: "a container can be checkpointed more than once",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "success, and an archive",
        },
        |s| Box::pin(second(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/checkpoint/own-images",
            clause: "an archive holds the memory as it is then, not that of an earlier checkpoint",
            authority: authority::RUNTIMES,
            motivation: "cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive",
            level: Level::Reference,
            expected: "a counter in the second archive's pages that is not below what the log told before",
        },
        |s| Box::pin(own_images(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/checkpoint/own-time",
            clause: "an archive is of this call: config.dump says a time between its request and its answer",
            authority: authority::RUNTIMES,
            motivation: "cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive",
            level: Level::Reference,
            expected: "checkpointedTime within the call, for the first and the second archive",
        },
        |s| Box::pin(own_time(s)),
    ),
];

async fn ok(s: &RuntimeSession) -> Judgement {
    let answer = &s.first().await?.attempt.answer;
    if policy::makes_no_checkpoint(&answer.message) {
        return Err(Stop::Policy(answer.to_string()));
    }
    judge(answer.is_ok(), answer.to_string())
}

async fn archive(s: &RuntimeSession) -> Judgement {
    let first = &s.made().await?.attempt;
    match &first.file {
        Ok(file) if file.length > 0 => pass(format!("a file of {} bytes", file.length)),
        Ok(_) => fail("a file of no bytes"),
        Err(why) => fail(format!("{}: {why}", first.location.display())),
    }
}

async fn when_done(s: &RuntimeSession) -> Judgement {
    let (first, file) = s.file().await?;
    match &first.attempt.at_once {
        Some(at_once) if at_once == file => pass(format!("{} bytes with the answer", file.length)),
        Some(at_once) => fail(format!(
            "{} bytes with the answer, {} later",
            at_once.length, file.length
        )),
        None => fail("nothing with the answer, and the archive later"),
    }
}

async fn second(s: &RuntimeSession) -> Judgement {
    let second = s.second_attempt().await?;
    match &second.file {
        _ if !second.answer.is_ok() => fail(second.answer.to_string()),
        Ok(file) => pass(format!("success, and a file of {} bytes", file.length)),
        Err(why) => fail(format!("success, and no archive: {why}")),
    }
}

async fn own_images(s: &RuntimeSession) -> Judgement {
    s.stand_in()?;
    s.criu().await?;
    let second = s.second().await?;
    let pulse = super::memory::pulse(&second.before.workload)?;
    let found = find(&second.location, pulse.clone()).await?;
    let Some(found) = found else {
        return Err(Stop::Blocked(super::memory::HEAP));
    };
    let told = second.before.workload.tick;
    let place = found.offset + pulse.len() as u64;
    let held = number_at(&second.location, found.member, place).await?;
    match held >= told {
        true => pass("a counter as the log told it before, or later"),
        false => fail("a counter of before: the log had told a later one"),
    }
}

async fn own_time(s: &RuntimeSession) -> Judgement {
    s.criu().await?;
    let first = &s.made().await?.attempt;
    let second = s.second().await?;
    let mut seen = Vec::new();
    for (name, attempt) in [("first", first), ("second", second)] {
        let archive = inspect(&attempt.location).await?;
        let Some(config) = archive.documents.config.read() else {
            return Err(Stop::Blocked(MEMBERS));
        };
        if !within(config.checkpointed, attempt.began, attempt.ended) {
            seen.push(format!("the {name} archive says another time than its call's"));
        }
    }
    match seen.is_empty() {
        true => pass("within the call, twice"),
        false => fail(seen.join("; ")),
    }
}

/// Whether a time lies within a call, by clocks that may differ a little and a time that may be cut to whole seconds.
fn within(time: Timestamp, began: Timestamp, ended: Timestamp) -> bool {
    let slack = SignedDuration::from_millis(20);
    let whole_second = time.subsec_nanosecond() == 0;
    let early = if whole_second {
        SignedDuration::from_secs(1)
    } else {
        slack
    };
    began.duration_since(time) <= early && time.duration_since(ended) <= slack
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_within_its_call() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (began, ended) = (at("2026-01-01T00:00:10.5Z"), at("2026-01-01T00:00:10.9Z"));
        assert!(within(at("2026-01-01T00:00:10.6Z"), began, ended));
        assert!(within(at("2026-01-01T00:00:10Z"), began, ended));
        assert!(!within(at("2026-01-01T00:00:10.2Z"), began, ended));
        assert!(!within(at("2026-01-01T00:00:11.2Z"), began, ended));
    }
}
