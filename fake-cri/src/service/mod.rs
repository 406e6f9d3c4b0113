//! gRPC at the edge: translate, call the runtime, map errors once.

mod conditions;
mod fault_layer;

pub use conditions::Conditions;
pub use fault_layer::{FaultLayer, FaultService};
