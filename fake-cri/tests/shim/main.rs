//! Shims with real processes, through the calls that fake-cri makes.

mod life;
mod logs;
mod rig;
