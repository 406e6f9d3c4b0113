//! Checkpoints that fail on purpose, and the state that they leave. Each failure mode uses a container of its own.
//!
//! ```text
//!  a container whose checkpoint is slow
//!    a checkpoint that fails: deadline, timeout, cancellation or error
//!      wait until the checkpoint would have ended by itself
//!        what is at the location?  does the container keep running?  does the next checkpoint succeed?
//! ```
//!
//! To make a time expire in the middle of a checkpoint, the container must be slow to checkpoint. On fake-cri a Pod
//! annotation adds a delay. On other runtimes the container has much memory; a complete checkpoint is measured first,
//! with the interval in which the container was frozen. The first case that needs a failure mode makes its checkpoints,
//! and several cases check the results.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    liveness::{ContainerBefore, Liveness},
    session::{AMPLE_TIMEOUT_SECS, OK_CASE, RuntimeSession},
};
use crate::{
    engine::{NonPass, skip},
    evidence::Memo,
    suites::inspection::{inspect, is_complete_tar},
    targets::runtime::{CheckpointCall, CheckpointOutcome, ContainerHandle},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureMode {
    /// The deadline of the call expires.
    Deadline,
    /// The timeout of the request expires, and the call has no deadline.
    Timeout,
    /// The client cancels the call.
    Cancel,
    /// The directory of the location does not exist.
    Error,
}

/// By failure mode.
#[derive(Debug, Default)]
struct FailedCheckpoints([Memo<Result<Vec<FailedCheckpoint>, NonPass>>; 4]);

#[derive(Clone, Debug)]
pub(super) struct FailedCheckpoint {
    /// The cause, such as `after a deadline of 0.100 s`.
    pub(super) description: String,
    /// The response; `None` if the client cancelled the call.
    pub(super) response: Option<CheckpointOutcome>,
    pub(super) liveness: Liveness,
    /// What is at the location after the time that the checkpoint would have taken.
    pub(super) leftover: Leftover,
    /// The response of the next checkpoint of the same container; `None` if the container has ended.
    pub(super) next_response: Option<CheckpointOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    Nothing,
    /// A complete archive, with its size in bytes.
    Archive(u64),
    /// Something other than a complete archive, with its size in bytes.
    Partial(u64),
}

/// How long a checkpoint of a slow container takes on fake-cri, and after which time the client gives up.
const FAKE_CRI_TIMES: (Duration, Duration) = (Duration::from_millis(600), Duration::from_millis(200));
/// How often a cancellation that came too late is tried again.
const LATE_CANCEL_RETRIES: u32 = 2;
/// How long a checkpoint takes on fake-cri if the timeout is a whole second.
const FAKE_CRI_SLOW_DURATION: Duration = Duration::from_millis(1500);
/// The shortest timeout that the request can express.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Enough memory to slow down a checkpoint on any runtime.
const SLOW_CONTAINER_BYTES: u64 = 192 << 20;
/// The most memory that a container gets to make its checkpoint longer than a second.
const MAX_CONTAINER_BYTES: u64 = 2 << 30;
/// Fractions of the duration of a complete checkpoint at which the client gives up, if the frozen interval is unknown.
const GIVE_UP_FRACTIONS: [f64; 4] = [0.5, 0.25, 0.75, 0.95];
/// How often the harness polls for a frozen container while it measures a checkpoint.
const FREEZE_POLL: Duration = Duration::from_millis(10);
/// A shorter delay expires before the runtime begins.
const MIN_GIVE_UP_DELAY: Duration = Duration::from_millis(20);

impl FailureMode {
    pub(super) fn keeps_running_case(self) -> &'static str {
        match self {
            FailureMode::Deadline => "runtime/deadline/keeps-running",
            FailureMode::Timeout => "runtime/timeout/keeps-running",
            FailureMode::Cancel => "runtime/cancellation/keeps-running",
            FailureMode::Error => "runtime/error/keeps-running",
        }
    }

    pub(super) fn same_process_case(self) -> &'static str {
        match self {
            FailureMode::Deadline => "runtime/deadline/same-process",
            FailureMode::Timeout => "runtime/timeout/same-process",
            FailureMode::Cancel => "runtime/cancellation/same-process",
            FailureMode::Error => "runtime/error/same-process",
        }
    }
}

struct CheckpointTiming {
    total: Duration,
    /// The interval in which the container was frozen, if observable.
    frozen: Option<(Duration, Duration)>,
}

