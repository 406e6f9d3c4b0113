//! The calls of the CRI and the control API, over real gRPC.

mod c_core;
mod checkpoint;
mod containers;
mod control;
#[path = "../common/cri.rs"]
mod cri;
mod identity;
mod images;
mod limits;
mod pods;
mod recovery;
mod running;
mod serve;
