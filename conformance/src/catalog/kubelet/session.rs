//! What the cases of one run share: the kubelet, and the first checkpoint, which many of them judge.
//!
//! ```text
//!  first    one checkpoint of the subject, whatever came of it
//!   made      ... that was answered 200          else blocked by kubelet/200/ok
//!    file       ... and whose archive is there   else blocked by kubelet/200/archive
//!     listing     ... and can be listed          else blocked by kubelet/archive/tar
//! ```
//!
//! Each step is taken once, by the first case that asks for it, so that a single case can be run alone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Method;

use crate::{
    archive::{self, Expected, Inspected, Limits},
    case::{Configuration, Restore, Stop},
    catalog::archive::exhibit,
    exhibit::Once,
    target::{
        Answer, Call, ContainerRef, Credentials, Evidence, Faults, Kubelet, Protocol, TargetError, Variation, Workload,
    },
};

/// The case that judges whether a checkpoint can be had at all.
pub const OK: &str = "kubelet/200/ok";
/// The case that judges whether there is an archive.
pub(super) const ARCHIVE: &str = "kubelet/200/archive";
/// The case that judges whether it is a tar.
pub(super) const TAR: &str = "kubelet/archive/tar";
/// The case that judges whether the kubelet waits for the runtime.
pub(super) const WHEN_DONE: &str = "kubelet/200/when-done";
/// The case that judges whether the container runs on.
pub(super) const RUNS_ON: &str = "kubelet/copy/runs-on";

/// How long an archive or a journal entry may come after the answer: it must not, but another case says so.
pub(super) const LATE: Duration = Duration::from_secs(2);

/// A kubelet in the course of a run.
#[derive(Debug)]
pub struct Session {
    /// The kubelet.
    pub kubelet: Kubelet,
    first: Once<Result<Begun, Stop>>,
    listing: Once<Inspected>,
    began: Instant,
    // The case that found that no further checkpoint can be judged: the container did not survive the first one, or the
    // kubelet does not wait for the runtime.
    spoilt: OnceLock<&'static str>,
}

/// A checkpoint that was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct First {
    /// The workload before.
    pub(super) workload: Workload,
    /// When it was asked for.
    pub(super) began: Timestamp,
    /// When it was answered.
    pub(super) ended: Timestamp,
    /// The answer.
    pub(super) answer: Answer,
    /// What the runtime was sent, where that is known.
    pub(super) sent: Option<Call>,
    /// Where the archive was to be, as the kubelet names it.
    pub(super) location: Option<String>,
    /// The archive as it is found there, or why not.
    pub(super) file: Result<Evidence, Missing>,
}

/// The first checkpoint, and what became of the container.
#[derive(Clone, Debug)]
struct Begun {
    first: First,
    after: Result<After, Stop>,
}

/// The container after the first checkpoint. It is looked at then, and not when a case asks: what was left frozen is let go before
/// the next case.
#[derive(Clone, Debug)]
pub(super) enum After {
    /// It tells nothing, or there was no checkpoint.
    Silent,
    /// As it is once it has moved, or as another process.
    Moved(Workload),
    /// Since the answer it has not moved for seconds; its last tick.
    Still(u64),
}

/// Why there is no archive to look at.
#[derive(Clone, Debug)]
pub(super) enum Missing {
    /// It cannot be looked at from here.
    OutOfReach(String),
    /// It is not where it should be.
    NotThere(String),
}

impl Session {
    /// A session with this kubelet.
    pub fn new(kubelet: Kubelet) -> Session {
        Session {
            kubelet,
            first: Once::default(),
            listing: Once::default(),
            began: Instant::now(),
            spoilt: OnceLock::new(),
        }
    }

    /// Notes that no further checkpoint can be judged, by the case that found it.
    pub(super) fn spoil(&self, id: &'static str) {
        // The first reason is the one that is named.
        let _ = self.spoilt.set(id);
    }

