//! What the cases of one run share: the runtime, one container, and its first checkpoints, which many cases judge.
//!
//! ```text
//!  first    one checkpoint of the container, whatever came of it
//!   made      ... that succeeded               else blocked by runtime/checkpoint/ok
//!    file       ... and whose archive is there else blocked by runtime/checkpoint/archive
//!     archive     ... and is a whole tar       else blocked by runtime/archive/tar
//!    intact     ... and left the container as it was, so that it can be checkpointed again
//!     second      another one, which succeeded else blocked by runtime/checkpoint/second
//! ```
//!
//! Each step is taken once, by the first case that asks for it, so that a single case can be run alone. What does harm to a
//! container (deadlines, errors) belongs into a container of the case's own: [`RuntimeSession::container`].

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::{
    aftermath::Aftermaths,
    motion::{Before, Motion},
    place::FullDisk,
    restore::Restored,
};
use crate::{
    archive::{self, Expected, Inspected, Limits},
    case::{Configuration, Restore, Stop},
    catalog::archive::exhibit,
    exhibit::Once,
    target::{
        Evidence,
        runtime::{Checkpoint, CheckpointAnswer, Container, ContainerOptions, Program, Runtime},
    },
};

/// The case that judges whether a checkpoint can be had at all.
pub(super) const OK: &str = "runtime/checkpoint/ok";
/// The case that judges whether there is an archive.
pub(super) const ARCHIVE: &str = "runtime/checkpoint/archive";
/// The case that judges whether the archive is there with the answer.
pub(super) const WHEN_DONE: &str = "runtime/checkpoint/when-done";
/// The case that judges whether a second checkpoint can be had.
pub(super) const SECOND: &str = "runtime/checkpoint/second";
/// The case that judges whether the archive is a tar.
pub(super) const TAR: &str = "runtime/archive/tar";
/// The case that judges which members the archive has.
pub(super) const MEMBERS: &str = "runtime/archive/members";
/// The case that judges whether the archive is of the container that was named.
pub(super) const ID: &str = "runtime/archive/id";
/// The case that judges whether the container runs on after a checkpoint.
pub(super) const LEFT_FROZEN: &str = "runtime/state/left-frozen";
/// The case that judges whether it is the same process after a checkpoint.
pub(super) const SAME_PROCESS: &str = "runtime/state/same-process";

/// A timeout that no checkpoint of a small container comes near, in seconds: the kubelet always sends one.
pub(super) const AMPLE: i64 = 3600;
/// How long an archive may come after the answer: it must not, but another case says so.
const LATE: Duration = Duration::from_secs(1);
/// How many threads the container has, without the one that only holds a canary.
pub(super) const THREADS: usize = 3;
/// The variable in the container's environment whose value is a secret.
const VARIABLE: &str = "CHECKPOINT_CONFORMANCE_CANARY";

/// A runtime in the course of a run.
#[derive(Debug)]
pub struct RuntimeSession {
    /// The runtime.
    pub runtime: Runtime,
    /// What came of checkpoints that failed on purpose.
    pub(super) aftermaths: Aftermaths,
    /// What the environment of the container holds.
    secret: String,
    /// One that nobody asks anything of: what happens to it, or is taken from it, is a mistake.
    bystander: OnceCell<Container>,
    container: OnceCell<Container>,
    first: Once<Result<First, Stop>>,
    second: Once<Attempt>,
    archive: Once<Inspected>,
    /// What came of a checkpoint to a disk that is too small.
    pub(super) full_disk: Once<FullDisk>,
    /// What a container told that goes on from an archive.
    pub(super) restored: Once<Result<Restored, Stop>>,
}

/// The first checkpoint, and what became of the container.
#[derive(Clone, Debug)]
pub(super) struct First {
    /// The container.
    pub(super) container: Container,
    /// The checkpoint.
    pub(super) attempt: Attempt,
    /// The container after it.
    pub(super) after: Motion,
}

/// A checkpoint that was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The container just before.
    pub(super) before: Before,
    /// When it was asked for.
    pub(super) began: Timestamp,
    /// When it was answered.
    pub(super) ended: Timestamp,
    /// The answer.
    pub(super) answer: CheckpointAnswer,
    /// Where the archive was to be.
    pub(super) location: PathBuf,
    /// The archive as it was found there with the answer.
    pub(super) at_once: Option<Evidence>,
    /// The archive as it is found there a moment later at the latest, or why it is not.
    pub(super) file: Result<Evidence, String>,
}

