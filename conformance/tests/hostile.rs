//! Tests the archive suite with damaged real archives and a damaged sample, for seconds. `ci/fuzz` does so for a
//! minute.

use checkpoint_conformance::archive::sample::{Sample, tar_of};
use proptest::prelude::*;

#[path = "../fuzz/input/corpus.rs"]
mod corpus;
#[path = "../fuzz/input/headers.rs"]
mod headers;
#[path = "../fuzz/invariants/check_archive.rs"]
mod invariants;
#[path = "../fuzz/input/memory.rs"]
mod memory;
#[path = "../fuzz/input/mutation.rs"]
mod mutation;

fn archives() -> Vec<Vec<u8>> {
    let mut archives = corpus::read("conformance/fuzz/corpus/archive");
    archives.push(tar_of(&Sample::default().members()).expect("build the tar"));
    archives
}

#[test]
fn corpus_archives_never_panic() {
    memory::bound();
    for archive in archives() {
        invariants::check(&archive);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_archives_never_panic(archive in mutation::mutated(archives()), summed: bool) {
        memory::bound();
        invariants::check(&if summed { headers::with_checksums(&archive) } else { archive });
    }
}
