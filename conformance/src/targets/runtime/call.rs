//! CRI calls, and the conversion of their errors.

use std::{error::Error as _, time::Duration};

use tonic::{Code, Status};

use crate::{
    cri_client::{CriClient, CriRequest},
    targets::TargetError,
};

/// Longer than any call but a checkpoint or a pull takes, and shorter than a case's time limit, so that the case's
/// error names the call.
pub(in crate::targets) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Prepares the connection to `unix:///PATH` or `/PATH`.
///
/// # Errors
/// The endpoint is not a Unix socket with an absolute path.
pub(in crate::targets) fn connect(endpoint: &str) -> Result<CriClient, TargetError> {
    CriClient::new(endpoint).ok_or_else(|| {
        TargetError::Argument(format!(
            "invalid runtime endpoint {endpoint}: expected unix:///PATH, such as \
             unix:///run/containerd/containerd.sock"
        ))
    })
}

/// Sends a request with a deadline. The name of the call appears in the error.
pub(in crate::targets) async fn call<M: CriRequest>(
    cri: &CriClient,
    timeout: Duration,
    message: M,
) -> Result<M::Response, TargetError> {
    cri.call(timeout, message).await.map_err(|status| {
        let (code, message) = code_and_message(&status);
        TargetError::Runtime {
            call: M::NAME.trim_end_matches("Request"),
            code,
            message,
        }
    })
}

/// The gRPC code and message of a failed call. A deadline that the client's own timer detected becomes
/// `DeadlineExceeded`, and a broken connection is described with its causes.
pub(super) fn code_and_message(status: &Status) -> (Code, String) {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return (
                Code::DeadlineExceeded,
                "the deadline passed before a response".to_owned(),
            );
        }
        text = format!("{text}: {error}");
        cause = error.source();
    }
    (status.code(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_endpoints_that_are_no_socket() {
        let error = connect("tcp://127.0.0.1:1").unwrap_err().to_string();
        assert!(error.contains("expected unix:///PATH"), "{error}");
    }

    #[tokio::test]
    async fn reports_why_a_runtime_is_unreachable() {
        let cri = connect("unix:///nonexistent/x.sock").unwrap();
        let version = cri_proto::runtime::v1::VersionRequest::default();
        let error = call(&cri, CALL_TIMEOUT, version).await.unwrap_err().to_string();
        assert!(
            error.starts_with("Version: ") && error.contains("No such file or directory"),
            "{error}"
        );
    }
}
