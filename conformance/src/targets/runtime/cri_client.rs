//! The connection to a runtime, and the conversion of its errors.

use std::{error::Error as _, path::PathBuf, time::Duration};

use cri_proto::runtime::v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use super::super::TargetError;

/// Longer than any call but a checkpoint or a pull takes, and shorter than a case's time limit, so that the case's
/// error names the call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The kubelet's message size limit (`maxMsgSize` in cri-client).
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A client for a runtime's CRI socket. Connects with the first call, and again after a restart of the runtime.
#[derive(Clone, Debug)]
pub(super) struct CriClient {
    channel: Channel,
}

impl CriClient {
    /// Prepares the connection to `unix:///PATH` or `/PATH`.
    ///
    /// # Errors
    /// The endpoint is not a Unix socket with an absolute path.
    pub(super) fn new(endpoint: &str) -> Result<CriClient, TargetError> {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        if !path.is_absolute() {
            return Err(TargetError::Argument(format!(
                "invalid runtime endpoint {endpoint}: expected unix:///PATH, such as \
                 unix:///run/containerd/containerd.sock"
            )));
        }
        let connect = move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        };
        // `Endpoint` requires a URI. It is not used: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://runtime.invalid");
        Ok(CriClient {
            channel: endpoint.connect_with_connector_lazy(tower::service_fn(connect)),
        })
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Sends a request with a deadline. The name of the call appears in the error.
pub(super) async fn call<M, R, F>(
    name: &'static str,
    timeout: Duration,
    message: M,
    rpc: impl FnOnce(Request<M>) -> F,
) -> Result<R, TargetError>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    match rpc(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => {
            let (code, message) = code_and_message(&status);
            Err(TargetError::Runtime {
                call: name,
                code,
                message,
            })
        }
    }
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

    #[tokio::test]
    async fn rejects_endpoints_that_are_no_socket() {
        for endpoint in ["tcp://127.0.0.1:1", "relative.sock", ""] {
            let error = CriClient::new(endpoint).unwrap_err().to_string();
            assert!(error.contains("expected unix:///PATH"), "{error}");
        }
        assert!(CriClient::new("/run/x.sock").is_ok());
    }

    #[tokio::test]
    async fn reports_why_a_runtime_is_unreachable() {
        let cri = CriClient::new("unix:///nonexistent/x.sock").unwrap();
        let version = cri_proto::runtime::v1::VersionRequest::default();
        let mut client = cri.runtime();
        let response = call("Version", CALL_TIMEOUT, version, |request| async move {
            client.version(request).await
        });
        let error = response.await.unwrap_err().to_string();
        assert!(error.contains("No such file or directory"), "{error}");
    }
}
