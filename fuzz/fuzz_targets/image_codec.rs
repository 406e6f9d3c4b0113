#![no_main]

#[path = "../holds/image_codec.rs"]
mod holds;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holds::of(bytes));