impl CheckpointTiming {
    /// When the client gives up: twice while the container is frozen, and once while the archive is written.
    fn give_up_delays(&self) -> Vec<Duration> {
        let delays = match self.frozen {
            Some((from, to)) => {
                let at_fraction = |fraction| from + (to - from).mul_f64(fraction);
                vec![
                    at_fraction(0.5),
                    at_fraction(0.75),
                    to + (self.total - to.min(self.total)).mul_f64(0.7),
                ]
            }
            None => GIVE_UP_FRACTIONS
                .iter()
                .map(|fraction| self.total.mul_f64(*fraction))
                .collect(),
        };
        delays.into_iter().map(|delay| delay.max(MIN_GIVE_UP_DELAY)).collect()
    }
}

impl RuntimeSession {
    /// The results of checkpoints that failed in this mode, at least one. With [`FailureMode::Timeout`] the response
    /// may be a success.
    pub(super) async fn failed_checkpoints(&self, mode: FailureMode) -> Result<Vec<FailedCheckpoint>, NonPass> {
        self.first_checkpoint_ok().await?;
        let results = self.topics.get::<FailedCheckpoints>();
        let failed = results.0[mode as usize].get_or_init(|| async {
            match mode {
                FailureMode::Error => Ok(vec![self.checkpoint_to_missing_dir().await?]),
                FailureMode::Timeout => Ok(vec![self.exceed_request_timeout().await?]),
                FailureMode::Deadline | FailureMode::Cancel => self.interrupt_checkpoints(mode).await,
            }
        });
        failed.await.clone()
    }

    async fn checkpoint_to_missing_dir(&self) -> Result<FailedCheckpoint, NonPass> {
        let container = self.disposable_container().await?;
        let before = ContainerBefore::observe(&self.runtime, &container).await?;
        let location = self.runtime.location("missing").join("a.tar");
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        let response = self.runtime.checkpoint(&container, &call).await;
        if response.is_ok() {
            return Err(NonPass::Blocked("runtime/location/missing-directory-rejected"));
        }
        let description = "after an error".to_owned();
        self.observe_failed_checkpoint(&container, &before, description, Some(response), &location)
            .await
    }

    /// Checkpoints whose deadline expires midway, or whose client cancels midway.
    async fn interrupt_checkpoints(&self, mode: FailureMode) -> Result<Vec<FailedCheckpoint>, NonPass> {
        let (container, timing) = self.slow_container(FAKE_CRI_TIMES.0, SLOW_CONTAINER_BYTES).await?;
        let delays = if self.runtime.is_fake_cri() {
            vec![FAKE_CRI_TIMES.1]
        } else {
            timing.give_up_delays()
        };
        // If a busy machine cancelled too late, the checkpoint is tried again.
        let mut delays: VecDeque<(Duration, u32)> =
            delays.into_iter().map(|delay| (delay, LATE_CANCEL_RETRIES)).collect();
        let mut failed = Vec::new();
        while let Some((delay, tries)) = delays.pop_front() {
            let before = ContainerBefore::observe(&self.runtime, &container).await?;
            let location = self.runtime.location("interrupted");
            let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
            let started = tokio::time::Instant::now();
            let response = match mode {
                FailureMode::Cancel => {
                    let until = tokio::time::sleep(delay);
                    self.runtime.checkpoint_cancelled(&container, &call, until).await
                }
                _ => Some(self.runtime.checkpoint(&container, &call.clone().deadline(delay)).await),
            };
            // A cancellation near the end of the checkpoint proves nothing: it must reach the runtime while there is
            // work left.
            let half = delay + timing.total.saturating_sub(delay) / 2;
            if mode == FailureMode::Cancel && started.elapsed() > half && tries > 0 {
                tokio::time::sleep_until(started + end_deadline(timing.total)).await;
                let _ = std::fs::remove_file(&location);
                delays.push_front((delay, tries - 1));
                continue;
            }
            if response.as_ref().is_some_and(CheckpointOutcome::is_ok) {
                // The archive is as large as the memory, and no case needs it.
                let _ = std::fs::remove_file(&location);
                continue;
            }
            let seconds = delay.as_secs_f64();
            let description = match &response {
                Some(_) => format!("after a deadline of {seconds:.3} s"),
                None => format!("after a cancellation at {seconds:.3} s"),
            };
            // If the runtime continues the checkpoint, it ends by then.
            tokio::time::sleep_until(started + end_deadline(timing.total)).await;
            let failed_checkpoint = self
                .observe_failed_checkpoint(&container, &before, description, response, &location)
                .await?;
            let ended = !failed_checkpoint.liveness.same_process;
            failed.push(failed_checkpoint);
            if ended {
                break;
            }
        }
        if failed.is_empty() {
            return skip("requires a checkpoint that is still running at its deadline or cancellation");
        }
        Ok(failed)
    }

