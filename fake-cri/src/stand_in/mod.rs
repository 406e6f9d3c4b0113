//! The workload that plays a container: a well-behaved program of a chosen size, thread count and behaviour.

mod options;

pub use options::{OnTerm, Options, OptionsError, Pattern};
