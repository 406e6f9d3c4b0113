//! The pod and container that a call is about.

use std::collections::HashMap;

/// The pod and container of a call. A field is empty if it is unknown, or if the call does not name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallTarget {
    /// The name in the metadata of the pod sandbox.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// The name in the metadata of the container.
    pub container: String,
    /// The annotations of the pod sandbox, as the caller sent them.
    pub annotations: HashMap<String, String>,
}

/// Finds the pod and container of a request.
pub trait ResolveTarget: Send + Sync + 'static {
    /// Returns the pod and container with these ids (full ids or unique prefixes), or an empty target if there are
    /// none.
    ///
    /// A container id is enough to find its pod.
    fn resolve(&self, pod_sandbox_id: Option<&str>, container_id: Option<&str>) -> CallTarget;
}

/// Finds nothing: a target has only what the request itself contains.
impl ResolveTarget for () {
    fn resolve(&self, _: Option<&str>, _: Option<&str>) -> CallTarget {
        CallTarget::default()
    }
}
