//! What is given to the command: archives of every engine, what is none, several at once, one that cannot be read.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use checkpoint_conformance::archive::{
    mutant::write_private,
    sample::{Form, Part, Sample, compressed, tar_of},
};
use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;
use tempfile::TempDir;

use crate::judged::{failed, of_file, words};

/// Members as `podman container checkpoint --export` writes them: no status, no dump.log, its own names, and a config.dump that
/// says neither when it was checkpointed nor whether it was restored.
fn podman() -> Vec<Part> {
    let mut sample = Sample::default();
    sample.spec["annotations"] = json!({"io.container.manager": "libpod", "org.opencontainers.image.stopSignal": "15"});
    sample.config = json!({
        "id": "5267f7d4", "name": "web", "rootfsImageName": "docker.io/library/app:1", "runtime": "crun",
        "createdTime": "2026-11-22T15:00:00.1+01:00", "staticDir": "/var/lib/containers/storage/x",
    });
    let mut parts = sample.parts();
    let left_out = ["status", "status.dump", "bind.mounts", "dump.log", "rootfs-diff.tar"];
    parts.retain(|part| !left_out.contains(&part.name.as_str()));
    for part in parts.iter_mut().filter(|part| part.name == "container.log") {
        part.name = "ctr.log".to_owned();
    }
    parts.push(Part::file("network.status", *b"{}"));
    parts
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder for the files of a test.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        write_private(&path, bytes).unwrap();
        path
    }

    /// Exit code and output of `archive` with these arguments.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .arg("archive")
            .args(args)
            .current_dir(self.0.path())
            .env_remove("GITHUB_STEP_SUMMARY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // Without the lines that a terminal breaks it into.
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        (output.status.code().unwrap(), words.join(" "))
    }
}

#[test]
fn an_archive_of_podman_holds_plain_and_compressed() {
    let desk = Desk::new();
    let plain = tar_of(&podman()).unwrap();
    let zstd = compress_to_vec(&plain[..], CompressionLevel::Fastest);
    for (name, bytes) in [
        ("plain.tar", plain.clone()),
        ("gzip.tar.gz", gzip(&plain)),
        ("zstd.tar.zst", zstd),
    ] {
        let records = of_file(&desk.write(name, &bytes));
        assert!(failed(&records).is_empty(), "{name}: {}", words(&records));
    }
}

#[test]
fn a_compressed_archive_that_is_cut_is_no_whole_one() {
    let desk = Desk::new();
    let bytes = gzip(&tar_of(&podman()).unwrap());
    let records = of_file(&desk.write("cut.tar.gz", &bytes[..bytes.len() / 2]));
    assert_eq!(
        failed(&records),
        ["archive/tar/well-formed", "archive/tar/uncompressed"].into(),
        "{}",
        words(&records)
    );
}

#[test]
fn compressed_pages_are_searched_wherever_their_page_map_stands() {
    let desk = Desk::new();
    let mut sample = Sample::default();
    // The second page file of the sample, whole, so that the canary is found in no other.
    for (id, pages_per_block) in [(1, 1), (5, 3)] {
        let (pages_id, map) = sample.pagemaps.get_mut(&id).unwrap();
        let pages = sample.pages.get_mut(pages_id).unwrap();
        let (mut at, mut stored) = (0, Vec::new());
        for entry in map.iter_mut() {
            let bytes = entry.compat_nr_pages as usize * 4096;
            let (new, block) = compressed(&pages[at..at + bytes], entry.vaddr, pages_per_block, Form::Fields);
            *entry = new;
            stored.extend(block);
            at += bytes;
        }
        *pages = stored;
    }
    let parts = sample.parts();
    let forward = of_file(&desk.write("forward.tar", &tar_of(&parts).unwrap()));
    assert!(failed(&forward).is_empty(), "{}", words(&forward));
    let (pages, mut behind): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|part| part.name.starts_with("checkpoint/pages-"));
    behind.splice(1..1, pages);
    let backward = of_file(&desk.write("backward.tar", &tar_of(&behind).unwrap()));
    assert!(failed(&backward).is_empty(), "{}", words(&backward));
}

#[test]
fn files_in_an_image_for_each_kind_are_open_files() {
    use cri_proto::criu::{Kind, encode};
    let desk = Desk::new();
    let sample = Sample::default();
    let mut parts = sample.parts();
    parts.retain(|part| part.name != "checkpoint/files.img");
    let image = |kind: Kind, bytes| Part::file(format!("checkpoint/{}", kind.file_name(None)), bytes);
    let of =
        |part: fn(&cri_proto::criu::message::FileEntry) -> bool| sample.files.iter().filter(move |file| part(file));
    let regular: Vec<_> = of(|file| file.reg.is_some())
        .filter_map(|file| file.reg.clone())
        .collect();
    let pipes: Vec<_> = of(|file| file.pipe.is_some()).filter_map(|file| file.pipe).collect();
    let epolls: Vec<_> = of(|file| file.epfd.is_some())
        .filter_map(|file| file.epfd.clone())
        .collect();
    parts.push(image(Kind::RegFiles, encode(Kind::RegFiles, &regular)));
    parts.push(image(Kind::Pipes, encode(Kind::Pipes, &pipes)));
    parts.push(image(Kind::EventpollFile, encode(Kind::EventpollFile, &epolls)));
    let records = of_file(&desk.write("old.tar", &tar_of(&parts).unwrap()));
    assert!(failed(&records).is_empty(), "{}", words(&records));
}

