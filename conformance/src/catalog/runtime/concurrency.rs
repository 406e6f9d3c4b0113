//! Several checkpoints at once.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    motion::Before,
    session::{RuntimeSession, inspect, is_tar},
};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, pass},
    catalog::authority,
    target::runtime::Container,
};

/// The case that judges whether several containers can be checkpointed at once.
const MANY: &str = "runtime/concurrency/many";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: "runtime/concurrency/one-container",
            clause: "of two checkpoints of a container at once each is an error or makes a whole archive, and one does",
            authority: authority::RACE,
            motivation: "several users, or a controller, checkpoint at once",
            level: Level::Robust,
            expected: "a whole archive for each success, and a container that runs on",
        },
        |s| Box::pin(one_container(s)),
    )
    .limit(Duration::from_secs(60)),
    Case::new(
        Clause {
            id: MANY,
            clause: "several containers can be checkpointed at once, and each archive is its own container's",
            authority: authority::RACE,
            motivation: "several users, or a controller, checkpoint at once",
            level: Level::Robust,
            expected: "success for each, and its id in its archive",
        },
        |s| Box::pin(many(s)),
    )
    .limit(Duration::from_secs(60)),
    Case::new(
        Clause {
            id: "runtime/concurrency/no-waiting",
            clause: "a checkpoint of a small container does not wait for that of a large one",
            authority: authority::RACE,
            motivation: "several users, or a controller, checkpoint at once",
            level: Level::Robust,
            expected: "the small one's answer before the large one's",
        },
        |s| Box::pin(no_waiting(s)),
    )
    .limit(Duration::from_secs(60)),
];

/// How long the slow one of two takes in a fake-cri.
const SLOW: Duration = Duration::from_millis(400);
/// Memory that takes any runtime longer than a small container.
const MEMORY: u64 = 192 << 20;

/// Waits until a checkpoint that was asked for has the container stand still; only a moment where its processes cannot be seen.
async fn under_way(s: &RuntimeSession, container: &Container) {
    const POLL: Duration = Duration::from_millis(5);
    const BEGINS: Duration = Duration::from_millis(50);
    const WITHIN: Duration = Duration::from_secs(5);
    if s.runtime.process(container).await.is_none() {
        return tokio::time::sleep(BEGINS).await;
    }
    let stands = async {
        while s.runtime.hold(container).await.is_none() {
            tokio::time::sleep(POLL).await;
        }
    };
    // What was quicker than that is found by when it ended.
    let _ = tokio::time::timeout(WITHIN, stands).await;
}

async fn one_container(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    s.archive().await?;
    let container = s.container(s.small().slow_on_fake(SLOW)).await?;
    let before = Before::of(s, &container).await?;
    let other = async {
        // Another runtime is asked for both at once.
        if s.runtime.is_fake_cri() {
            under_way(s, &container).await;
        }
        s.attempt(&container, "two").await
    };
    let (one, two) = tokio::join!(s.attempt(&container, "one"), other);
    let (one, two) = (one?, two?);
    let made: Vec<_> = [&one, &two]
        .into_iter()
        .filter(|attempt| attempt.answer.is_ok())
        .collect();
    for attempt in &made {
        match &attempt.file {
            Ok(file) if is_tar(&inspect(&file.path).await?) => {}
            Ok(file) => return fail(format!("success, and {} bytes that are no whole archive", file.length)),
            Err(why) => return fail(format!("success, and no archive: {why}")),
        }
    }
    if made.is_empty() {
        return fail(format!("neither succeeds: {}; {}", one.answer, two.answer));
    }
    let after = before.again(s, &container).await?;
    if !after.same_process {
        return fail("its first process has ended");
    }
    if !after.moves {
        return fail(after.standstill());
    }
    pass("whole archives, and the container runs on")
}

async fn many(s: &RuntimeSession) -> Judgement {
    const MANY: usize = 3;
    s.own().await?;
    let mut containers = Vec::new();
    for _ in 0..MANY {
        // So long that all of them are under way at once.
        containers.push(s.container(s.small().slow_on_fake(SLOW)).await?);
    }
    let attempts = containers.iter().map(|container| s.attempt(container, "many"));
    for (container, attempt) in containers.iter().zip(join_all(attempts).await) {
        let attempt = attempt?;
        if !attempt.answer.is_ok() {
            let answer = attempt.answer.to_string().replace(container.id(), "ID");
            return fail(format!("one of {MANY} at once: {answer}"));
        }
        if let Err(why) = &attempt.file {
            return fail(format!("one of {MANY} at once: success, and no archive: {why}"));
        }
        let archive = inspect(&attempt.location).await?;
        let id = archive.documents.config.read().map(|config| config.id.clone());
        match id {
            Some(id) if id == container.id() => {}
            Some(_) => return fail("the id of another container in an archive"),
            None => return Err(Stop::Blocked(super::session::MEMBERS)),
        }
    }
    pass(format!("{MANY} at once, each archive its own"))
}

async fn no_waiting(s: &RuntimeSession) -> Judgement {
    s.own().await?;
    let large = match s.runtime.is_fake_cri() {
        true => s.small().slow_on_fake(SLOW * 2),
        false => {
            s.stand_in()?;
            s.small().memory(MEMORY).own_pod()
        }
    };
    let large = s.container(large).await?;
    let small = s.victim().await?;
    let first = async {
        let attempt = s.attempt(&large, "large").await;
        (attempt, tokio::time::Instant::now())
    };
    let second = async {
        under_way(s, &large).await;
        let began = tokio::time::Instant::now();
        let attempt = s.attempt(&small, "small").await;
        (attempt, began, tokio::time::Instant::now())
    };
    let ((one, one_ended), (two, two_began, two_ended)) = tokio::join!(first, second);
    let (one, two) = (one?, two?);
    if !one.answer.is_ok() || !two.answer.is_ok() {
        return Err(Stop::Blocked(MANY));
    }
    if one_ended < two_began {
        return Err(Stop::Skip(
            "the large container was checkpointed too quickly".to_owned(),
        ));
    }
    match two_ended < one_ended {
        true => pass("the small one was answered first"),
        false => fail("the small one was answered after the large one"),
    }
}