    /// Whether further checkpoints can be judged.
    pub(super) fn sound(&self) -> Result<(), Stop> {
        self.spoilt.get().map_or(Ok(()), |id| Err(Stop::Blocked(id)))
    }

    /// Waits until the run is older than this: there is nothing else to await for a clock.
    pub(super) async fn older_than(&self, age: Duration) {
        tokio::time::sleep_until((self.began + age).into()).await;
    }

    /// Waits until a checkpoint of this container is named otherwise than its last one, which it would be written over, or found in
    /// place of.
    pub(super) async fn unused_name(&self, container: &ContainerRef) {
        let last = self.kubelet.last_checkpoint(container);
        if last.is_some_and(|last| Timestamp::now().as_second() <= last.as_second()) {
            next_second().await;
        }
    }

    /// The container that is checkpointed.
    pub(super) fn subject(&self) -> &ContainerRef {
        &self.kubelet.subject
    }

    /// fake-cri's control, or the reason for a skip.
    pub(super) fn faults(&self) -> Result<&Faults, Stop> {
        let reason = "needs the runtime's faults and journal: a fake-cri with --fake-cri-control";
        self.kubelet
            .faults
            .as_ref()
            .ok_or_else(|| Stop::Skip(reason.to_owned()))
    }

    /// The first checkpoint, whatever was answered.
    pub(super) async fn first(&self) -> Result<&First, Stop> {
        self.begun().await.map(|begun| &begun.first)
    }

    /// What became of the container after the first checkpoint, which was answered 200.
    pub(super) async fn after(&self) -> Result<&After, Stop> {
        self.made().await?;
        self.begun().await?.after.as_ref().map_err(Clone::clone)
    }

    async fn begun(&self) -> Result<&Begun, Stop> {
        let begin = || async {
            let first = self.attempt(self.subject()).await?;
            // A log that cannot be read any more is told by the case about it, and by no other.
            let after = self.look_after(&first).await;
            Ok(Begun { first, after })
        };
        let begun = self.first.get_or_init(begin).await;
        begun.as_ref().map_err(Clone::clone)
    }

    /// Waits until the container has moved after a checkpoint, or for many of its ticks.
    async fn look_after(&self, first: &First) -> Result<After, Stop> {
        const WITHIN: Duration = Duration::from_secs(3);
        let before = &first.workload;
        if first.answer.status != 200 || !before.is_stand_in() {
            return Ok(After::Silent);
        }
        let now = self.kubelet.workload(self.subject()).await?;
        // Of the two ticks that are waited for one may have been under way; the second is after the answer for sure.
        let enough = |later: &Workload| !later.same_process(before) || later.tick >= now.tick + 2;
        let later = self.kubelet.workload_until(self.subject(), WITHIN, enough).await?;
        if !later.as_ref().is_some_and(|later| later.same_process(before)) {
            self.spoil(RUNS_ON);
        }
        Ok(later.map_or(After::Still(now.tick), After::Moved))
    }

    /// The first checkpoint, which was answered 200.
    pub(super) async fn made(&self) -> Result<&First, Stop> {
        let first = self.first().await?;
        if first.answer.status == 200 {
            Ok(first)
        } else {
            Err(Stop::Blocked(OK))
        }
    }

    /// The first checkpoint's archive.
    pub(super) async fn file(&self) -> Result<&Evidence, Stop> {
        match &self.made().await?.file {
            Ok(evidence) => Ok(evidence),
            Err(Missing::OutOfReach(reason)) => Err(Stop::Skip(reason.clone())),
            Err(Missing::NotThere(_)) => Err(Stop::Blocked(ARCHIVE)),
        }
    }

    /// The first archive as it was read, whatever it is.
    pub(super) async fn inspected(&self) -> Result<&Inspected, Stop> {
        let evidence = self.file().await?;
        let canary = self.first().await?.workload.canary.clone();
        self.listing.get_or_try_init(|| inspect(evidence, canary)).await
    }

