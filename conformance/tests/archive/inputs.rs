//! Inputs of `archive`: archives of every engine, files that are no archives, several files, unreadable files.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use checkpoint_conformance::archive::sample::{
    BlockSizesEncoding, Sample, SampleMember, compressed_entry, tar_of, write_private,
};
use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;
use tempfile::TempDir;

use crate::helpers::{failed_ids, failure_texts, test_file};

/// The members that `podman container checkpoint --export` writes: no status, no dump.log, other names, and a
/// config.dump without the checkpoint time and the restored flag.
fn podman_members() -> Vec<SampleMember> {
    let mut sample = Sample::default();
    sample.spec["annotations"] = json!({"io.container.manager": "libpod", "org.opencontainers.image.stopSignal": "15"});
    sample.config = json!({
        "id": "5267f7d4", "name": "web", "rootfsImageName": "docker.io/library/app:1", "runtime": "crun",
        "createdTime": "2026-11-22T15:00:00.1+01:00", "staticDir": "/var/lib/containers/storage/x",
    });
    let mut parts = sample.members();
    let absent_members = ["status", "status.dump", "bind.mounts", "dump.log", "rootfs-diff.tar"];
    parts.retain(|part| !absent_members.contains(&part.name.as_str()));
    for part in parts.iter_mut().filter(|part| part.name == "container.log") {
        part.name = "ctr.log".to_owned();
    }
    parts.push(SampleMember::file("network.status", *b"{}"));
    parts
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct TestDir(TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        write_private(&path, bytes).unwrap();
        path
    }

    /// Runs `archive` with these arguments; returns exit code and output.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .arg("archive")
            .args(args)
            .current_dir(self.0.path())
            .env_remove("GITHUB_STEP_SUMMARY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // Undo the line wrapping.
        let text = String::from_utf8(output.stdout).unwrap();
        let collapsed: Vec<_> = text.split_whitespace().collect();
        (output.status.code().unwrap(), collapsed.join(" "))
    }
}

#[test]
fn podman_archives_pass_plain_and_compressed() {
    let dir = TestDir::new();
    let plain = tar_of(&podman_members()).unwrap();
    let zstd = compress_to_vec(&plain[..], CompressionLevel::Fastest);
    for (name, bytes) in [
        ("plain.tar", plain.clone()),
        ("gzip.tar.gz", gzip(&plain)),
        ("zstd.tar.zst", zstd),
    ] {
        let records = test_file(&dir.write(name, &bytes));
        assert!(failed_ids(&records).is_empty(), "{name}: {}", failure_texts(&records));
    }
}

#[test]
fn truncated_compressed_archives_fail() {
    let dir = TestDir::new();
    let bytes = gzip(&tar_of(&podman_members()).unwrap());
    let records = test_file(&dir.write("cut.tar.gz", &bytes[..bytes.len() / 2]));
    assert_eq!(
        failed_ids(&records),
        ["archive/tar/well-formed", "archive/tar/uncompressed"].into(),
        "{}",
        failure_texts(&records)
    );
}

#[test]
fn searches_compressed_pages_in_any_member_order() {
    let dir = TestDir::new();
    let mut sample = Sample::default();
    // Compress both page files of the sample, so that the canary exists only in compressed pages.
    for (id, pages_per_block) in [(1, 1), (5, 3)] {
        let (pages_id, map) = sample.pagemaps.get_mut(&id).unwrap();
        let pages = sample.pages.get_mut(pages_id).unwrap();
        let (mut offset, mut stored) = (0, Vec::new());
        for entry in map.iter_mut() {
            let bytes = entry.compat_nr_pages as usize * 4096;
            let (new, block) = compressed_entry(
                &pages[offset..offset + bytes],
                entry.vaddr,
                pages_per_block,
                BlockSizesEncoding::Fields,
            );
            *entry = new;
            stored.extend(block);
            offset += bytes;
        }
        *pages = stored;
    }
    let parts = sample.members();
    let forward = test_file(&dir.write("forward.tar", &tar_of(&parts).unwrap()));
    assert!(failed_ids(&forward).is_empty(), "{}", failure_texts(&forward));
    let (pages, mut pages_first): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|part| part.name.starts_with("checkpoint/pages-"));
    pages_first.splice(1..1, pages);
    let backward = test_file(&dir.write("backward.tar", &tar_of(&pages_first).unwrap()));
    assert!(failed_ids(&backward).is_empty(), "{}", failure_texts(&backward));
}

