//! A limit on the memory of a test program.

use nix::sys::resource::{Resource, setrlimit};

/// The limit for all tests of the program together. It is far above the need of a few inputs below 1 MiB, and far below
/// the sizes that a length word or a header can claim.
const MOST: u64 = 192 << 20;

/// Sets the limit. A larger allocation aborts the program.
pub(crate) fn bound() {
    setrlimit(Resource::RLIMIT_DATA, MOST, MOST).expect("lowering the limit succeeds");
}

#[test]
fn memory_is_bounded() {
    bound();
    let mut too_much = Vec::<u8>::new();
    assert!(too_much.try_reserve_exact(2 * MOST as usize).is_err());
}
