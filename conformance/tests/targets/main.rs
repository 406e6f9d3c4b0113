//! The targets: kubelets by URL and in clusters, runtimes, and what the harness sends and creates for them.

mod api_server;
mod cluster;
mod image;
mod kubelet_requests;
mod runtime;
mod url;
