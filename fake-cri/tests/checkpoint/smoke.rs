//! A minimal checkpoint, and the output of real tools for its archive.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use fake_cri::checkpoint::{self, ErrorKind, Freeze, Phase};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, job, keep_archive},
    workload::Sleeper,
};

#[rstest]
fn sleeping_process_is_checkpointed(#[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let host = TestHost::new(sleeper.pid());
    let mut job = job(sleeper.pid(), dir.path());
    job.strict = true;
    job.freeze = freeze;
    let report = checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    assert_running_untraced(sleeper.pid());
    assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    let metadata = std::fs::metadata(&job.location).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(metadata.len(), report.archive_bytes);
    assert_eq!((report.processes, report.threads), (1, 1));
    assert!(report.pages > 0);
    assert_eq!(
        *host.phases.lock().unwrap(),
        [Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish]
    );
    assert!(host.exits.lock().unwrap().is_empty());
    let contents = ArchiveContents::read(&job.location);
    let pid = sleeper.pid();
    let images = ["descriptors.json", "inventory.img", "pstree.img"].map(str::to_owned);
    let of_process = |names: [&str; 2]| names.map(|name| format!("{name}-{pid}.img"));
    let images = images
        .into_iter()
        .chain(of_process(["ids", "fs"]))
        .chain(["fdinfo-1.img", "seccomp.img"].map(str::to_owned))
        .chain(of_process(["core", "pagemap"]))
        .chain(["files.img", "pages-1.img"].map(str::to_owned))
        .chain([format!("mm-{pid}.img")]);
    let documents = [
        "config.dump",
        "spec.dump",
        "status.dump",
        "status",
        "container.log",
        "rootfs-diff.tar",
        "stats-dump",
        "dump.log",
    ];
    let expected: Vec<_> = std::iter::once("checkpoint/".to_owned())
        .chain(images.map(|name| format!("checkpoint/{name}")))
        .chain(documents.map(str::to_owned))
        .collect();
    // The sleeper can inherit an open pipe from the parent of this test.
    let names: Vec<_> = contents
        .order
        .iter()
        .filter(|name| !name.ends_with("/pipes-data.img"))
        .cloned()
        .collect();
    assert_eq!(names, expected);
    let listed = Command::new("tar").arg("tf").arg(&job.location).output().expect("tar");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    keep_archive(&job.location);
}

#[test]
fn unsupported_state_is_in_the_log_or_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let lock_dir = tempfile::tempdir().unwrap();
    let locked = File::create_new(lock_dir.path().join("locked")).unwrap();
    locked.lock().unwrap();
    let sleeper = Sleeper::with_input(locked);
    let mut job = job(sleeper.pid(), dir.path());
    checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).expect("the checkpoint succeeds");
    let log = ArchiveContents::read(&job.location).members.remove("dump.log").unwrap();
    let log = String::from_utf8(log).unwrap();
    let line = format!(
        "unsupported: pid {}: the file locks of descriptor 0 (FLOCK",
        sleeper.pid()
    );
    assert!(log.contains(&line), "{log}");

    fs::remove_file(&job.location).unwrap();
    job.strict = true;
    let failure = checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::UnsupportedState);
    for part in ["--strict-capture", "the file locks of descriptor 0"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
    assert_running_untraced(sleeper.pid());
    assert_dir_entries(dir.path(), &[]);
}
