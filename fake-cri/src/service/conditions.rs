//! The node's conditions as Status reports them, which the control API may set.

use std::sync::atomic::{AtomicBool, Ordering};

/// `RuntimeReady` and `NetworkReady`. Both are true until someone says otherwise.
#[derive(Debug)]
pub struct Conditions {
    runtime: AtomicBool,
    network: AtomicBool,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions {
            runtime: AtomicBool::new(true),
            network: AtomicBool::new(true),
        }
    }
}

impl Conditions {
    /// Whether the runtime says it is ready.
    pub fn runtime_ready(&self) -> bool {
        self.runtime.load(Ordering::Relaxed)
    }

    /// Whether the runtime says its network is ready.
    pub fn network_ready(&self) -> bool {
        self.network.load(Ordering::Relaxed)
    }

    /// Sets what is given and leaves the rest.
    pub fn set(&self, runtime: Option<bool>, network: Option<bool>) {
        if let Some(runtime) = runtime {
            self.runtime.store(runtime, Ordering::Relaxed);
        }
        if let Some(network) = network {
            self.network.store(network, Ordering::Relaxed);
        }
    }
}
