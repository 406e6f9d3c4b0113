//! A checkpoint of a running container, and its archive.

use super::{
    CRI,
    session::{ARCHIVE, OK, RuntimeSession},
};
use crate::case::{Case, Clause, Judgement, Level, fail, judge, pass};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: OK,
            clause: "a checkpoint of a running container succeeds",
            source: CRI,
            level: Level::Documented,
            expected: "success",
        },
        |s| Box::pin(ok(s)),
    ),
    Case::new(
        Clause {
            id: ARCHIVE,
            clause: "when the call has succeeded, the archive is at the location of the request",
            source: "CRI runtime.v1: CheckpointContainerRequest.location",
            level: Level::Documented,
            expected: "a file that is not empty",
        },
        |s| Box::pin(archive(s)),
    ),
];

async fn ok(s: &RuntimeSession) -> Judgement {
    let first = s.first().await?;
    judge(first.answer.is_ok(), first.answer.to_string())
}

async fn archive(s: &RuntimeSession) -> Judgement {
    let first = s.made().await?;
    match &first.file {
        Ok(file) if file.length > 0 => pass(format!("a file of {} bytes", file.length)),
        Ok(_) => fail("a file of no bytes"),
        Err(why) => fail(format!("{}: {why}", first.location.display())),
    }
}
