//! The gRPC server: the CRI's two services, health and reflection, behind the fault layer.

use std::{future::Future, io, sync::Arc, time::Duration};

use cri_proto::{
    DESCRIPTOR_SET,
    runtime::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use tokio::net::UnixListener;
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tonic::transport::Server;

use super::{Conditions, CriConnection, FaultLayer, ImageApi, RuntimeApi};
use crate::{
    fault::{FaultEngine, Journal},
    runtime::Runtime,
};

/// The limit for a request, as in the kubelet's client.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Serves the CRI on a socket until `shutdown` completes. Its value is the grace period of calls in progress; longer
/// calls are aborted.
///
/// # Errors
///
/// The transport fails.
pub async fn serve(
    listener: UnixListener,
    runtime: Arc<Runtime>,
    conditions: Arc<Conditions>,
    engine: Arc<FaultEngine>,
    journal: Arc<Journal>,
    shutdown: impl Future<Output = Duration> + Send,
) -> io::Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RuntimeServiceServer<RuntimeApi>>().await;
    reporter.set_serving::<ImageServiceServer<ImageApi>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (drain_sender, mut drain_receiver) = tokio::sync::watch::channel(None);
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(CriConnection::new));
    let server = Server::builder()
        .layer(FaultLayer::new(engine, journal, runtime.clone()))
        .add_service(
            RuntimeServiceServer::new(RuntimeApi::new(runtime.clone(), conditions))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                // The fault layer refuses responses that are too large, with its own status.
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            ImageServiceServer::new(ImageApi::new(runtime))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                // The fault layer refuses responses that are too large, with its own status.
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(health)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
        .serve_with_incoming_shutdown(connections, async move {
            let _ = drain_sender.send(Some(shutdown.await));
        });
    tokio::select! {
        result = server => result.map_err(io::Error::other),
        // A hanging call must not prevent the exit of fake-cri.
        () = async {
            let drain = drain_receiver.wait_for(Option::is_some).await.map(|drain| *drain);
            tokio::time::sleep(drain.ok().flatten().unwrap_or_default()).await;
        } => Ok(()),
    }
}