#[test]
fn reads_single_kind_file_images() {
    use cri_proto::criu::{Kind, encode};
    let dir = TestDir::new();
    let sample = Sample::default();
    let mut parts = sample.members();
    parts.retain(|part| part.name != "checkpoint/files.img");
    let image = |kind: Kind, bytes| SampleMember::file(format!("checkpoint/{}", kind.file_name(None)), bytes);
    let files_where =
        |part: fn(&cri_proto::criu::message::FileEntry) -> bool| sample.files.iter().filter(move |file| part(file));
    let regular: Vec<_> = files_where(|file| file.reg.is_some())
        .filter_map(|file| file.reg.clone())
        .collect();
    let pipes: Vec<_> = files_where(|file| file.pipe.is_some())
        .filter_map(|file| file.pipe)
        .collect();
    let epolls: Vec<_> = files_where(|file| file.epfd.is_some())
        .filter_map(|file| file.epfd.clone())
        .collect();
    parts.push(image(Kind::RegFiles, encode(Kind::RegFiles, &regular)));
    parts.push(image(Kind::Pipes, encode(Kind::Pipes, &pipes)));
    parts.push(image(Kind::EventpollFile, encode(Kind::EventpollFile, &epolls)));
    let records = test_file(&dir.write("old.tar", &tar_of(&parts).unwrap()));
    assert!(failed_ids(&records).is_empty(), "{}", failure_texts(&records));
}

#[test]
fn accepts_sized_directories_and_long_headers() {
    let dir = TestDir::new();
    let mut parts = Sample::default().members();
    // A gzip tar whose first header is an extension header, as GNU tar writes for a long name. containerd compresses
    // the diff too.
    let mut inner = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    inner.append_data(&mut header, "n".repeat(200), &b"x"[..]).unwrap();
    let diff = gzip(&inner.into_inner().unwrap());
    for part in parts.iter_mut().filter(|part| part.name == "rootfs-diff.tar") {
        part.content.clone_from(&diff);
    }
    let mut bytes = tar_of(&parts).unwrap();
    // The first header belongs to checkpoint/.
    bytes[124..136].copy_from_slice(b"00000010000\0");
    bytes[148..156].fill(b' ');
    let sum: u64 = bytes[..512].iter().map(|byte| u64::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let records = test_file(&dir.write("sized.tar", &bytes));
    assert!(failed_ids(&records).is_empty(), "{}", failure_texts(&records));
}

#[test]
fn nested_compressed_data_must_be_a_tar() {
    let dir = TestDir::new();
    let mut parts = Sample::default().members();
    for part in parts.iter_mut().filter(|part| part.name == "rootfs-diff.tar") {
        part.content = gzip(b"a note");
    }
    let records = test_file(&dir.write("diff.tar", &tar_of(&parts).unwrap()));
    assert_eq!(failed_ids(&records), ["archive/layout/rootfs-diff-is-tar"].into());
}

#[test]
fn unreadable_archive_does_not_affect_others() {
    let dir = TestDir::new();
    dir.write("good.tar", &tar_of(&Sample::default().members()).unwrap());
    for args in [["good.tar", "missing.tar"], ["missing.tar", "good.tar"]] {
        let (code, text) = dir.run(&args);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("verdict: pass"), "{text}");
        assert!(
            text.contains("verdict: error") && text.contains("missing.tar"),
            "{text}"
        );
    }
}

