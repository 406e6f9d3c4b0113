//! What is measured for one memory size.

use std::time::Duration;

/// The measurements for one memory size.
#[derive(Debug, Default)]
pub(crate) struct Measurement {
    pub(crate) bytes: u64,
    /// Duration of a fork of the workload.
    pub(crate) fork: Vec<Duration>,
    pub(crate) checkpoint: Vec<Duration>,
    pub(crate) frozen: Vec<Duration>,
    pub(crate) copy: Vec<Duration>,
    pub(crate) criu: Vec<Duration>,
    pub(crate) criu_frozen: Vec<Duration>,
    /// Peak resident memory of the server and of the shim.
    pub(crate) resident: [u64; 2],
}

pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