impl RuntimeSession {
    /// A session with this runtime.
    pub fn new(runtime: Runtime) -> RuntimeSession {
        RuntimeSession {
            runtime,
            aftermaths: Aftermaths::default(),
            secret: format!("{:032x}", rand::random::<u128>()),
            bystander: OnceCell::new(),
            container: OnceCell::new(),
            first: Once::default(),
            second: Once::default(),
            archive: Once::default(),
            full_disk: Once::default(),
            restored: Once::default(),
        }
    }

    /// A container of the case's own; removed when the case drops its last handle.
    pub(super) async fn container(&self, options: ContainerOptions) -> Result<Container, Stop> {
        if options.needs_stand_in() {
            self.stand_in()?;
        }
        Ok(self.runtime.container(options).await?)
    }

    /// A small container in a Pod of its own, for whatever may happen to it.
    pub(super) async fn victim(&self) -> Result<Container, Stop> {
        self.container(self.small().own_pod()).await
    }

    /// A container that is quickly checkpointed.
    pub(super) fn small(&self) -> ContainerOptions {
        match self.runtime.program {
            Program::StandIn => ContainerOptions::new().memory(64 << 10).stand_in("tick", "20ms"),
            Program::Shell => ContainerOptions::new(),
        }
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

    /// What the environment of the first checkpoint's container holds.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The first checkpoint, whatever was answered.
    pub(super) async fn first(&self) -> Result<&First, Stop> {
        let first = self.first.get_or_init(|| self.begin()).await;
        first.as_ref().map_err(Clone::clone)
    }

    /// The first checkpoint, which succeeded.
    pub(super) async fn made(&self) -> Result<&First, Stop> {
        let first = self.first().await?;
        if first.attempt.answer.is_ok() {
            Ok(first)
        } else {
            Err(Stop::Blocked(OK))
        }
    }

    /// The first checkpoint's archive, which is there.
    pub(super) async fn file(&self) -> Result<(&First, &Evidence), Stop> {
        let first = self.made().await?;
        match &first.attempt.file {
            Ok(evidence) if evidence.length > 0 => Ok((first, evidence)),
            _ => Err(Stop::Blocked(ARCHIVE)),
        }
    }

    /// The first checkpoint's archive as it was read, whatever it is.
    pub(super) async fn inspected(&self) -> Result<&Inspected, Stop> {
        let (_, file) = self.file().await?;
        self.archive.get_or_try_init(|| inspect(&file.path)).await
    }

    /// The first checkpoint's archive, which is a whole tar.
    pub(super) async fn archive(&self) -> Result<&Inspected, Stop> {
        let archive = self.inspected().await?;
        if is_tar(archive) {
            Ok(archive)
        } else {
            Err(Stop::Blocked(TAR))
        }
    }

    /// The same, where it has CRIU's images.
    pub(super) async fn criu(&self) -> Result<&Inspected, Stop> {
        let archive = self.archive().await?;
        if archive.is_criu() {
            Ok(archive)
        } else {
            Err(Stop::Skip("the archive is not in CRIU's format".to_owned()))
        }
    }

    /// The first checkpoint, after which the container is as it was: whatever comes next is not its doing.
    pub(super) async fn intact(&self) -> Result<&First, Stop> {
        let (first, _) = self.file().await?;
        if !first.after.same_process {
            return Err(Stop::Blocked(SAME_PROCESS));
        }
        if !first.after.moves {
            return Err(Stop::Blocked(LEFT_FROZEN));
        }
        Ok(first)
    }

    /// The same, whose archive was there with the answer: what is at a location then is what the call has left.
    pub(super) async fn prompt(&self) -> Result<&First, Stop> {
        let first = self.intact().await?;
        match (&first.attempt.at_once, &first.attempt.file) {
            (Some(at_once), Ok(file)) if at_once == file => Ok(first),
            _ => Err(Stop::Blocked(WHEN_DONE)),
        }
    }

    /// The same, whose archive says that it is of this container: ids are not mixed up.
    pub(super) async fn own(&self) -> Result<&First, Stop> {
        let first = self.intact().await?;
        let archive = self.criu().await?;
        match archive.documents.config.read() {
            Some(config) if config.id == first.container.id() => Ok(first),
            Some(_) => Err(Stop::Blocked(ID)),
            None => Err(Stop::Blocked(MEMBERS)),
        }
    }

    /// Another checkpoint of the same container, whatever was answered.
    pub(super) async fn second_attempt(&self) -> Result<&Attempt, Stop> {
        let first = self.intact().await?;
        let second = self.second.get_or_try_init(|| self.attempt(&first.container, "second"));
        second.await
    }

    /// Another checkpoint of the same container, which succeeded: any number of them can be had.
    pub(super) async fn second(&self) -> Result<&Attempt, Stop> {
        let second = self.second_attempt().await?;
        match (second.answer.is_ok(), &second.file) {
            (true, Ok(_)) => Ok(second),
            _ => Err(Stop::Blocked(SECOND)),
        }
    }

    /// One checkpoint with an ample timeout, to a place of its own.
    pub(super) async fn attempt(&self, container: &Container, name: &str) -> Result<Attempt, Stop> {
        self.attempt_at(container, &self.runtime.location(name)).await
    }

    /// The same to this location.
    pub(super) async fn attempt_at(&self, container: &Container, location: &Path) -> Result<Attempt, Stop> {
        let call = Checkpoint::to(location.to_string_lossy()).timeout(AMPLE);
        self.attempt_with(container, &call).await
    }

    /// One checkpoint, and its archive where it was to be.
    pub(super) async fn attempt_with(&self, container: &Container, call: &Checkpoint) -> Result<Attempt, Stop> {
        const POLL: Duration = Duration::from_millis(5);
        let before = Before::of(self, container).await?;
        let location = PathBuf::from(&call.location);
        let began = Timestamp::now();
        let answer = self.runtime.checkpoint(container, call).await;
        let at_once = Evidence::of(&location).ok();
        let ended = Timestamp::now();
        let waited = Instant::now();
        let file = loop {
            match Evidence::of(&location) {
                Err(_) if answer.is_ok() && waited.elapsed() < LATE => tokio::time::sleep(POLL).await,
                found => break found.map_err(|error| error.to_string()),
            }
        };
        Ok(Attempt {
            before,
            began,
            ended,
            answer,
            location,
            at_once,
            file,
        })
    }

    async fn begin(&self) -> Result<First, Stop> {
        let options = match self.runtime.program {
            Program::StandIn => self.small().stand_in("threads", THREADS).stand_in("canaries", "yes"),
            Program::Shell => self.small(),
        };
        self.bystander.get_or_try_init(|| self.victim()).await?;
        let options = options.own_pod().env(VARIABLE, &self.secret);
        let container = self
            .container
            .get_or_try_init(|| self.container(options))
            .await?
            .clone();
        let attempt = self.attempt(&container, "first").await?;
        let after = attempt.before.again(self, &container).await?;
        Ok(First {
            container,
            attempt,
            after,
        })
    }
}

impl Restore for RuntimeSession {
    /// A runtime is not restarted.
    fn restore(&self, _: Configuration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.runtime.restore().await.map_err(|error| error.to_string()) })
    }
}

/// Whether an archive lists at least one member and was read to its end, with nothing behind it.
pub(super) fn is_tar(archive: &Inspected) -> bool {
    archive.is_complete() && !archive.members.is_empty()
}

/// Reads an archive without holding up the other tasks.
pub(super) async fn inspect(path: &Path) -> Result<Inspected, Stop> {
    let path = path.to_owned();
    let archive = apart(move || archive::inspect_file(&path, &Expected::default(), Limits::default())).await?;
    exhibit(&archive);
    Ok(archive)
}

/// Where in an archive's pages these bytes are, as `MEMBER at byte N`.
pub(super) async fn find(path: &Path, bytes: Vec<u8>) -> Result<Option<archive::Found>, Stop> {
    let path = path.to_owned();
    apart(move || archive::find_in_pages(&path, &bytes)).await
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, archive::InspectError> + Send + 'static,
) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Stop::error(&error))?
        .map_err(|error| Stop::error(&error))
}
