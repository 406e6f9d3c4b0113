//! The archive judge, on archives that are right, wrong in one way, hostile, cut and random.

mod bounded;
mod engine;
mod helpers;
mod inputs;
mod memory;
mod sample;
