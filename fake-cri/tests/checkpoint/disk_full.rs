//! A real full filesystem and the fault `disk-full`, side by side: the fault must meet the same code.
//!
//! | filesystem | what reports the full disk |
//! |---|---|
//! | tmpfs, large memory | fallocate(2), before the first page |
//! | tmpfs, small memory | write(2) |
//! | ramfs, which has no fallocate, large memory | splice(2) from a snapshot; write(2) with a full freeze |
//!
//! A ramfs has no limit, so only the fault fills it. The mounts are in a mount namespace of the test's thread.

use std::{fs, path::Path};

use fake_cri::{
    checkpoint::{self, ErrorKind, Failure, Freeze, Hooks},
    fault::{CheckpointFaults, Defect, Effect, Injection},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rstest::rstest;

use crate::{
    host::{TestHost, assert_dir_entries, assert_running_untraced, faults, job},
    workload::{PAGE_BYTES, Shape, Workload},
};

/// More memory than the smallest amount that is allocated and spliced.
const LARGE_PAGES: u64 = (16 << 20) / PAGE_BYTES;
/// Less memory than the smallest amount that is allocated.
const SMALL_PAGES: u64 = 400;

/// Mounts a filesystem in a mount namespace of this thread only. Returns false, with a message, without root.
fn mount_privately(kind: &str, options: &str, directory: &Path) -> bool {
    let mounted = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
        .and_then(|()| {
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
        })
        .and_then(|()| mount(Some(kind), directory, Some(kind), MsFlags::empty(), Some(options)));
    if let Err(errno) = mounted {
        eprintln!("skipped: {kind} cannot be mounted here: {errno}");
    }
    mounted.is_ok()
}

fn full_after(bytes: u64, defects: &[Defect]) -> impl Hooks {
    faults(CheckpointFaults {
        injections: vec![Injection {
            phase: checkpoint::Phase::Write,
            effect: Effect::NoSpace(bytes),
        }],
        defects: defects.to_vec(),
    })
}

/// A checkpoint into a full directory. The container keeps running, and no file is left.
fn fail(workload: &Workload, directory: &Path, freeze: Freeze, hooks: &dyn Hooks) -> Failure {
    let job = checkpoint::Job {
        freeze,
        ..job(workload.pid(), directory)
    };
    let failure = checkpoint::run(&job, &TestHost::new(workload.pid()), hooks).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NoSpace, "{}", failure.message);
    assert_dir_entries(directory, &[]);
    assert_running_untraced(workload.pid());
    workload.count();
    failure
}

/// The message without the path.
fn shape(failure: &Failure, directory: &Path) -> String {
    failure.message.replace(&*directory.to_string_lossy(), "DIRECTORY")
}

/// Runs a test in a thread, whose mount namespace ends with it.
fn in_thread(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(test)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
}

#[rstest]
#[case::allocate(LARGE_PAGES, "size=4m", 4 << 20, "allocate DIRECTORY/")]
#[case::write(SMALL_PAGES, "size=256k", 256 << 10, "write DIRECTORY/")]
fn fault_fails_like_a_full_tmpfs(
    #[case] pages: u64,
    #[case] size: &str,
    #[case] bytes: u64,
    #[case] expected: &str,
    #[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze,
) {
    let workload = Workload::start(&Shape {
        filled_pages: pages,
        ..Shape::default()
    });
    let (full, injected) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    in_thread(|| {
        if !mount_privately("tmpfs", size, full.path()) {
            return;
        }
        let real = shape(&fail(&workload, full.path(), freeze, &()), full.path());
        let hooks = full_after(bytes, &[]);
        let fault = shape(&fail(&workload, injected.path(), freeze, &hooks), injected.path());
        assert_eq!(fault, real);
        assert!(
            fault.starts_with(expected) && fault.contains("No space left"),
            "{fault}"
        );
    });
}

#[rstest]
fn fault_fails_splice_where_nothing_is_allocated(#[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        ..Shape::default()
    });
    let directory = tempfile::tempdir().unwrap();
    in_thread(|| {
        if !mount_privately("ramfs", "", directory.path()) {
            return;
        }
        let failure = fail(&workload, directory.path(), freeze, &full_after(5 << 20, &[]));
        assert!(failure.message.starts_with("write "), "{}", failure.message);
    });
}

/// Ignoring the full disk loses the rest of the archive.
#[rstest]
fn ignored_full_disk_truncates_the_archive(#[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        ..Shape::default()
    });
    let directory = tempfile::tempdir().unwrap();
    let job = checkpoint::Job {
        freeze,
        ..job(workload.pid(), directory.path())
    };
    let hooks = full_after(5 << 20, &[Defect::IgnoreNoSpace]);
    let report = checkpoint::run(&job, &TestHost::new(workload.pid()), &hooks).expect("the error is ignored");
    assert_eq!(report.archive_bytes, 5 << 20);
    assert_eq!(fs::metadata(&job.location).unwrap().len(), 5 << 20);
    workload.count();
}
