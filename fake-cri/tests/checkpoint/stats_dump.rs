//! Compares the times in `stats-dump` with a clock.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use cri_proto::criu::{Kind, decode_single, message::StatsEntry};
use fake_cri::checkpoint::{self, Freeze, Phase};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, job},
    workload::{PAGE_BYTES, Shape, Workload},
};

#[rstest]
fn times_match_the_wall_clock(#[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    let workload = Workload::start(&Shape {
        filled_pages: (48 << 20) / PAGE_BYTES,
        ..Shape::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let phase_starts = Mutex::new(BTreeMap::new());
    let host = TestHost::with_phase_hook(workload.pid(), |phase| {
        // The container is frozen during the sleep.
        if phase == Phase::Write {
            thread::sleep(Duration::from_millis(30));
        }
        phase_starts
            .lock()
            .unwrap()
            .insert(format!("{phase:?}"), Instant::now());
    });
    let mut job = job(workload.pid(), dir.path());
    job.freeze = freeze;
    let report = checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    assert_eq!(report.used_snapshot, freeze == Freeze::Snapshot);
    let contents = ArchiveContents::read(&job.location);
    let stats: StatsEntry = decode_single("stats-dump", Kind::Stats, &contents.members["stats-dump"]).unwrap();
    let stats = stats.dump.expect("a dump");
    drop(host);
    let phase_starts = phase_starts.into_inner().unwrap();
    let at = |phase: &str| phase_starts[phase];
    let micros = |time: u32| Duration::from_micros(time.into());
    let (freezing, frozen) = (micros(stats.freezing_time), micros(stats.frozen_time));
    let (read, written) = (micros(stats.memdump_time), micros(stats.memwrite_time));
    let context = format!("{stats:?} of {report:?}");

    // The container was frozen when `capture` began, and still frozen when `write` began.
    assert!(frozen >= at("Write") - at("Capture"), "{context}");
    assert!(frozen >= Duration::from_millis(30), "{context}");
    assert!(freezing + frozen <= at("Finish") - at("Freeze"), "{context}");
    assert!(freezing > Duration::ZERO && frozen < report.total_time, "{context}");
    // After `write` began, as many threads as CPUs read and write.
    let threads = thread::available_parallelism().map_or(1, usize::from) as u32;
    assert!(read > Duration::ZERO && written > Duration::ZERO, "{context}");
    assert!(
        read + written <= (at("Finish") - at("Write")) * threads.max(2),
        "{context}"
    );
    if freeze == Freeze::Full {
        // All reads and writes happened while the container was frozen.
        assert!(read + written <= frozen * threads.max(2), "{context}");
    }
    assert!(stats.pages_written >= (48 << 20) / PAGE_BYTES, "{context}");
    assert!(stats.pages_scanned >= stats.pages_written, "{context}");
}
