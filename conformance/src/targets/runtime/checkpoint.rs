//! Checkpoints as a case asks for them, with whatever deadline and timeout.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::CheckpointContainerRequest;
use tonic::{Code, Request};

use super::{ContainerHandle, Runtime, cri_client};
use crate::evidence::{EvidenceKind, record};

/// By how much the server's clock for a deadline may be ahead of ours: the time that a request takes, and a rounding.
const MAX_CLOCK_SKEW: Duration = Duration::from_millis(20);

/// One CheckpointContainer call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointCall {
    /// Where the archive is to be, as the runtime is told.
    pub location: String,
    /// The request's own timeout in seconds; 0 leaves it to the runtime.
    pub timeout: i64,
    /// The call's deadline; without one the call waits as long as the case does.
    pub deadline: Option<Duration>,
}

impl CheckpointCall {
    /// To this location, without timeout and deadline.
    pub fn to(location: impl Into<String>) -> CheckpointCall {
        CheckpointCall {
            location: location.into(),
            ..CheckpointCall::default()
        }
    }

    /// The same with a deadline.
    pub fn deadline(self, deadline: Duration) -> CheckpointCall {
        CheckpointCall {
            deadline: Some(deadline),
            ..self
        }
    }

    /// The same with the request's own timeout, in seconds.
    pub fn timeout(self, timeout: i64) -> CheckpointCall {
        CheckpointCall { timeout, ..self }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOutcome {
    /// The gRPC code; a deadline that passed before an answer is `DeadlineExceeded`.
    pub code: Code,
    /// The error's message; empty for a success.
    pub message: String,
    /// How long the caller waited.
    pub duration: Duration,
}

impl CheckpointOutcome {
    /// Whether it succeeded.
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
    /// Asks for a checkpoint and waits for the answer. Dropping the future cancels the call, as a client that goes away does.
    pub async fn checkpoint(&self, container: &ContainerHandle, call: &CheckpointCall) -> CheckpointOutcome {
        let _busy = container.begin_checkpoint();
        self.checkpoint_id(container.id(), call).await
    }

    /// The same for any id, such as one that no container has.
    pub async fn checkpoint_id(&self, id: &str, call: &CheckpointCall) -> CheckpointOutcome {
        let mut request = Request::new(CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: call.location.clone(),
            timeout: call.timeout,
        });
        if let Some(deadline) = call.deadline {
            request.set_timeout(deadline);
        }
        let started_at = Instant::now();
        let outcome = self.cri.runtime().checkpoint_container(request).await;
        let duration = started_at.elapsed();
        let (code, message) = match outcome {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => match (cri_client::code_and_message(&status), call.deadline) {
                // A server whose own clock is ahead resets the stream, which reads as a cancel; gRPC's own clients call that
                // by its cause, the deadline.
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

    /// Asks for a checkpoint and goes away when `until` comes to its end; `None` then, the answer when that came first.
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
