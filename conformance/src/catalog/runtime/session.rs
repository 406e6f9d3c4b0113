//! What the cases of one run share: the runtime, and the first checkpoint, which many of them judge.
//!
//! ```text
//!  first    one checkpoint of a container of its own, whatever came of it
//!   made      ... that succeeded               else blocked by runtime/checkpoint/ok
//!    file       ... and whose archive is there else blocked by runtime/checkpoint/archive
//! ```
//!
//! Each step is taken once, by the first case that asks for it, so that a single case can be run alone. What does harm to a
//! container (deadlines, faults) belongs into a container of the case's own: [`RuntimeSession::container`].

use std::{path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::{
    case::{Restore, Stop},
    target::{
        Evidence, Faults, Workload,
        runtime::{Checkpoint, CheckpointAnswer, Container, ContainerOptions, Program, Runtime},
    },
};

/// The case that judges whether a checkpoint can be had at all.
pub(super) const OK: &str = "runtime/checkpoint/ok";
/// The case that judges whether there is an archive.
pub(super) const ARCHIVE: &str = "runtime/checkpoint/archive";

/// Many ticks long: only a container that stands still misses it.
pub(super) const MOVES_WITHIN: Duration = Duration::from_secs(3);

/// A runtime in the course of a run.
#[derive(Debug)]
pub struct RuntimeSession {
    /// The runtime.
    pub runtime: Runtime,
    first: OnceCell<Result<First, Stop>>,
}

/// A checkpoint that was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct First {
    /// The container.
    #[expect(dead_code, reason = "for cases about what becomes of the container")]
    pub(super) container: Container,
    /// Its workload just before.
    #[expect(dead_code, reason = "for cases that compare before and after")]
    pub(super) before: Workload,
    /// When it was asked for.
    #[expect(dead_code, reason = "for cases about the archive's times")]
    pub(super) began: Timestamp,
    /// When it was answered.
    #[expect(dead_code, reason = "for cases about the archive's times")]
    pub(super) ended: Timestamp,
    /// The answer.
    pub(super) answer: CheckpointAnswer,
    /// Where the archive was to be.
    pub(super) location: PathBuf,
    /// The archive as it is found there, or why it is not.
    pub(super) file: Result<Evidence, String>,
}

impl RuntimeSession {
    /// A session with this runtime.
    pub fn new(runtime: Runtime) -> RuntimeSession {
        RuntimeSession {
            runtime,
            first: OnceCell::new(),
        }
    }

    /// A container of the case's own; removed when the case drops its last handle.
    pub(super) async fn container(&self, options: ContainerOptions) -> Result<Container, Stop> {
        if options.needs_stand_in() {
            self.stand_in()?;
        }
        Ok(self.runtime.container(options).await?)
    }

    /// The containers run the stand-in, which can be told its size and shape, or the reason for a skip.
    pub(super) fn stand_in(&self) -> Result<(), Stop> {
        if self.runtime.program == Program::StandIn {
            return Ok(());
        }
        Err(Stop::Skip(
            "needs the stand-in: the image of `checkpoint-conformance image`, in place of this --image".to_owned(),
        ))
    }

    /// fake-cri's control, or the reason for a skip.
    #[expect(dead_code, reason = "for cases that need faults")]
    pub(super) fn faults(&self) -> Result<&Faults, Stop> {
        let reason = "needs the runtime's faults and journal: a fake-cri with --control";
        self.runtime
            .faults
            .as_ref()
            .ok_or_else(|| Stop::Skip(reason.to_owned()))
    }

    /// The first checkpoint, whatever was answered.
    pub(super) async fn first(&self) -> Result<&First, Stop> {
        let first = self.first.get_or_init(|| self.attempt()).await;
        first.as_ref().map_err(Clone::clone)
    }

    /// The first checkpoint, which succeeded.
    pub(super) async fn made(&self) -> Result<&First, Stop> {
        let first = self.first().await?;
        if first.answer.is_ok() {
            Ok(first)
        } else {
            Err(Stop::Blocked(OK))
        }
    }

    /// The first checkpoint's archive, which is there.
    #[expect(dead_code, reason = "for cases about the archive")]
    pub(super) async fn file(&self) -> Result<(&First, &Evidence), Stop> {
        let first = self.made().await?;
        match &first.file {
            Ok(evidence) => Ok((first, evidence)),
            Err(_) => Err(Stop::Blocked(ARCHIVE)),
        }
    }

    async fn attempt(&self) -> Result<First, Stop> {
        let container = self.container(ContainerOptions::new()).await?;
        let before = self.runtime.workload(&container).await?;
        let location = self.runtime.location("first");
        let began = Timestamp::now();
        let call = Checkpoint::to(location.to_string_lossy());
        let answer = self.runtime.checkpoint(&container, &call).await;
        let ended = Timestamp::now();
        Ok(First {
            container,
            before,
            began,
            ended,
            answer,
            file: Evidence::of(&location).map_err(|error| error.to_string()),
            location,
        })
    }
}

impl Restore for RuntimeSession {
    fn restore(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.runtime.restore().await.map_err(|error| error.to_string()) })
    }
}
