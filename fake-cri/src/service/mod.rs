//! The gRPC server: translates messages, calls the runtime, maps errors to codes.
//!
//! ```text
//!  socket ---> server ---> FaultLayer ---> runtime_service, image_service ---> Runtime
//!  (0600)                                        |    translate: objects to messages
//!                                                |    status: errors to gRPC codes
//! ```

mod authority;
mod call_defects;
mod call_recorder;
mod conditions;
mod connection;
mod control;
mod deadline;
mod fault_layer;
mod frame;
mod image_service;
mod runtime_service;
mod server;
mod socket;
mod status;
mod target;
mod translate;

pub use conditions::Conditions;
pub use connection::{CriConnection, Hangup};
pub use control::ControlApi;
pub use fault_layer::{FaultLayer, FaultService};
pub use image_service::ImageApi;
pub use runtime_service::RuntimeApi;
pub use server::serve;
pub use socket::{ListenError, listen_on, parse_endpoint};