    /// The first archive, which is a tar that can be listed.
    pub(super) async fn listing(&self) -> Result<&Inspected, Stop> {
        let archive = self.inspected().await?;
        if is_tar(archive) {
            Ok(archive)
        } else {
            Err(Stop::Blocked(TAR))
        }
    }

    /// The first checkpoint, which was answered 200 and left the container as it was: another one can be had.
    pub(super) async fn again(&self) -> Result<&First, Stop> {
        let first = self.made().await?;
        self.sound()?;
        Ok(first)
    }

    /// Whether the endpoint is served to us: otherwise a 404 or 401 for another reason would say nothing.
    pub(super) async fn served(&self) -> Result<(), Stop> {
        match self.first().await?.answer.status {
            401 | 403 | 404 | 405 => Err(Stop::Blocked(OK)),
            _ => Ok(()),
        }
    }

    /// The journal's end, where there is a journal.
    pub(super) async fn mark(&self) -> Result<Option<u64>, Stop> {
        match &self.kubelet.faults {
            Some(faults) => Ok(Some(faults.mark().await?)),
            None => Ok(None),
        }
    }

    /// The checkpoints that the runtime was asked for since; `None` without a journal.
    pub(super) async fn calls_after(&self, mark: Option<u64>) -> Result<Option<Vec<Call>>, Stop> {
        match (&self.kubelet.faults, mark) {
            (Some(faults), Some(mark)) => Ok(Some(faults.checkpoints_after(mark).await?)),
            _ => Ok(None),
        }
    }

    /// The answer to a POST whose path goes over the wire as it is written here.
    pub(super) async fn raw(&self, path: &str) -> Result<Answer, Stop> {
        if self.kubelet.proxied {
            return Err(Stop::Skip(
                "the API server rewrites paths before the kubelet sees them: needs the node's own address".to_owned(),
            ));
        }
        self.served().await?;
        let client = self.kubelet.client().await;
        let answer = client
            .send_raw(Credentials::Good, Protocol::Http1, Method::POST, path)
            .await?
            .ok_or_else(|| Stop::Skip("the kubelet does not speak HTTP/1.1".to_owned()))?;
        self.kubelet.remember_items(&answer);
        Ok(answer)
    }

    /// One checkpoint of a container, with all that can be known of it.
    pub(super) async fn attempt(&self, container: &ContainerRef) -> Result<First, Stop> {
        self.sound()?;
        let kubelet = &self.kubelet;
        // A target whose log cannot be read is judged all the same; the cases about the workload then say why not.
        let workload = kubelet.workload(container).await.unwrap_or_default();
        let mark = match &kubelet.faults {
            Some(faults) => Some((faults, faults.mark().await?)),
            None => None,
        };
        let before = self.names_in_folder();
        let began = Timestamp::now();
        let answer = kubelet.checkpoint(container, "").await?;
        let ended = Timestamp::now();
        let sent = match mark {
            Some((faults, mark)) if answer.status == 200 => faults.next_checkpoint(mark, LATE).await?,
            Some((faults, mark)) => faults.checkpoints_after(mark).await?.pop(),
            None => None,
        };
        let new_in_folder = || self.names_in_folder().difference(&before).next().cloned();
        let location = sent
            .as_ref()
            .map(|call| call.location.clone())
            .or_else(|| item_of(&answer))
            .or_else(|| {
                Some(
                    kubelet
                        .checkpoints
                        .as_ref()?
                        .join(new_in_folder()?)
                        .to_string_lossy()
                        .into_owned(),
                )
            });
        if let Some(location) = &location {
            kubelet.remember(location);
        }
        let file = self.find(&answer, location.as_deref()).await;
        Ok(First {
            workload,
            began,
            ended,
            answer,
            sent,
            location,
            file,
        })
    }

