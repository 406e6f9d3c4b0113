#![no_main]

#[path = "../input/headers.rs"]
mod headers;
#[path = "../holds/check_archive.rs"]
mod holds;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    holds::of(bytes);
    holds::of(&headers::summed(bytes));
});