#[test]
fn directory_input_gets_a_remedy() {
    let dir = TestDir::new();
    let unpacked = dir.0.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let read_report = || {
        let (code, text) = dir.run(&[
            "unpacked",
            "--filter",
            "archive/format/checkpoint-archive",
            "--report",
            "json=report.json",
        ]);
        assert_eq!(code, 1, "{text}");
        fs::read_to_string(dir.0.path().join("report.json")).unwrap()
    };
    let report = read_report();
    assert!(report.contains("\"a directory: give the tar"), "{report}");
    fs::write(unpacked.join("config.dump"), "{}").unwrap();
    let report = read_report();
    assert!(report.contains("that was unpacked: pack it"), "{report}");
}

#[test]
fn missing_canary_fails_the_run() {
    let dir = TestDir::new();
    dir.write("good.tar", &tar_of(&Sample::default().members()).unwrap());
    let (code, text) = dir.run(&["good.tar", "--expect-in-memory", "nowhere in the memory"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("required cases failed: archive/memory/expected-bytes"),
        "{text}"
    );
    let (code, text) = dir.run(&["good.tar", "--expect-in-memory", "5b0e9c1d-canary-of-the-sample"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn criu_page_counts_are_known_deviations() {
    let dir = TestDir::new();
    for counts in [
        (|entry| entry.nr_pages = None) as fn(&mut cri_proto::criu::message::PagemapEntry),
        |entry| entry.compat_nr_pages = 0,
    ] {
        let mut sample = Sample::default();
        let maps = sample.pagemaps.values_mut().chain(sample.shared_pagemaps.values_mut());
        maps.flat_map(|(_, map)| map).for_each(counts);
        dir.write("criu.tar", &tar_of(&sample.members()).unwrap());
        let filter = [
            "criu.tar",
            "--strict",
            "--filter",
            "archive/{format/checkpoint-archive,memory/{page,pages,pagemap,compressed}-*}",
        ];
        let (code, text) = dir.run(&filter);
        assert_eq!(code, 1, "{text}");
        for profile in ["criu", "containerd-2.4", "cri-o"] {
            let (code, text) = dir.run(&[&filter[..], &["--profile", profile]].concat());
            assert_eq!(code, 0, "{profile}: {text}");
        }
    }
    // No CRIU version explains two contradicting counts.
    let mut sample = Sample::default();
    let maps = sample.pagemaps.values_mut();
    maps.flat_map(|(_, map)| map)
        .for_each(|entry| entry.compat_nr_pages += 1);
    dir.write("other.tar", &tar_of(&sample.members()).unwrap());
    let (code, text) = dir.run(&[
        "other.tar",
        "--strict",
        "--filter",
        "archive/memory/page-count-fields-agree",
        "--profile",
        "criu",
    ]);
    assert_eq!(code, 1, "{text}");
}

/// Returns the peak resident memory of a child process that tests a file, in KiB; `None` if unknown.
fn peak_memory(path: &Path) -> Option<(i32, i64)> {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        wait::{WaitStatus, waitpid},
    };
    let child = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args(["archive", "--strict"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().ok()?);
    match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, code)) => {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
            Some((code, usage.max_rss()))
        }
        _ => None,
    }
}

#[test]
fn hostile_lists_take_bounded_memory() {
    /// Twice the memory that the command needs, and an eighth of the memory that it would need to keep every complaint.
    const MAX_KIB: i64 = 300 << 10;
    let dir = TestDir::new();
    let mut sample = Sample::default();
    // Two processes with seven million threads of the same tid: 28 million complaints about one process tree.
    for process in &mut sample.pstree[..2] {
        process.threads = vec![1; 7 << 20];
    }
    let path = dir.write("threads.tar", &tar_of(&sample.members()).unwrap());
    let (code, peak) = peak_memory(&path).expect("wait for the child");
    assert_eq!(code, 1);
    assert!(peak < MAX_KIB, "{peak} KiB");
}