    /// Where a location of the kubelet's can be read from here.
    pub(super) fn reachable(&self, location: &str) -> Option<PathBuf> {
        let folder = self.kubelet.checkpoints.as_ref()?;
        if self.kubelet.local {
            return Some(PathBuf::from(location));
        }
        Some(folder.join(Path::new(location).file_name()?))
    }

    /// The files that are where a location's is, as far as that can be read.
    pub(super) fn files_beside(&self, location: &str) -> Vec<Evidence> {
        let folder = self
            .reachable(location)
            .and_then(|path| std::fs::read_dir(path.parent()?).ok());
        let entries = folder.into_iter().flatten().flatten();
        entries.filter_map(|entry| Evidence::of(&entry.path()).ok()).collect()
    }

    async fn find(&self, answer: &Answer, location: Option<&str>) -> Result<Evidence, Missing> {
        const POLL: Duration = Duration::from_millis(10);
        let Some(location) = location else {
            return Err(Missing::NotThere("nothing says where the archive is".to_owned()));
        };
        let Some(path) = self.reachable(location) else {
            return Err(Missing::OutOfReach(
                "needs the kubelet's archives: --checkpoints-dir names where they can be read".to_owned(),
            ));
        };
        let began = Instant::now();
        loop {
            match Evidence::of(&path) {
                Ok(evidence) => return Ok(evidence),
                Err(error) if answer.status != 200 || began.elapsed() > LATE => {
                    return Err(Missing::NotThere(format!("{location}: {error}")));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn names_in_folder(&self) -> BTreeSet<String> {
        let folder = self
            .kubelet
            .checkpoints
            .as_ref()
            .and_then(|folder| std::fs::read_dir(folder).ok());
        folder
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Restore for Session {
    fn restore(&self, configuration: Configuration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.kubelet.restore().await.map_err(|error| error.to_string())?;
            match configuration {
                Configuration::PutBack => self.kubelet.configure(Variation::Usual).await,
                Configuration::Leave => None,
            }
            .unwrap_or(Ok(()))
            .map_err(|error| error.to_string())
        })
    }
}

impl From<TargetError> for Stop {
    fn from(error: TargetError) -> Stop {
        Stop::error(&error)
    }
}

/// The first item of a success's body, if it has the form that the Kubernetes kubelet gives it.
pub(super) fn item_of(answer: &Answer) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    Some(body.get("items")?.as_array()?.first()?.as_str()?.to_owned())
}

/// Whether an archive lists at least one member and was read to its end.
pub(super) fn is_tar(archive: &Inspected) -> bool {
    archive.is_complete() && !archive.members.is_empty()
}

/// Reads an archive without holding up the other tasks, and looks for what the workload has in its memory.
pub(super) async fn inspect(evidence: &Evidence, canary: Option<String>) -> Result<Inspected, Stop> {
    let path = evidence.path.clone();
    let expected = Expected {
        memory: canary.map(String::into_bytes),
        ..Expected::default()
    };
    let read = tokio::task::spawn_blocking(move || archive::inspect_file(&path, &expected, Limits::default()));
    let archive = read
        .await
        .map_err(|error| Stop::error(&error))?
        .map_err(|error| Stop::error(&error))?;
    exhibit(&archive);
    Ok(archive)
}

/// Waits for the next second: the names of archives hold the time to the second.
pub(super) async fn next_second() {
    let left = 1000 - Timestamp::now().subsec_millisecond();
    tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(1000) + 20)).await;
}

/// How often the runtime was called, or that this cannot be seen: without a journal no call is not the same as none.
pub(super) fn described(calls: &Option<Vec<Call>>) -> String {
    match calls.as_deref() {
        None => "without a journal of the runtime its calls are not seen".to_owned(),
        Some([]) => "the runtime was not called".to_owned(),
        Some([_]) => "the runtime was called once".to_owned(),
        Some(calls) => format!("the runtime was called {} times", calls.len()),
    }
}
