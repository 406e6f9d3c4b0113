//! Whether all processes and threads of the container are in the archive.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::session::{RuntimeSession, THREADS, inspect, is_tar};
use crate::case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass};
use crate::catalog::authority;

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: "runtime/processes/threads",
            clause: "every thread of a process is in the archive, with its registers",
            authority: authority::CRIU_TREE,
            motivation: "",
            level: Level::Reference,
            expected: "as many threads in pstree.img as the process has, each with its core image",
        },
        |s| Box::pin(threads(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/processes/all",
            clause: "every process of the container is in the archive, with its memory",
            authority: authority::CRIU_TREE,
            motivation: "",
            level: Level::Reference,
            expected: "the first process and its children, each with mm and pagemap",
        },
        |s| Box::pin(all(s)),
    ),
];

/// How many children the container has that has some.
const CHILDREN: usize = 2;

async fn threads(s: &RuntimeSession) -> Judgement {
    s.stand_in()?;
    let images = &s.criu().await?.images;
    let Some(first) = images.pstree.first() else {
        return Err(Stop::Blocked("runtime/archive/suite"));
    };
    let cores = first
        .threads
        .iter()
        .filter(|tid| images.cores.contains_key(tid))
        .count();
    // One more than asked for holds a canary.
    let expected = THREADS + 1;
    let seen = format!(
        "{} threads, {cores} of them with registers, of {expected}",
        first.threads.len()
    );
    judge(first.threads.len() == expected && cores == expected, seen)
}

async fn all(s: &RuntimeSession) -> Judgement {
    s.stand_in()?;
    s.criu().await?;
    let container = s.container(s.small().stand_in("children", CHILDREN).own_pod()).await?;
    wait_for_children(container.log()).await?;
    let attempt = s.attempt(&container, "family").await?;
    if !attempt.answer.is_ok() {
        return fail(format!("of a container with {CHILDREN} children: {}", attempt.answer));
    }
    if let Err(why) = &attempt.file {
        return fail(format!(
            "of a container with {CHILDREN} children: success, and no archive: {why}"
        ));
    }
    let archive = inspect(&attempt.location).await?;
    if !is_tar(&archive) {
        return Err(Stop::Blocked(super::session::TAR));
    }
    let images = &archive.images;
    if images.pstree.is_empty() {
        return Err(Stop::Blocked("runtime/archive/suite"));
    }
    let whole = images.pstree.iter().filter(|process| {
        let pid = &process.pid;
        images.cores.contains_key(pid) && images.mms.contains_key(pid) && images.pagemaps.contains_key(pid)
    });
    let (listed, whole, expected) = (images.pstree.len(), whole.count(), CHILDREN + 1);
    if listed == expected && whole == expected {
        pass(format!("{expected} processes with their memory"))
    } else {
        fail(format!(
            "{listed} processes, {whole} of them with their memory, of {expected}"
        ))
    }
}

/// Waits until each child has told that it is up.
async fn wait_for_children(log: &std::path::Path) -> Result<(), Stop> {
    const WITHIN: Duration = Duration::from_secs(10);
    const POLL: Duration = Duration::from_millis(10);
    let began = Instant::now();
    loop {
        let text = tokio::fs::read(log).await.map_err(|error| Stop::error(&error))?;
        let text = String::from_utf8_lossy(&text);
        let children: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.split_once("child tick ")?.1.split_whitespace().nth(1))
            .collect();
        if children.len() == CHILDREN {
            return Ok(());
        }
        if began.elapsed() > WITHIN {
            let up = children.len();
            return Err(Stop::Error(format!(
                "{up} of {CHILDREN} children came up within {WITHIN:?}"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}
