//! `stats-dump` tells the times that a clock beside it tells.

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
    archive::Contents,
    host::{TestHost, job},
    workload::{PAGE, Shape, Workload},
};

#[rstest]
fn they_are_those_of_the_wall(#[values(Freeze::Copy, Freeze::Whole)] freeze: Freeze) {
    let workload = Workload::start(&Shape {
        dense_pages: (48 << 20) / PAGE,
        ..Shape::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let begun = Mutex::new(BTreeMap::new());
    let host = TestHost::with(workload.pid(), |phase| {
        // It is in the middle of the time that all stand still.
        if phase == Phase::Write {
            thread::sleep(Duration::from_millis(30));
        }
        begun.lock().unwrap().insert(format!("{phase:?}"), Instant::now());
    });
    let mut job = job(workload.pid(), folder.path());
    job.freeze = freeze;
    let report = checkpoint::run(&job, &host).expect("checkpoint");
    assert_eq!(report.copied, freeze == Freeze::Copy);
    let contents = Contents::read(&job.location);
    let stats: StatsEntry = decode_single("stats-dump", Kind::Stats, &contents.members["stats-dump"]).unwrap();
    let stats = stats.dump.expect("a dump");
    drop(host);
    let begun = begun.into_inner().unwrap();
    let at = |phase: &str| begun[phase];
    let micros = |time: u32| Duration::from_micros(time.into());
    let (freezing, frozen) = (micros(stats.freezing_time), micros(stats.frozen_time));
    let (read, written) = (micros(stats.memdump_time), micros(stats.memwrite_time));
    let told = format!("{stats:?} of {report:?}");

    // They stood when `capture` began, and still did when `write` did.
    assert!(frozen >= at("Write") - at("Capture"), "{told}");
    assert!(frozen >= Duration::from_millis(30), "{told}");
    assert!(freezing + frozen <= at("Finish") - at("Freeze"), "{told}");
    assert!(freezing > Duration::ZERO && frozen < report.total, "{told}");
    // Reading and writing are done by as many threads as there are processors, after `write` began.
    let threads = thread::available_parallelism().map_or(1, usize::from) as u32;
    assert!(read > Duration::ZERO && written > Duration::ZERO, "{told}");
    assert!(
        read + written <= (at("Finish") - at("Write")) * threads.max(2),
        "{told}"
    );
    if freeze == Freeze::Whole {
        // All of it while they stood.
        assert!(read + written <= frozen * threads.max(2), "{told}");
    }
    assert!(stats.pages_written >= (48 << 20) / PAGE, "{told}");
    assert!(stats.pages_scanned >= stats.pages_written, "{told}");
}
