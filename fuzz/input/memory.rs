//! A bound on the memory of a whole test program.

use nix::sys::resource::{Resource, setrlimit};

/// What all tests of the program, at once, may take: far above a few inputs of less than a megabyte, and far below what a length
/// word or a size in a header can claim.
const MOST: u64 = 192 << 20;

/// Bounds the memory: who asks for more is aborted.
pub(crate) fn bound() {
    setrlimit(Resource::RLIMIT_DATA, MOST, MOST).expect("a lower limit is always granted");
}

#[test]
fn memory_is_bounded() {
    bound();
    let mut too_much = Vec::<u8>::new();
    assert!(too_much.try_reserve_exact(2 * MOST as usize).is_err());
}
