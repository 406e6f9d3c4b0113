//! A client of the CRI over a unix socket. The type of a request determines the call.

use std::{path::PathBuf, time::Duration};

use cri_proto::runtime::v1::{
    image_service_client::ImageServiceClient as ImageClient,
    runtime_service_client::RuntimeServiceClient as RuntimeClient, *,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

/// The kubelet's limit for a gRPC message (`maxMsgSize` in cri-client).
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A connection to a runtime. Connects with the first call, and again after a restart of the runtime.
#[derive(Clone, Debug)]
pub(crate) struct CriClient {
    channel: Channel,
    socket: PathBuf,
}

/// A request of the CRI.
pub(crate) trait CriRequest: Sized {
    type Response;
    /// The name of the message, which is the call's name with `Request` at its end.
    const NAME: &'static str;
    /// The name of the operation in the kubelet's metrics.
    const OPERATION: &'static str;

    fn send(
        cri: &CriClient,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

impl CriClient {
    /// Prepares the connection to `unix:///PATH` or `/PATH`; `None` for any other endpoint.
    pub(crate) fn new(endpoint: &str) -> Option<CriClient> {
        let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !socket.starts_with('/') {
            return None;
        }
        // The origin is only used for the `:authority` header: a unix socket has no host.
        let channel = Endpoint::from_shared(format!("unix://{socket}"))
            .ok()?
            .origin(Uri::from_static("http://localhost"))
            .connect_lazy();
        let socket = PathBuf::from(socket);
        Some(CriClient { channel, socket })
    }

    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Makes a call. The deadline, if any, is also sent to the runtime. Dropping the future cancels the call.
    pub(crate) async fn call<M: CriRequest>(
        &self,
        deadline: impl Into<Option<Duration>>,
        message: M,
    ) -> Result<M::Response, Status> {
        let mut request = Request::new(message);
        if let Some(deadline) = deadline.into() {
            request.set_timeout(deadline);
        }
        Ok(M::send(self, request).await?.into_inner())
    }
}

macro_rules! calls {
    ($($client:ident.$rpc:ident: $operation:literal, $request:ident => $response:ty;)*) => {
        $(
            impl CriRequest for $request {
                type Response = $response;
                const NAME: &'static str = stringify!($request);
                const OPERATION: &'static str = $operation;

                async fn send(cri: &CriClient, request: Request<Self>) -> Result<Response<$response>, Status> {
                    let client = $client::new(cri.channel.clone());
                    client.max_decoding_message_size(MAX_MESSAGE_BYTES).$rpc(request).await
                }
            }
        )*
    };
}

calls! {
    RuntimeClient.version: "version", VersionRequest => VersionResponse;
    RuntimeClient.list_pod_sandbox: "list_podsandbox", ListPodSandboxRequest => ListPodSandboxResponse;
    RuntimeClient.run_pod_sandbox: "run_podsandbox", RunPodSandboxRequest => RunPodSandboxResponse;
    RuntimeClient.stop_pod_sandbox: "stop_podsandbox", StopPodSandboxRequest => StopPodSandboxResponse;
    RuntimeClient.remove_pod_sandbox: "remove_podsandbox", RemovePodSandboxRequest => RemovePodSandboxResponse;
    RuntimeClient.list_containers: "list_containers", ListContainersRequest => ListContainersResponse;
    RuntimeClient.container_status: "container_status", ContainerStatusRequest => ContainerStatusResponse;
    RuntimeClient.create_container: "create_container", CreateContainerRequest => CreateContainerResponse;
    RuntimeClient.start_container: "start_container", StartContainerRequest => StartContainerResponse;
    RuntimeClient.stop_container: "stop_container", StopContainerRequest => StopContainerResponse;
    RuntimeClient.remove_container: "remove_container", RemoveContainerRequest => RemoveContainerResponse;
    RuntimeClient.checkpoint_container: "checkpoint_container", CheckpointContainerRequest => CheckpointContainerResponse;
    RuntimeClient.exec_sync: "exec_sync", ExecSyncRequest => ExecSyncResponse;
    ImageClient.image_status: "image_status", ImageStatusRequest => ImageStatusResponse;
    ImageClient.pull_image: "pull_image", PullImageRequest => PullImageResponse;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rejects_endpoints_that_are_no_socket() {
        for endpoint in ["tcp://127.0.0.1:1", "relative.sock", ""] {
            assert!(CriClient::new(endpoint).is_none(), "{endpoint}");
        }
        assert!(CriClient::new("/run/x.sock").is_some());
    }
}
