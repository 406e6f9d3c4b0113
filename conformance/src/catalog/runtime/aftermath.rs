//! Checkpoints that fail on purpose, each in a container of its own, and what is left of it then.
//!
//! ```text
//!  a container, slow to checkpoint
//!    checkpoint, which ends in one way: its deadline passes, its timeout passes, its caller goes away, it fails
//!      wait until it would have ended anyway
//!        what is at the location?  does the container run on?  can it be checkpointed once more?
//! ```
//!
//! To have a time pass in the middle of a checkpoint, a container is taken that takes long: by its memory, of which a whole
//! checkpoint is measured first, and when the container stood still in it; in a fake-cri by the Pod's annotation. Each of the four is done once, by the first case that
//! asks for it, and judged by several.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    motion::{Before, Motion},
    session::{AMPLE, OK, RuntimeSession, inspect, is_tar},
};
use crate::{
    case::Stop,
    exhibit::Once,
    target::runtime::{Checkpoint, CheckpointAnswer, Container},
};

/// How a checkpoint is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The call's deadline passes.
    Deadline,
    /// The request's own timeout passes, and the call has no deadline.
    Timeout,
    /// The caller goes away.
    Cancel,
    /// It cannot be done.
    Error,
}

/// What came of the checkpoints that failed on purpose.
#[derive(Debug, Default)]
pub(super) struct Aftermaths {
    deadline: Once<Result<Vec<Aftermath>, Stop>>,
    timeout: Once<Result<Vec<Aftermath>, Stop>>,
    cancel: Once<Result<Vec<Aftermath>, Stop>>,
    error: Once<Result<Vec<Aftermath>, Stop>>,
}

/// What is left after such a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Aftermath {
    /// What was done, as `after a deadline of 0.100 s`.
    pub(super) done: String,
    /// The answer; none to a caller that went away.
    pub(super) answer: Option<CheckpointAnswer>,
    /// The container afterwards.
    pub(super) motion: Motion,
    /// What is at the location, when the checkpoint would have ended anyway.
    pub(super) left: Left,
    /// The next checkpoint of the same container; none of one that has ended.
    pub(super) second: Option<CheckpointAnswer>,
}

/// What is at a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// A whole archive, of so many bytes.
    Archive(u64),
    /// Something that is no whole archive, of so many bytes.
    Partial(u64),
}

/// How long a fake-cri takes for a checkpoint of a slow container, and after which time its caller gives up.
const FAKE: (Duration, Duration) = (Duration::from_millis(600), Duration::from_millis(200));
/// How often a caller that went away too late goes away again.
const LATE_TRIES: u32 = 2;
/// The same where the timeout is a whole second.
const FAKE_BY_SECONDS: Duration = Duration::from_millis(1500);
/// The shortest timeout there is.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Memory that takes any runtime some time to write.
const MEMORY: u64 = 192 << 20;
/// The most memory that is tried to make a checkpoint last longer than a second.
const MOST_MEMORY: u64 = 2 << 30;
/// The parts of a whole checkpoint's time after which the caller gives up, where it cannot be seen when the container stands.
const PARTS: [f64; 4] = [0.5, 0.25, 0.75, 0.95];
/// How often it is looked whether a container stands still, while one checkpoint is measured.
const LOOK: Duration = Duration::from_millis(10);
/// A time below this is over before the runtime has begun.
const SHORTEST: Duration = Duration::from_millis(20);

impl Way {
    /// The case that judges whether the container runs on.
    pub(super) fn left_frozen(self) -> &'static str {
        match self {
            Way::Deadline => "runtime/deadline/left-frozen",
            Way::Timeout => "runtime/timeout/left-frozen",
            Way::Cancel => "runtime/cancel/left-frozen",
            Way::Error => "runtime/error/left-frozen",
        }
    }

    /// The case that judges whether it is the same process.
    pub(super) fn same_process(self) -> &'static str {
        match self {
            Way::Deadline => "runtime/deadline/same-process",
            Way::Timeout => "runtime/timeout/same-process",
            Way::Cancel => "runtime/cancel/same-process",
            Way::Error => "runtime/error/same-process",
        }
    }
}

/// How long a checkpoint of a container takes.
struct Measured {
    whole: Duration,
    /// From when to when the container stood still, as far as that can be seen.
    still: Option<(Duration, Duration)>,
}