#[test]
fn a_directory_with_a_size_and_a_changed_file_behind_a_long_header_are_right() {
    let desk = Desk::new();
    let mut parts = Sample::default().parts();
    // A tar whose first header is an extension header, as GNU tar writes for a long name, and compressed as containerd has it.
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
    // The first header is that of checkpoint/.
    bytes[124..136].copy_from_slice(b"00000010000\0");
    bytes[148..156].fill(b' ');
    let sum: u64 = bytes[..512].iter().map(|byte| u64::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let records = of_file(&desk.write("sized.tar", &bytes));
    assert!(failed(&records).is_empty(), "{}", words(&records));
}

#[test]
fn what_is_compressed_within_must_be_a_tar() {
    let desk = Desk::new();
    let mut parts = Sample::default().parts();
    for part in parts.iter_mut().filter(|part| part.name == "rootfs-diff.tar") {
        part.content = gzip(b"a note");
    }
    let records = of_file(&desk.write("diff.tar", &tar_of(&parts).unwrap()));
    assert_eq!(failed(&records), ["archive/layout/rootfs-diff"].into());
}

#[test]
fn an_unreadable_archive_leaves_the_verdicts_of_the_others() {
    let desk = Desk::new();
    desk.write("good.tar", &tar_of(&Sample::default().parts()).unwrap());
    for args in [["good.tar", "missing.tar"], ["missing.tar", "good.tar"]] {
        let (code, text) = desk.run(&args);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("verdict: pass"), "{text}");
        assert!(
            text.contains("verdict: error") && text.contains("missing.tar"),
            "{text}"
        );
    }
}

#[test]
fn a_directory_is_named_with_what_to_do() {
    let desk = Desk::new();
    let unpacked = desk.0.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let named = || {
        let (code, text) = desk.run(&["unpacked", "--filter", "archive/kind", "--report", "json=report.json"]);
        assert_eq!(code, 1, "{text}");
        fs::read_to_string(desk.0.path().join("report.json")).unwrap()
    };
    let report = named();
    assert!(report.contains("\"a directory: give the tar"), "{report}");
    fs::write(unpacked.join("config.dump"), "{}").unwrap();
    let report = named();
    assert!(report.contains("that was unpacked: pack it"), "{report}");
}

#[test]
fn a_canary_that_is_not_found_decides() {
    let desk = Desk::new();
    desk.write("good.tar", &tar_of(&Sample::default().parts()).unwrap());
    let (code, text) = desk.run(&["good.tar", "--canary", "nowhere in the memory"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not hold: archive/memory/canary"), "{text}");
    let (code, text) = desk.run(&["good.tar", "--canary", "5b0e9c1d-canary-of-the-sample"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_criu_writes_of_pages_is_a_fact_of_its_profile() {
    let desk = Desk::new();
    for counts in [
        (|entry| entry.nr_pages = None) as fn(&mut cri_proto::criu::message::PagemapEntry),
        |entry| entry.compat_nr_pages = 0,
    ] {
        let mut sample = Sample::default();
        let maps = sample.pagemaps.values_mut().chain(sample.shared_pagemaps.values_mut());
        maps.flat_map(|(_, map)| map).for_each(counts);
        desk.write("criu.tar", &tar_of(&sample.parts()).unwrap());
        let filter = ["criu.tar", "--strict", "--filter", "archive/{kind,memory/page-*}"];
        let (code, text) = desk.run(&filter);
        assert_eq!(code, 1, "{text}");
        for profile in ["criu", "containerd-2.4", "cri-o"] {
            let (code, text) = desk.run(&[&filter[..], &["--profile", profile]].concat());
            assert_eq!(code, 0, "{profile}: {text}");
        }
    }
    // Two counts that contradict each other are no age of CRIU.
    let mut sample = Sample::default();
    let maps = sample.pagemaps.values_mut();
    maps.flat_map(|(_, map)| map)
        .for_each(|entry| entry.compat_nr_pages += 1);
    desk.write("other.tar", &tar_of(&sample.parts()).unwrap());
    let (code, text) = desk.run(&[
        "other.tar",
        "--strict",
        "--filter",
        "archive/memory/page-both-counts",
        "--profile",
        "criu",
    ]);
    assert_eq!(code, 1, "{text}");
}

/// Peak resident memory of this program's child that judges a file, in KiB; `None` where the kernel does not tell.
fn peak_of(path: &Path) -> Option<(i32, i64)> {
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
fn lists_that_an_archive_chooses_take_bounded_memory() {
    /// Twice what these need, and an eighth of what they took while complaints were kept.
    const MOST_KIB: i64 = 300 << 10;
    let desk = Desk::new();
    let mut sample = Sample::default();
    // Seven million threads of one number, twice: 28 million complaints of one process tree.
    for process in &mut sample.pstree[..2] {
        process.threads = vec![1; 7 << 20];
    }
    let path = desk.write("threads.tar", &tar_of(&sample.parts()).unwrap());
    let (code, peak) = peak_of(&path).expect("a child can be waited for");
    assert_eq!(code, 1);
    assert!(peak < MOST_KIB, "{peak} KiB");
}
