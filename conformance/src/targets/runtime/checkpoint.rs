//! CheckpointContainer calls with any deadline and timeout.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::CheckpointContainerRequest;
use tonic::Code;

use super::{ContainerHandle, Runtime, call::code_and_message};
use crate::evidence::{EvidenceKind, record};

/// How much earlier than the client's a server's deadline timer may fire: the duration of a request, and the rounding
/// of `grpc-timeout`.
const MAX_CLOCK_SKEW: Duration = Duration::from_millis(20);

/// The arguments of a CheckpointContainer call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointCall {
    /// The location in the request.
    pub location: String,
    /// The `timeout` field of the request, in seconds. 0: the runtime's default.
    pub timeout: i64,
    /// The call's deadline. Without a deadline the call is limited only by the case's own time limit.
    pub deadline: Option<Duration>,
}

impl CheckpointCall {
    /// A call with this location and neither timeout nor deadline.
    pub fn to(location: impl Into<String>) -> CheckpointCall {
        CheckpointCall {
            location: location.into(),
            ..CheckpointCall::default()
        }
    }

    /// Sets the call's deadline.
    pub fn deadline(self, deadline: Duration) -> CheckpointCall {
        CheckpointCall {
            deadline: Some(deadline),
            ..self
        }
    }

    /// Sets the `timeout` field of the request, in seconds.
    pub fn timeout(self, timeout: i64) -> CheckpointCall {
        CheckpointCall { timeout, ..self }
    }
}

/// The result of a CheckpointContainer call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOutcome {
    /// The gRPC code. `DeadlineExceeded` also if the client's own deadline passed first.
    pub code: Code,
    /// The error's message. Empty after a success.
    pub message: String,
    /// The time from the request to the result.
    pub duration: Duration,
}

impl CheckpointOutcome {
    /// Whether the call succeeded.
    pub fn is_ok(&self) -> bool {
        self.code == Code::Ok
    }
}

impl std::fmt::Display for CheckpointOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code;
        if self.is_ok() {
            return f.write_str("success");
        }
        write!(f, "{code:?} `{}`", self.message)
    }
}

impl Runtime {
    /// Requests a checkpoint and waits for the response. Dropping the future cancels the call.
    pub async fn checkpoint(&self, container: &ContainerHandle, call: &CheckpointCall) -> CheckpointOutcome {
        let _busy = container.begin_checkpoint();
        self.checkpoint_id(container.id(), call).await
    }

    /// As [`Self::checkpoint`], for any id, such as the id of no container.
    pub async fn checkpoint_id(&self, id: &str, call: &CheckpointCall) -> CheckpointOutcome {
        let message = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: call.location.clone(),
            timeout: call.timeout,
        };
        let started_at = Instant::now();
        let outcome = self.cri.call(call.deadline, message).await;
        let duration = started_at.elapsed();
        let (code, message) = match outcome {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => match (code_and_message(&status), call.deadline) {
                // A server whose deadline timer fires first resets the stream, and tonic reports that as `Cancelled`.
                // gRPC's own clients report `DeadlineExceeded`.
                ((Code::Cancelled, message), Some(deadline)) if duration + MAX_CLOCK_SKEW >= deadline => {
                    (Code::DeadlineExceeded, message)
                }
                (unchanged, _) => unchanged,
            },
        };
        let outcome = CheckpointOutcome {
            code,
            message,
            duration,
        };
        record(EvidenceKind::Cri, || {
            format!(
                "CheckpointContainer\n{}\n-> {outcome} after {:.3} s",
                describe(id, call),
                duration.as_secs_f64()
            )
        });
        outcome
    }

    /// Requests a checkpoint and cancels the call when `until` completes. `None` if the call was cancelled.
    pub async fn checkpoint_cancelled(
        &self,
        container: &ContainerHandle,
        call: &CheckpointCall,
        until: impl Future<Output = ()>,
    ) -> Option<CheckpointOutcome> {
        let started_at = Instant::now();
        tokio::select! {
            outcome = self.checkpoint(container, call) => Some(outcome),
            () = until => {
                record(EvidenceKind::Cri, || {
                    let after = started_at.elapsed().as_secs_f64();
                    format!("CheckpointContainer\n{}\n-> cancelled by the caller after {after:.3} s", describe(container.id(), call))
                });
                None
            }
        }
    }
}

fn describe(id: &str, call: &CheckpointCall) -> String {
    let deadline = match call.deadline {
        Some(deadline) => format!("{:.3} s", deadline.as_secs_f64()),
        None => "none".to_owned(),
    };
    format!(
        "container_id: {id}\nlocation: {}\ntimeout: {}\ndeadline: {deadline}",
        call.location, call.timeout
    )
}
