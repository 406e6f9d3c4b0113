//! Checkpoints as a case asks for them, with whatever deadline and timeout.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::CheckpointContainerRequest;
use tonic::{Code, Request};

use super::{Container, Runtime, cri};
use crate::exhibit::{ExhibitKind, show};

/// By how much the server's clock for a deadline may be ahead of ours: the time that a request takes, and a rounding.
const AHEAD: Duration = Duration::from_millis(20);

/// One CheckpointContainer call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the archive is to be, as the runtime is told.
    pub location: String,
    /// The request's own timeout in seconds; 0 leaves it to the runtime.
    pub timeout: i64,
    /// The call's deadline; without one the call waits as long as the case does.
    pub deadline: Option<Duration>,
}

impl Checkpoint {
    /// To this location, without timeout and deadline.
    pub fn to(location: impl Into<String>) -> Checkpoint {
        Checkpoint {
            location: location.into(),
            ..Checkpoint::default()
        }
    }

    /// The same with a deadline.
    pub fn deadline(self, deadline: Duration) -> Checkpoint {
        Checkpoint {
            deadline: Some(deadline),
            ..self
        }
    }

    /// The same with the request's own timeout, in seconds.
    pub fn timeout(self, timeout: i64) -> Checkpoint {
        Checkpoint { timeout, ..self }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointAnswer {
    /// The gRPC code; a deadline that passed before an answer is `DeadlineExceeded`.
    pub code: Code,
    /// The error's message; empty for a success.
    pub message: String,
    /// How long the caller waited.
    pub took: Duration,
}

impl CheckpointAnswer {
    /// Whether it succeeded.
    pub fn is_ok(&self) -> bool {
        self.code == Code::Ok
    }
}

impl std::fmt::Display for CheckpointAnswer {
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
    pub async fn checkpoint(&self, container: &Container, call: &Checkpoint) -> CheckpointAnswer {
        let _busy = container.busy();
        self.checkpoint_id(container.id(), call).await
    }

    /// The same for any id, such as one that no container has.
    pub async fn checkpoint_id(&self, id: &str, call: &Checkpoint) -> CheckpointAnswer {
        let mut request = Request::new(CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: call.location.clone(),
            timeout: call.timeout,
        });
        if let Some(deadline) = call.deadline {
            request.set_timeout(deadline);
        }
        let began = Instant::now();
        let answer = self.cri.runtime().checkpoint_container(request).await;
        let took = began.elapsed();
        let (code, message) = match answer {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => match (cri::told(&status), call.deadline) {
                // A server whose own clock is ahead resets the stream, which reads as a cancel; gRPC's own clients call that
                // by its cause, the deadline.
                ((Code::Cancelled, message), Some(deadline)) if took + AHEAD >= deadline => {
                    (Code::DeadlineExceeded, message)
                }
                (told, _) => told,
            },
        };
        let answer = CheckpointAnswer { code, message, took };
        show(ExhibitKind::Cri, || {
            format!(
                "CheckpointContainer\n{}\n-> {answer} after {:.3} s",
                describe(id, call),
                took.as_secs_f64()
            )
        });
        answer
    }

    /// Asks for a checkpoint and goes away when `until` comes to its end; `None` then, the answer when that came first.
    pub async fn checkpoint_cancelled(
        &self,
        container: &Container,
        call: &Checkpoint,
        until: impl Future<Output = ()>,
    ) -> Option<CheckpointAnswer> {
        let began = Instant::now();
        tokio::select! {
            answer = self.checkpoint(container, call) => Some(answer),
            () = until => {
                show(ExhibitKind::Cri, || {
                    let after = began.elapsed().as_secs_f64();
                    format!("CheckpointContainer\n{}\n-> cancelled by the caller after {after:.3} s", describe(container.id(), call))
                });
                None
            }
        }
    }
}

fn describe(id: &str, call: &Checkpoint) -> String {
    let deadline = match call.deadline {
        Some(deadline) => format!("{:.3} s", deadline.as_secs_f64()),
        None => "none".to_owned(),
    };
    format!(
        "container_id: {id}\nlocation: {}\ntimeout: {}\ndeadline: {deadline}",
        call.location, call.timeout
    )
}