impl Measured {
    /// When a caller gives up in order to do harm: while the container stands, and after that while the archive is written.
    fn moments(&self) -> Vec<Duration> {
        let moments = match self.still {
            Some((from, to)) => {
                let part = |part| from + (to - from).mul_f64(part);
                vec![
                    part(0.5),
                    part(0.75),
                    to + (self.whole - to.min(self.whole)).mul_f64(0.7),
                ]
            }
            None => PARTS.iter().map(|part| self.whole.mul_f64(*part)).collect(),
        };
        moments.into_iter().map(|moment| moment.max(SHORTEST)).collect()
    }
}

impl RuntimeSession {
    /// What is left after checkpoints that ended so, at least one. Of one that ran out of its own timeout the answer may be a
    /// success.
    pub(super) async fn aftermath(&self, way: Way) -> Result<&[Aftermath], Stop> {
        self.made().await?;
        let cell = match way {
            Way::Deadline => &self.aftermaths.deadline,
            Way::Timeout => &self.aftermaths.timeout,
            Way::Cancel => &self.aftermaths.cancel,
            Way::Error => &self.aftermaths.error,
        };
        let made = cell.get_or_init(|| async {
            match way {
                Way::Error => Ok(vec![self.fail_by_itself().await?]),
                Way::Timeout => Ok(vec![self.run_out_of_timeout().await?]),
                Way::Deadline | Way::Cancel => self.give_up(way).await,
            }
        });
        made.await.as_deref().map_err(Clone::clone)
    }

    /// A checkpoint that fails, since the folder of its location is missing.
    async fn fail_by_itself(&self) -> Result<Aftermath, Stop> {
        let container = self.victim().await?;
        let before = Before::of(self, &container).await?;
        let location = self.runtime.location("missing").join("a.tar");
        let call = Checkpoint::to(location.to_string_lossy()).timeout(AMPLE);
        let answer = self.runtime.checkpoint(&container, &call).await;
        if answer.is_ok() {
            return Err(Stop::Blocked("runtime/place/folder-missing"));
        }
        let done = "after an error".to_owned();
        self.look(&container, &before, done, Some(answer), &location).await
    }

    /// Checkpoints whose deadline passes in their middle, or whose caller goes away then.
    async fn give_up(&self, way: Way) -> Result<Vec<Aftermath>, Stop> {
        let (container, measured) = self.slow(FAKE.0, MEMORY).await?;
        let moments = match self.runtime.is_fake_cri() {
            true => vec![FAKE.1],
            false => measured.moments(),
        };
        // Those that a busy machine let go too late are asked for once more.
        let mut moments: VecDeque<(Duration, u32)> = moments.into_iter().map(|moment| (moment, LATE_TRIES)).collect();
        let mut found = Vec::new();
        while let Some((moment, tries)) = moments.pop_front() {
            let before = Before::of(self, &container).await?;
            let location = self.runtime.location("given-up");
            let call = Checkpoint::to(location.to_string_lossy()).timeout(AMPLE);
            let began = tokio::time::Instant::now();
            let answer = match way {
                Way::Cancel => {
                    let until = tokio::time::sleep(moment);
                    self.runtime.checkpoint_cancelled(&container, &call, until).await
                }
                _ => Some(
                    self.runtime
                        .checkpoint(&container, &call.clone().deadline(moment))
                        .await,
                ),
            };
            // A caller that goes away when the work is about over shows nothing: its going must reach the runtime before.
            let half = moment + measured.whole.saturating_sub(moment) / 2;
            if way == Way::Cancel && began.elapsed() > half && tries > 0 {
                tokio::time::sleep_until(began + long_enough(measured.whole)).await;
                let _ = std::fs::remove_file(&location);
                moments.push_front((moment, tries - 1));
                continue;
            }
            if answer.as_ref().is_some_and(CheckpointAnswer::is_ok) {
                // It is as large as the memory, and nobody needs it.
                let _ = std::fs::remove_file(&location);
                continue;
            }
            let seconds = moment.as_secs_f64();
            let done = match &answer {
                Some(_) => format!("after a deadline of {seconds:.3} s"),
                None => format!("after its caller went away at {seconds:.3} s"),
            };
            // Should the work go on, this is when it ends.
            tokio::time::sleep_until(began + long_enough(measured.whole)).await;
            let aftermath = self.look(&container, &before, done, answer, &location).await?;
            let ended = !aftermath.motion.same_process;
            found.push(aftermath);
            if ended {
                break;
            }
        }
        if found.is_empty() {
            return Err(Stop::Skip(
                "every checkpoint ended before its caller gave up".to_owned(),
            ));
        }
        Ok(found)
    }

