//! A scripted runtime, and a reference kubelet that uses it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate uses only a part of this module"
)]

pub mod kubelet;
pub mod runtime;
