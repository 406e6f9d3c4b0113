//! The connection to the runtime, with the deadlines, error texts and metrics of the kubelet.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tonic::{Code, Status};

use super::StartError;
use crate::cri_client::{CriClient, CriRequest};

/// A connection to the runtime. It reconnects after a failure.
#[derive(Debug)]
pub(crate) struct RuntimeConnection {
    client: CriClient,
    timeout: Duration,
    operations: Mutex<BTreeMap<&'static str, OperationCounts>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OperationCounts {
    calls: u64,
    errors: u64,
}

/// A call to the runtime. Dropping it cancels the call.
pub(crate) type RuntimeCall = BoxFuture<'static, Result<(), CriError>>;

/// An error of the runtime or of the connection, formatted as by grpc-go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", go_name(*code))]
pub(crate) struct CriError {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Whether the client raised the error, without a response of the runtime.
    pub(crate) raised_locally: bool,
}

impl RuntimeConnection {
    /// Creates the connection. The first call connects.
    pub(super) fn new(endpoint: &str, timeout: Duration) -> Result<Self, StartError> {
        let client = CriClient::new(endpoint).ok_or_else(|| StartError::Runtime {
            endpoint: endpoint.to_owned(),
            reason: "expected unix:///PATH with an absolute path".to_owned(),
        })?;
        Ok(Self {
            client,
            timeout,
            operations: Mutex::default(),
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes a call with a deadline, which is also sent to the runtime. Dropping the future cancels the call.
    pub(crate) async fn call<M: CriRequest>(&self, deadline: Duration, message: M) -> Result<M::Response, CriError> {
        // Client and runtime have the same deadline. A DeadlineExceeded that the runtime returns within this slack
        // counts as the deadline of the client.
        const DEADLINE_SLACK: Duration = Duration::from_millis(20);
        let started_at = Instant::now();
        let result = match tokio::time::timeout(deadline, self.client.call(deadline, message)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status))
                if status.code() == Code::DeadlineExceeded && started_at.elapsed() + DEADLINE_SLACK >= deadline =>
            {
                Err(CriError::deadline_exceeded())
            }
            Ok(Err(status)) => Err(self.to_cri_error(&status)),
            Err(_) => Err(CriError::deadline_exceeded()),
        };
        self.count_operation(M::OPERATION, result.is_err());
        result
    }

    /// Counts a call, also one that failed before it was sent.
    pub(crate) fn count_operation(&self, operation: &'static str, failed: bool) {
        let mut operations = self.operations.lock().expect("no code panics while it holds this lock");
        let counts = operations.entry(operation).or_default();
        counts.calls += 1;
        counts.errors += u64::from(failed);
    }

    /// Returns the counters in the Prometheus text format, with the kubelet's metric names.
    pub(super) fn metrics(&self) -> String {
        let operations = self
            .operations
            .lock()
            .expect("no code panics while it holds this lock")
            .clone();
        let mut text = String::new();
        let mut write_counter = |name: &str, help: &str, value: fn(&OperationCounts) -> u64| {
            let samples: Vec<_> = operations.iter().map(|(name, counts)| (name, value(counts))).collect();
            if samples.iter().any(|(_, value)| *value > 0) {
                let _ = writeln!(text, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter");
            }
            for (operation, value) in samples.iter().filter(|(_, value)| *value > 0) {
                let _ = writeln!(text, "{name}{{operation_type=\"{operation}\"}} {value}");
            }
        };
        let errors = "Cumulative number of runtime operation errors by operation type.";
        write_counter("kubelet_runtime_operations_errors_total", errors, |counts| {
            counts.errors
        });
        let calls = "Cumulative number of runtime operations by operation type.";
        write_counter("kubelet_runtime_operations_total", calls, |counts| counts.calls);
        text
    }

    /// Returns an error of the runtime unchanged, and a connection error with the text of grpc-go.
    fn to_cri_error(&self, status: &Status) -> CriError {
        let Some(source) = status.source() else {
            return CriError {
                code: status.code(),
                message: status.message().to_owned(),
                raised_locally: false,
            };
        };
        let mut cause = Some(source);
        while let Some(error) = cause {
            if error.is::<tonic::TimeoutExpired>() {
                return CriError::deadline_exceeded();
            }
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && matches!(
                    io.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                )
            {
                let reason = if io.kind() == std::io::ErrorKind::NotFound {
                    "no such file or directory"
                } else {
                    "connection refused"
                };
                let socket = self.client.socket().display();
                let dial = format!("transport: Error while dialing: dial unix {socket}: connect: {reason}");
                return CriError::unavailable(&format!("connection error: desc = \"{dial}\""));
            }
            cause = error.source();
        }
        CriError::unavailable("error reading from server: EOF")
    }
}

impl CriError {
    /// The error for a deadline that passed in the client.
    pub(super) fn deadline_exceeded() -> Self {
        Self {
            code: Code::DeadlineExceeded,
            message: "context deadline exceeded".to_owned(),
            raised_locally: true,
        }
    }

    /// The error for a runtime that is unreachable.
    pub(crate) fn unavailable(message: &str) -> Self {
        Self {
            code: Code::Unavailable,
            message: message.to_owned(),
            raised_locally: true,
        }
    }
}

/// Returns the name of a code in grpc-go, such as `Canceled` for `CANCELLED`.
fn go_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_errors_like_go() {
        let error = CriError {
            code: Code::Cancelled,
            message: "context canceled".into(),
            raised_locally: false,
        };
        assert_eq!(error.to_string(), "rpc error: code = Canceled desc = context canceled");
        assert_eq!(
            CriError::deadline_exceeded().to_string(),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
    }

    #[tokio::test]
    async fn counts_operations() {
        let cri = RuntimeConnection::new("unix:///nowhere.sock", Duration::from_secs(1)).unwrap();
        cri.count_operation("checkpoint_container", false);
        cri.count_operation("checkpoint_container", true);
        let metrics = cri.metrics();
        assert!(metrics.contains("kubelet_runtime_operations_total{operation_type=\"checkpoint_container\"} 2\n"));
        assert!(
            metrics.contains("kubelet_runtime_operations_errors_total{operation_type=\"checkpoint_container\"} 1\n")
        );
    }
}
