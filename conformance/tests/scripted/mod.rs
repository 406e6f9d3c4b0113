//! A runtime that does what a test tells it, and a reference kubelet in front of it.

#![allow(dead_code, unreachable_pub, reason = "each test is a crate that uses a part of it")]

pub mod kubelet;
pub mod runtime;
