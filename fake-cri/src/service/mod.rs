//! gRPC at the edge: translate, call the runtime, map errors once.

mod conditions;
mod connection;
mod fault_layer;
mod frame;
mod named;
mod record;

pub use conditions::Conditions;
pub use connection::{Connection, Hangup};
pub use fault_layer::{FaultLayer, FaultService};
