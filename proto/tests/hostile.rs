//! Decodes damaged images: a short run of the `ci/fuzz` targets.

use proptest::prelude::*;

#[path = "../../conformance/fuzz/input/corpus.rs"]
mod corpus;
#[path = "../../conformance/fuzz/invariants/image_codec.rs"]
mod invariants;
#[path = "../../conformance/fuzz/input/memory.rs"]
mod memory;
#[path = "../../conformance/fuzz/input/mutation.rs"]
mod mutation;

#[test]
fn corpus_inputs_never_panic() {
    memory::bound();
    for image in corpus::read("proto/tests/images") {
        invariants::check(&image);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_images_never_panic(image in mutation::mutated(corpus::read("proto/tests/images"))) {
        memory::bound();
        invariants::check(&image);
    }

    /// Random bytes behind the magic of a kind that the first byte selects.
    #[test]
    fn images_of_every_kind_never_panic(bytes in prop::collection::vec(prop_oneof![0..32_u8, any::<u8>()], 0..64)) {
        memory::bound();
        invariants::check(&bytes);
    }
}
