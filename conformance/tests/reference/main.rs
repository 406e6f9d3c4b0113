//! The reference kubelet responds as the Kubernetes kubelet, with a scripted runtime.

mod http;
mod pods;
mod scripted;
