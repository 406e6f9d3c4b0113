//! Drives any kubelet or container runtime through every clause of the checkpoint API and reports what holds.

pub mod case;
pub mod reference;
