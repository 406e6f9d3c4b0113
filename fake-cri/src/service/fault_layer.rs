//! The layer in front of every gRPC service that makes faults happen and writes the journal.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tonic::body::Body;
use tower::{Layer, Service};

use crate::fault::{Engine, Journal, Subjects};

/// Puts faults and the journal around gRPC services: `tonic::transport::Server::builder().layer(FaultLayer::new(..))`.
#[derive(Clone)]
pub struct FaultLayer {
    shared: Arc<Shared>,
}

#[expect(dead_code, reason = "read as soon as the engine decides")]
struct Shared {
    engine: Arc<Engine>,
    journal: Arc<Journal>,
    subjects: Arc<dyn Subjects>,
}

impl FaultLayer {
    /// A layer that asks this engine, writes into this journal, and names ids through `subjects`.
    pub fn new(engine: Arc<Engine>, journal: Arc<Journal>, subjects: Arc<dyn Subjects>) -> FaultLayer {
        FaultLayer {
            shared: Arc::new(Shared {
                engine,
                journal,
                subjects,
            }),
        }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// A gRPC service with faults in front of it. Made by [`FaultLayer`].
#[derive(Clone)]
pub struct FaultService<S> {
    inner: S,
    #[expect(dead_code, reason = "read as soon as the engine decides")]
    shared: Arc<Shared>,
}

impl<S> Service<http::Request<Body>> for FaultService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}
