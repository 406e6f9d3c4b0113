//! Benchmarks the tar writer with many small members, as images are, and with one large member, as pages are. Uses a
//! memory filesystem if there is one.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fake_cri::bench_support::write_archive;

/// The chunk size of a checkpoint thread (`checkpoint/pages.rs`).
const CHUNK_BYTES: usize = 1 << 20;

fn tar(criterion: &mut Criterion) {
    let shm = Path::new("/dev/shm");
    let directory = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    };
    let directory = directory.expect("a temporary directory");
    let location = directory.path().join("checkpoint.tar");
    let mut group = criterion.benchmark_group("tar writer");
    group.sample_size(20);
    let images: Vec<_> = (0..4096)
        .map(|id| (format!("checkpoint/core-{id}.img"), vec![id as u8; 1900]))
        .collect();
    let none = Vec::new();
    for (name, members, pages) in [
        ("4096 images of 1900 bytes", &images, 0),
        ("pages of 64 MiB", &none, 64 << 20),
    ] {
        let pages = vec![0xa5; pages];
        let bytes = write_archive(&location, members, &pages, CHUNK_BYTES).expect("the archive is writable");
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |bencher| {
            bencher.iter(|| write_archive(&location, members, &pages, CHUNK_BYTES).expect("the archive is writable"));
        });
    }
    group.finish();
}

criterion_group!(benches, tar);
criterion_main!(benches);
