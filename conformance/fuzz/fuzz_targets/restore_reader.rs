#![no_main]

#[path = "../input/headers.rs"]
mod headers;
#[path = "../invariants/restore_reader.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    invariants::check(bytes);
    invariants::check(&headers::with_checksums(bytes));
});
