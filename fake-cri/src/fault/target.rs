//! What a call is about: the pod and the container that its ids name, and how a handler is told what goes wrong.

use std::collections::HashMap;

use crate::checkpoint::Injection;

/// The pod and the container that a call is about. An empty field is unknown, or the call names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallTarget {
    /// The pod's name, from its sandbox's metadata.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// The container's name, from its metadata.
    pub container: String,
    /// The pod sandbox's annotations, as they were sent.
    pub annotations: HashMap<String, String>,
}

/// Finds the pod and the container behind the ids of a request.
pub trait ResolveTarget: Send + Sync + 'static {
    /// The subject of a call that carries these ids, full or by unique prefix; empty where nothing is known by them.
    ///
    /// A container's id alone is enough: its pod is found through it.
    fn resolve(&self, pod_sandbox_id: Option<&str>, container_id: Option<&str>) -> CallTarget;
}

/// Knows nothing: every subject is empty but for what the request itself says.
impl ResolveTarget for () {
    fn resolve(&self, _: Option<&str>, _: Option<&str>) -> CallTarget {
        CallTarget::default()
    }
}

/// What goes wrong in the phases of this checkpoint.
///
/// The fault layer puts it into the extensions of a CheckpointContainer request; the handler hands it on:
/// `request.extensions().get::<fault::Injections>()`, which is `None` when no rule fired.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injections(pub Vec<Injection>);
