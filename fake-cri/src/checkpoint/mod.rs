//! Freeze, capture, image, archive, thaw. Runs in the shim.

mod job;

pub use job::{Delay, DelayIn, DelayMemory, Document, Effect, ErrorKind, Failure, Injection, Job, Phase, Report};
