//! Tests of the archive suite with valid, mutated, hostile, truncated and random archives.

mod bounded;
mod engine;
mod helpers;
mod inputs;
mod memory;
mod sample;
