//! Benchmarks the pagemap scan, which a checkpoint makes for each mapping before it reads memory.

use std::{hint::black_box, process::ExitCode};

use criterion::{Criterion, Throughput};
use fake_cri::{bench_support::scan_page_map, process::Pid};
use nix::sys::prctl;

const PAGE_BYTES: usize = 4096;
const MEMORY_BYTES: usize = 256 << 20;

fn main() -> ExitCode {
    if let Err(errno) = prctl::set_thp_disable(true) {
        eprintln!("failed to disable huge pages: {errno}");
        return ExitCode::FAILURE;
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("page map of 256 MiB");
    group
        .throughput(Throughput::Elements((MEMORY_BYTES / PAGE_BYTES) as u64))
        .sample_size(20);
    for (name, step) in [
        ("one region", 1),
        ("every other page", 2),
        ("every 64th page", 64),
        ("nothing", MEMORY_BYTES),
    ] {
        let mut memory = vec![0_u8; MEMORY_BYTES];
        let start = memory.as_ptr().addr().next_multiple_of(PAGE_BYTES);
        let first_offset = start - memory.as_ptr().addr();
        // The last page may be shared with the allocation behind it.
        let pages = MEMORY_BYTES / PAGE_BYTES - 1;
        for page in (1..pages).step_by(step).filter(|_| step < pages) {
            memory[first_offset + page * PAGE_BYTES] = 1;
        }
        let range = start as u64..(start + pages * PAGE_BYTES) as u64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| scan_page_map(Pid::current(), black_box(range.clone())).expect("its own"));
        });
        drop(memory);
    }
    group.finish();
    criterion.final_summary();
    ExitCode::SUCCESS
}
