//! Shims with real processes, through the calls that fake-cri makes.

mod checkpoint;
mod exec;
mod family;
mod life;
mod logs;
mod lost;
mod rig;
mod size;
mod stand_in;