    /// A checkpoint that takes longer than the request's timeout; its call has no deadline.
    async fn run_out_of_timeout(&self) -> Result<Aftermath, Stop> {
        // Only what can be told to be large takes longer than a second.
        self.stand_in()?;
        let (mut container, mut measured) = self.slow(FAKE_BY_SECONDS, MEMORY).await?;
        let enough = SECOND.mul_f64(1.4);
        if measured.whole < enough {
            let factor = enough.as_secs_f64() / measured.whole.as_secs_f64() * 1.5;
            let memory = (MEMORY as f64 * factor) as u64;
            if memory <= MOST_MEMORY {
                drop(container);
                (container, measured) = self.slow(FAKE_BY_SECONDS, memory).await?;
            }
        }
        let whole = measured.whole;
        if whole < enough {
            let took = whole.as_secs_f64();
            return Err(Stop::Skip(format!(
                "no checkpoint takes longer than the shortest timeout of 1 s: that of the largest container took {took:.1} s"
            )));
        }
        let before = Before::of(self, &container).await?;
        let location = self.runtime.location("timeout");
        let call = Checkpoint::to(location.to_string_lossy()).timeout(SECOND.as_secs() as i64);
        let began = tokio::time::Instant::now();
        let answer = self.runtime.checkpoint(&container, &call).await;
        if !answer.is_ok() {
            tokio::time::sleep_until(began + long_enough(whole)).await;
        }
        let done = "after a timeout of 1 s".to_owned();
        self.look(&container, &before, done, Some(answer), &location).await
    }

    /// A container that is slow to checkpoint, and how slow.
    async fn slow(&self, fake: Duration, memory: u64) -> Result<(Container, Measured), Stop> {
        if self.runtime.is_fake_cri() {
            let container = self.container(self.small().slow_on_fake(fake)).await?;
            let measured = Measured {
                whole: fake,
                still: None,
            };
            return Ok((container, measured));
        }
        // A shell cannot be told to be large: its checkpoint is short, and what ends in its midst is shorter still.
        let options = match self.stand_in() {
            Ok(()) => self.small().memory(memory),
            Err(_) => self.small(),
        };
        let container = self.container(options.own_pod()).await?;
        let call = Checkpoint::to(self.runtime.location("whole").to_string_lossy()).timeout(AMPLE);
        let (answer, still) = {
            let began = Instant::now();
            let checkpoint = self.runtime.checkpoint(&container, &call);
            tokio::pin!(checkpoint);
            let mut still: Option<(Duration, Duration)> = None;
            let answer = loop {
                tokio::select! {
                    answer = &mut checkpoint => break answer,
                    () = tokio::time::sleep(LOOK) => {
                        let at = began.elapsed();
                        if self.runtime.hold(&container).await.is_some() {
                            let (from, to) = still.unwrap_or((at, at));
                            still = Some((from, to.max(at)));
                        }
                    }
                }
            };
            (answer, still)
        };
        // It is as large as the memory, and nobody needs it.
        let _ = std::fs::remove_file(&call.location);
        if !answer.is_ok() {
            return Err(Stop::Blocked(OK));
        }
        let measured = Measured {
            whole: answer.took,
            still,
        };
        Ok((container, measured))
    }

    async fn look(
        &self,
        container: &Container,
        before: &Before,
        done: String,
        answer: Option<CheckpointAnswer>,
        location: &Path,
    ) -> Result<Aftermath, Stop> {
        let left = left_at(location).await?;
        // It may be as large as the container's memory.
        let _ = std::fs::remove_file(location);
        let motion = before.again(self, container).await?;
        let second = match motion.same_process {
            false => None,
            true => {
                let call = Checkpoint::to(self.runtime.location("next").to_string_lossy()).timeout(AMPLE);
                let second = self.runtime.checkpoint(container, &call).await;
                let _ = std::fs::remove_file(&call.location);
                Some(second)
            }
        };
        Ok(Aftermath {
            done,
            answer,
            motion,
            left,
            second,
        })
    }
}

/// What is at a location.
async fn left_at(location: &Path) -> Result<Left, Stop> {
    let Ok(metadata) = std::fs::symlink_metadata(location) else {
        return Ok(Left::Nothing);
    };
    let whole = metadata.is_file() && metadata.len() > 0 && is_tar(&inspect(location).await?);
    Ok(match whole {
        true => Left::Archive(metadata.len()),
        false => Left::Partial(metadata.len()),
    })
}

/// When a checkpoint has ended that usually takes so long, on a machine that may be busier than before.
fn long_enough(whole: Duration) -> Duration {
    whole.mul_f64(1.5) + Duration::from_millis(200)
}
