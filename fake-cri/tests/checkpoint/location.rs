//! Where archives appear: complete, in place of an earlier file, never through a symlink, or not at all.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    sync::atomic::{AtomicU32, Ordering},
};

use fake_cri::checkpoint::{self, ErrorKind, Phase};

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, job},
    workload::Sleeper,
};

#[test]
fn longer_file_is_replaced() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(sleeper.pid(), dir.path());
    fs::write(&job.location, vec![b'x'; 5_000_000]).unwrap();
    fs::set_permissions(&job.location, fs::Permissions::from_mode(0o644)).unwrap();
    job.fsync = true;
    let report = checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).expect("the checkpoint succeeds");
    let metadata = fs::metadata(&job.location).unwrap();
    assert_eq!(
        (metadata.len(), metadata.mode() & 0o7777),
        (report.archive_bytes, 0o600)
    );
    assert!(metadata.len() < 5_000_000);
}

#[test]
fn symlink_is_refused() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let job = job(sleeper.pid(), dir.path());
    let precious = dir.path().join("precious");
    fs::write(&precious, "keep me").unwrap();
    symlink(&precious, &job.location).unwrap();
    let host = TestHost::new(sleeper.pid());
    let failure = checkpoint::run(&job, &host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Location, "{}", failure.message);
    assert!(failure.message.contains("a symlink"), "{}", failure.message);
    assert!(host.phases.lock().unwrap().is_empty());
    assert!(fs::symlink_metadata(&job.location).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
}

#[test]
fn existing_temporary_is_not_opened() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let job = job(sleeper.pid(), dir.path());
    let precious = dir.path().join("precious");
    fs::write(&precious, "keep me").unwrap();
    symlink(&precious, &job.temporary).unwrap();
    let failure = checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Write, "{}", failure.message);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
    assert!(!job.location.exists());
}

#[test]
fn missing_directory_fails_before_the_freeze() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for subpath in ["missing", "file"] {
        let job = job(sleeper.pid(), &dir.path().join(subpath));
        let host = TestHost::new(sleeper.pid());
        let failure = checkpoint::run(&job, &host, &()).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::DirectoryMissing, "{}", failure.message);
        assert!(failure.message.contains("checkpoint.tar"), "{}", failure.message);
        assert!(host.phases.lock().unwrap().is_empty());
    }
    assert_dir_entries(dir.path(), &["file"]);
}

#[test]
fn directory_at_the_location_is_refused() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let job = job(sleeper.pid(), dir.path());
    fs::create_dir(&job.location).unwrap();
    let failure = checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Location, "{}", failure.message);
    assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    assert_running_untraced(sleeper.pid());
}

/// The FIFO appears between the check before the freeze and the rename.
#[test]
fn fifo_created_during_the_dump_is_kept() {
    for existed in [false, true] {
        let sleeper = Sleeper::start();
        let dir = tempfile::tempdir().unwrap();
        let job = job(sleeper.pid(), dir.path());
        if existed {
            fs::write(&job.location, "former").unwrap();
        }
        let host = TestHost::with_phase_hook(sleeper.pid(), |phase| {
            if phase == Phase::Finish {
                let _ = fs::remove_file(&job.location);
                nix::unistd::mkfifo(&job.location, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
        });
        let failure = checkpoint::run(&job, &host, &()).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Location, "{}", failure.message);
        assert!(failure.message.contains("a FIFO"), "{}", failure.message);
        assert_dir_entries(dir.path(), &["checkpoint.tar"]);
        assert!(fs::symlink_metadata(&job.location).unwrap().file_type().is_fifo());
        assert_running_untraced(sleeper.pid());
    }
}

#[test]
fn temporary_has_mode_600() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let job = job(sleeper.pid(), dir.path());
    let modes = AtomicU32::new(0);
    let host = TestHost::with_phase_hook(sleeper.pid(), |_| {
        let metadata = fs::symlink_metadata(&job.temporary).expect("the file exists from the start");
        modes.fetch_or(metadata.mode() & 0o7777, Ordering::SeqCst);
        assert!(!job.location.exists(), "the archive appears only at the end");
    });
    checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    assert_eq!(modes.load(Ordering::SeqCst), 0o600);
}

#[test]
fn log_is_copied_as_of_the_freeze() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(sleeper.pid(), dir.path());
    let log = logs.path().join("0.log");
    fs::write(&log, "2026-01-02T03:04:05.678Z stdout F one\n").unwrap();
    job.log = Some(log.clone());
    let host = TestHost::with_phase_hook(sleeper.pid(), |phase| {
        if phase == Phase::Write {
            let mut log = OpenOptions::new().append(true).open(&log).unwrap();
            log.write_all(b"two\n").unwrap();
        }
    });
    checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    let contents = ArchiveContents::read(&job.location);
    assert_eq!(
        contents.members["container.log"],
        b"2026-01-02T03:04:05.678Z stdout F one\n"
    );

    let host = TestHost::with_phase_hook(sleeper.pid(), |phase| {
        if phase == Phase::Write {
            OpenOptions::new().write(true).open(&log).unwrap().set_len(4).unwrap();
        }
    });
    checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    let contents = ArchiveContents::read(&job.location);
    let copy = &contents.members["container.log"];
    assert!(
        copy.starts_with(b"2026\0") && copy[4..].iter().all(|byte| *byte == 0),
        "{copy:?}"
    );
    assert!(String::from_utf8_lossy(&contents.members["dump.log"]).contains("truncated meanwhile"));

    job.log = Some(logs.path().join("none.log"));
    checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).expect("a checkpoint without its log");
    let contents = ArchiveContents::read(&job.location);
    assert!(contents.members["container.log"].is_empty());
    assert!(String::from_utf8_lossy(&contents.members["dump.log"]).contains("none.log"));
}
