//! The conditions that Status reports and the control API sets.

use std::sync::atomic::{AtomicBool, Ordering};

/// `RuntimeReady` and `NetworkReady`. Both are initially true.
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
    /// The condition `RuntimeReady`.
    pub fn runtime_ready(&self) -> bool {
        self.runtime.load(Ordering::Relaxed)
    }

    /// The condition `NetworkReady`.
    pub fn network_ready(&self) -> bool {
        self.network.load(Ordering::Relaxed)
    }

    /// Sets the conditions; `None` leaves a condition unchanged.
    pub fn set(&self, runtime: Option<bool>, network: Option<bool>) {
        if let Some(runtime) = runtime {
            self.runtime.store(runtime, Ordering::Relaxed);
        }
        if let Some(network) = network {
            self.network.store(network, Ordering::Relaxed);
        }
    }
}