    /// A checkpoint that takes longer than the timeout of the request. The call has no deadline.
    async fn exceed_request_timeout(&self) -> Result<FailedCheckpoint, NonPass> {
        // Only a container with configurable memory can take longer than a second.
        self.require_test_workload()?;
        let (mut container, mut timing) = self
            .slow_container(FAKE_CRI_SLOW_DURATION, SLOW_CONTAINER_BYTES)
            .await?;
        let min_duration = MIN_TIMEOUT.mul_f64(1.4);
        if timing.total < min_duration {
            let factor = min_duration.as_secs_f64() / timing.total.as_secs_f64() * 1.5;
            let memory = (SLOW_CONTAINER_BYTES as f64 * factor) as u64;
            if memory <= MAX_CONTAINER_BYTES {
                drop(container);
                (container, timing) = self.slow_container(FAKE_CRI_SLOW_DURATION, memory).await?;
            }
        }
        let total = timing.total;
        if total < min_duration {
            let took = total.as_secs_f64();
            return skip(format!(
                "requires a checkpoint that takes longer than the shortest timeout of 1 s: the largest container \
                    took {took:.1} s"
            ));
        }
        let before = ContainerBefore::observe(&self.runtime, &container).await?;
        let location = self.runtime.location("timeout");
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(MIN_TIMEOUT.as_secs() as i64);
        let started = tokio::time::Instant::now();
        let response = self.runtime.checkpoint(&container, &call).await;
        if !response.is_ok() {
            tokio::time::sleep_until(started + end_deadline(total)).await;
        }
        let description = "after a timeout of 1 s".to_owned();
        self.observe_failed_checkpoint(&container, &before, description, Some(response), &location)
            .await
    }

    /// A container whose checkpoint is slow, with the measured times.
    async fn slow_container(
        &self,
        fake_cri_duration: Duration,
        memory: u64,
    ) -> Result<(ContainerHandle, CheckpointTiming), NonPass> {
        if self.runtime.is_fake_cri() {
            let container = self
                .new_container(self.small_container_options().fake_cri_freeze_delay(fake_cri_duration))
                .await?;
            let timing = CheckpointTiming {
                total: fake_cri_duration,
                frozen: None,
            };
            return Ok((container, timing));
        }
        // The memory of the shell workload is not configurable: its checkpoint is short, and the interruptions come
        // sooner.
        let options = match self.require_test_workload() {
            Ok(()) => self.small_container_options().memory(memory),
            Err(_) => self.small_container_options(),
        };
        let container = self.new_container(options.separate_pod()).await?;
        let call = CheckpointCall::to(self.runtime.location("complete").to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        let (response, frozen) = {
            let started = Instant::now();
            let checkpoint = self.runtime.checkpoint(&container, &call);
            tokio::pin!(checkpoint);
            let mut frozen: Option<(Duration, Duration)> = None;
            let response = loop {
                tokio::select! {
                    response = &mut checkpoint => break response,
                    () = tokio::time::sleep(FREEZE_POLL) => {
                        let at = started.elapsed();
                        if self.runtime.freeze_cause(&container).await.is_some() {
                            let (from, to) = frozen.unwrap_or((at, at));
                            frozen = Some((from, to.max(at)));
                        }
                    }
                }
            };
            (response, frozen)
        };
        // The archive is as large as the memory, and no case needs it.
        let _ = std::fs::remove_file(&call.location);
        if !response.is_ok() {
            return Err(NonPass::Blocked(OK_CASE));
        }
        let timing = CheckpointTiming {
            total: response.duration,
            frozen,
        };
        Ok((container, timing))
    }

    async fn observe_failed_checkpoint(
        &self,
        container: &ContainerHandle,
        before: &ContainerBefore,
        description: String,
        response: Option<CheckpointOutcome>,
        location: &Path,
    ) -> Result<FailedCheckpoint, NonPass> {
        let leftover = leftover_at(location).await?;
        // The archive may be as large as the container's memory.
        let _ = std::fs::remove_file(location);
        let liveness = before.observe_liveness(&self.runtime, container).await?;
        let next_response = if liveness.same_process {
            let call = CheckpointCall::to(self.runtime.location("next").to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
            let next_response = self.runtime.checkpoint(container, &call).await;
            let _ = std::fs::remove_file(&call.location);
            Some(next_response)
        } else {
            None
        };
        Ok(FailedCheckpoint {
            description,
            response,
            liveness,
            leftover,
            next_response,
        })
    }
}

async fn leftover_at(location: &Path) -> Result<Leftover, NonPass> {
    let Ok(metadata) = std::fs::symlink_metadata(location) else {
        return Ok(Leftover::Nothing);
    };
    let complete = metadata.is_file() && metadata.len() > 0 && is_complete_tar(&inspect(location).await?);
    Ok(if complete {
        Leftover::Archive(metadata.len())
    } else {
        Leftover::Partial(metadata.len())
    })
}

/// When a checkpoint that usually takes this long has ended, even on a machine that is busier than before.
fn end_deadline(total: Duration) -> Duration {
    total.mul_f64(1.5) + Duration::from_millis(200)
}
