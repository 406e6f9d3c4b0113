//! The archive of a checkpoint: what it is, who may read it, whose it is.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG};

use super::session::{ID, MEMBERS, RuntimeSession, TAR, find, is_tar};
use crate::{
    case::{Case, Clause, Judgement, Level, Outcome, Stop, fail, judge, pass},
    catalog,
    catalog::authority,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: TAR,
            clause: "the archive is an uncompressed tar that ends where the file does",
            authority: authority::E2E,
            motivation: "",
            level: Level::Reference,
            expected: "members, and an end",
        },
        |s| Box::pin(tar_is_whole(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/archive/mode",
            clause: "a new archive can be read by its owner alone: it holds the container's memory",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Documented,
            expected: "no permission for group and others",
        },
        |s| Box::pin(mode(s)),
    ),
    Case::new(
        Clause {
            id: MEMBERS,
            clause: "the archive has the members by which Kubernetes' own test knows one",
            authority: authority::E2E,
            motivation: "",
            level: Level::Reference,
            expected: "checkpoint/inventory.img, config.dump and spec.dump",
        },
        |s| Box::pin(members(s)),
    ),
    Case::new(
        Clause {
            id: ID,
            clause: "the archive says which container it is of: config.dump has its id",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "the container's full id",
        },
        |s| Box::pin(id(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/archive/log",
            clause: "the container's log is in the archive, with all that it told before the call",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "container.log (containerd) or io.kubernetes.cri-o.LogPath (CRI-O) with the tick before the call",
        },
        |s| Box::pin(log(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/archive/consistent",
            clause: "files are copied while the container stands still: none is newer than its memory",
            authority: authority::KEP_MOTIVATION,
            motivation: "cri-o#6977: the container ran on before its files were copied",
            level: Level::Robust,
            expected: "no tick in the archive's log that the memory does not know yet",
        },
        |s| Box::pin(consistent(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/archive/suite",
            clause: "the archive holds to what readers of such archives rely on",
            authority: authority::E2E,
            motivation: "",
            level: Level::Reference,
            expected: "none of them fails",
        },
        |s| Box::pin(suite(s)),
    ),
];

async fn tar_is_whole(s: &RuntimeSession) -> Judgement {
    let archive = s.inspected().await?;
    let members = archive.members.len();
    match is_tar(archive) {
        true => pass("a whole tar"),
        false => fail(format!("{:?} after {members} members", archive.end)),
    }
}

async fn mode(s: &RuntimeSession) -> Judgement {
    let (_, file) = s.file().await?;
    judge(file.mode & 0o077 == 0, format!("{:04o}", file.mode))
}

async fn members(s: &RuntimeSession) -> Judgement {
    let archive = s.criu().await?;
    let wanted = ["checkpoint/inventory.img", "config.dump", "spec.dump"];
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|name| archive.member(name).is_none())
        .collect();
    match missing.is_empty() {
        true => pass("all three"),
        false => fail(format!("no {}", missing.join(", "))),
    }
}

async fn id(s: &RuntimeSession) -> Judgement {
    let archive = s.criu().await?;
    let Some(config) = archive.documents.config.read() else {
        return Err(Stop::Blocked(MEMBERS));
    };
    let holds = config.id == s.made().await?.container.id();
    judge(
        holds,
        if holds {
            "its own id"
        } else {
            "the id of another container"
        },
    )
}

async fn log(s: &RuntimeSession) -> Judgement {
    s.criu().await?;
    let first = &s.made().await?.attempt;
    let Some(text) = log_of(&first.location).await? else {
        return fail("no log");
    };
    let told = first.before.workload.tick;
    let holds = ticks(&text).contains(&told);
    judge(
        holds,
        if holds {
            "the log, with the tick before the call"
        } else {
            "a log without the tick before the call"
        },
    )
}

async fn consistent(s: &RuntimeSession) -> Judgement {
    s.stand_in()?;
    s.criu().await?;
    let first = &s.made().await?.attempt;
    let Some(text) = log_of(&first.location).await? else {
        return Err(Stop::Blocked("runtime/archive/log"));
    };
    let pulse = super::memory::pulse(&first.before.workload)?;
    let Some(found) = find(&first.location, pulse.clone()).await? else {
        return Err(Stop::Blocked(super::memory::HEAP));
    };
    let held = number_at(&first.location, found.member, found.offset + pulse.len() as u64).await?;
    let told = ticks(&text).last().copied().unwrap_or_default();
    // The counter in memory is set before its line is written: the memory is never behind the log of the same moment.
    match told <= held {
        true => pass("the log is not newer than the memory"),
        false => fail("the log has lines that the memory does not know yet"),
    }
}

async fn suite(s: &RuntimeSession) -> Judgement {
    let archive = s.criu().await?.clone();
    let judged = tokio::task::spawn_blocking(move || catalog::archive::judge(&archive)).await;
    let records = judged.map_err(|error| Stop::error(&error))?;
    let binding: Vec<_> = records
        .iter()
        .filter(|record| record.clause.level != Level::Robust)
        .collect();
    let with = |takes: fn(&Outcome) -> bool| binding.iter().filter(move |record| takes(&record.outcome));
    if let Some(record) = with(|outcome| matches!(outcome, Outcome::Error { .. })).next() {
        return Err(Stop::Error(format!("{}: {}", record.clause.id, record.outcome.text())));
    }
    let passed = with(|outcome| matches!(outcome, Outcome::Pass { .. })).count();
    let failed: Vec<_> = with(|outcome| matches!(outcome, Outcome::Fail { .. }))
        .map(|record| format!("{} ({})", record.clause.id, record.outcome.text()))
        .collect();
    match failed.is_empty() {
        true => judge(
            passed > 0,
            format!(
                "{passed} of {} pass, the others are about what is not there",
                binding.len()
            ),
        ),
        false => fail(format!(
            "{} of {} fail: {}",
            failed.len(),
            binding.len(),
            failed.join("; ")
        )),
    }
}

/// The container's log in an archive, under the name of either engine.
async fn log_of(path: &Path) -> Result<Option<Vec<u8>>, Stop> {
    read(path, |archive| {
        for name in [CONTAINER_LOG, CRIO_LOG] {
            if let Some(content) = content_of(&archive, name, 0, None)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    })
    .await
}

/// Eight bytes of a member as a number in the machine's order.
pub(super) async fn number_at(path: &Path, member: String, offset: u64) -> Result<u64, Stop> {
    let bytes = read(path, move |archive| content_of(&archive, &member, offset, Some(8))).await?;
    let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    number.ok_or_else(|| Stop::Error("the archive has changed while it was read".to_owned()))
}

async fn read<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(PathBuf) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Stop> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || work(path))
        .await
        .map_err(|error| Stop::error(&error))?
        .map_err(|error| Stop::error(&error))
}

