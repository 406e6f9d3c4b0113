//! Benchmarks the codec on large images: `mm` with the maximum number of mappings, a pagemap of fragmented memory.

use std::hint::black_box;

use cri_proto::criu::{
    Decoder, Encoder, Kind, decode_single, encode,
    message::{MmEntry, PagemapEntry, PagemapHead, VmaEntry},
    walk,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The default of `vm.max_map_count`.
const MAPPINGS: u64 = 65_530;
/// Every other page of 1 GiB.
const RUNS: u64 = 1 << 17;

fn mm() -> MmEntry {
    let vmas = (0..MAPPINGS).map(|index| VmaEntry {
        start: 0x7f00_0000_0000 + index * 0x2000,
        end: 0x7f00_0000_1000 + index * 0x2000,
        prot: 3,
        flags: 0x22,
        status: 0x201,
        fd: -1,
        ..VmaEntry::default()
    });
    MmEntry {
        vmas: vmas.collect(),
        mm_saved_auxv: vec![0; 44],
        ..MmEntry::default()
    }
}

fn pagemap() -> (PagemapHead, Vec<PagemapEntry>) {
    let runs = (0..RUNS).map(|index| PagemapEntry {
        vaddr: 0x7f00_0000_0000 + index * 0x2000,
        compat_nr_pages: 1,
        nr_pages: Some(1),
        flags: Some(4),
        ..PagemapEntry::default()
    });
    (PagemapHead { pages_id: 1 }, runs.collect())
}

fn encode_pagemap(head: &PagemapHead, runs: &[PagemapEntry]) -> Vec<u8> {
    let mut encoder = Encoder::new(Kind::Pagemap);
    encoder.entry(head);
    for run in runs {
        encoder.entry(run);
    }
    encoder.finish()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("image codec");
    group.sample_size(20);

    let mm = mm();
    let image = encode(Kind::Mm, [&mm]);
    group.throughput(Throughput::Bytes(image.len() as u64));
    group.bench_function("encode mm, 65530 mappings", |bencher| {
        bencher.iter(|| encode(Kind::Mm, [black_box(&mm)]))
    });
    group.bench_function("decode mm, 65530 mappings", |bencher| {
        bencher.iter(|| decode_single::<MmEntry>("mm-1.img", Kind::Mm, black_box(&image)).expect("a valid image"));
    });

    let (head, runs) = pagemap();
    let image = encode_pagemap(&head, &runs);
    group.throughput(Throughput::Bytes(image.len() as u64));
    group.bench_function("encode pagemap, 131072 runs", |bencher| {
        bencher.iter(|| encode_pagemap(&head, black_box(&runs)));
    });
    group.bench_function("decode pagemap, 131072 runs", |bencher| {
        bencher.iter(|| {
            let mut decoder =
                Decoder::open_as("pagemap-1.img", Kind::Pagemap, black_box(&*image)).expect("valid magics");
            decoder.message::<PagemapHead>().expect("a valid image");
            let mut pages = 0;
            while let Some(run) = decoder.message::<PagemapEntry>().expect("a valid image") {
                pages += run.nr_pages();
            }
            assert_eq!(pages, RUNS);
        });
    });
    group.bench_function("walk pagemap, 131072 runs", |bencher| {
        bencher.iter(|| {
            let decoder = Decoder::open("pagemap-1.img", black_box(&*image)).expect("valid magics");
            walk(decoder, |_, finding| panic!("{finding}")).expect("a valid image")
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
