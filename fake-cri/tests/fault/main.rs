//! Fault rules: the grammar, files, the engine, the layer in front of the services, and a real fake-cri with faults.

mod checkpoint;
#[path = "../common/cri.rs"]
mod cri;
mod daemon;
mod engine;
#[path = "../common/fault_server.rs"]
mod fault_server;
mod files;
mod grammar;
mod layer;