/// The content of a member from an offset on, so many bytes of it; of a log no more than any of ours grows to.
fn content_of(archive: &Path, name: &str, offset: u64, length: Option<u64>) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::{Read as _, copy, sink};
    const LONGEST: u64 = 16 << 20;
    let mut archive = tar::Archive::new(std::fs::File::open(archive)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./") == name {
            copy(&mut entry.by_ref().take(offset), &mut sink())?;
            let mut content = Vec::new();
            entry.take(length.unwrap_or(LONGEST)).read_to_end(&mut content)?;
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// The numbers of the first process's ticks in a log of the CRI's format.
pub(super) fn ticks(log: &[u8]) -> BTreeSet<u64> {
    let text = String::from_utf8_lossy(log).into_owned();
    let number = |line: &str| {
        let (before, tick) = line.split_once("tick ")?;
        let of_child = before.ends_with("child ");
        tick.split_whitespace().next()?.parse().ok().filter(|_| !of_child)
    };
    // An unfinished last line may hold half a number.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_the_first_process_in_whole_lines() {
        let log =
            b"2026-01-01T00:00:00Z stdout F tick 9 pid=1 start=2\n2026-01-01T00:00:00Z stdout F child tick 7 pid=2\n\
            2026-01-01T00:00:00Z stdout F tick 10 pid=1 start=2\n2026-01-01T00:00:00Z stdout F tick 1";
        assert_eq!(ticks(log).into_iter().collect::<Vec<_>>(), [9, 10]);
    }
}
