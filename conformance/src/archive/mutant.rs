//! Archives that are wrong in one way each, and the cases that must say so.
//!
//! What is expected of a mutant stands here, before any run: a case that fails without being named is a false alarm,
//! one that is named and does not fail checks nothing. Cases that could not be judged for it are skipped, and not named.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use cri_proto::criu::message::{FdTypes, StatsEntry, core_entry::March};
use serde_json::{Value, json};
use tar::EntryType;

use super::{
    header::{BLOCK, checksum},
    sample::{Part, Sample, run, tar_of},
};

/// An archive that is wrong in one way.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveMutant {
    /// Its name, a path below the part that is wrong.
    pub name: &'static str,
    /// The cases that must fail, and no other may: ids without `archive/`.
    pub expected: &'static [&'static str],
    change: Change,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// What the archive says.
    Sample(fn(&mut Sample)),
    /// Its members.
    Parts(fn(&mut Vec<Part>)),
    /// Its bytes.
    Bytes(fn(&mut Vec<u8>)),
    /// The file that it is.
    File(fn(&Path) -> io::Result<()>),
}

impl ArchiveMutant {
    /// Writes the archive to `path`, 0600 unless that is what is wrong.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.bytes()?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        match self.change {
            Change::File(change) => change(path),
            _ => Ok(()),
        }
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// For names that no tar header takes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut sample = Sample::default();
        if let Change::Sample(change) = self.change {
            change(&mut sample);
        }
        let mut parts = sample.parts();
        if let Change::Parts(change) = self.change {
            change(&mut parts);
        }
        let mut bytes = tar_of(&parts)?;
        if let Change::Bytes(change) = self.change {
            change(&mut bytes);
        }
        Ok(bytes)
    }
}

const fn said(name: &'static str, expected: &'static [&'static str], change: fn(&mut Sample)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Sample(change),
    }
}

const fn members(name: &'static str, expected: &'static [&'static str], change: fn(&mut Vec<Part>)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Parts(change),
    }
}

const fn bytes(name: &'static str, expected: &'static [&'static str], change: fn(&mut Vec<u8>)) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::Bytes(change),
    }
}

const fn file(
    name: &'static str,
    expected: &'static [&'static str],
    change: fn(&Path) -> io::Result<()>,
) -> ArchiveMutant {
    ArchiveMutant {
        name,
        expected,
        change: Change::File(change),
    }
}

/// Every mutant of the archive.
pub const MUTANTS: &[ArchiveMutant] = &[
    // The file.
    file("file/world-readable", &["file/private", "file/mode"], |path| {
        mode(path, 0o644)
    }),
    file("file/group-readable", &["file/private", "file/mode"], |path| {
        mode(path, 0o640)
    }),
    file("file/executable", &["file/mode"], |path| mode(path, 0o700)),
    file("file/symlink", &["file/plain"], |path| {
        let target = path.with_extension("target");
        fs::rename(path, &target)?;
        symlink(target, path)
    }),
    file("file/hard-link", &["file/plain"], |path| {
        fs::hard_link(path, path.with_extension("other"))
    }),
    // The tar.
    bytes("tar/no-bytes", &["tar/well-formed"], Vec::clear),
    bytes("tar/random", &["tar/well-formed"], |bytes| {
        let mut state = 1_u32;
        bytes.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
    }),
    bytes("tar/checksum", &["tar/well-formed"], |bytes| bytes[148] ^= 1),
    bytes("tar/last-checksum", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last] ^= 1;
    }),
    bytes("tar/size-beyond-file", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 124..last + 136].copy_from_slice(b"77777777777\0");
        resum(bytes, last);
    }),
    bytes("tar/cut-in-member", &["tar/well-formed"], |bytes| {
        bytes.truncate(bytes.len() / 2 / BLOCK * BLOCK)
    }),
    bytes("tar/cut-in-header", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes.truncate(last + 100);
    }),
    bytes("tar/cut-at-member", &["tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - 2 * BLOCK)
    }),
    bytes("tar/one-zero-block", &["tar/end-marker"], |bytes| {
        bytes.truncate(bytes.len() - BLOCK)
    }),
    bytes("tar/stale-tail", &["tar/nothing-behind"], |bytes| {
        let stale = bytes[..20 * BLOCK].to_vec();
        bytes.extend(stale);
    }),
    bytes("tar/zeros-without-end", &["tar/nothing-behind"], |bytes| {
        bytes.resize(bytes.len() + (2 << 20), 0)
    }),
    bytes("tar/gzip", &["tar/well-formed", "tar/uncompressed"], |bytes| {
        bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    }),
    bytes("tar/no-members", &["tar/not-empty"], |bytes| {
        *bytes = vec![0; 2 * BLOCK]
    }),
    bytes("tar/long-name-bomb", &["tar/bounded"], |bytes| {
        extension(bytes, b'L', 1 << 30, b"name")
    }),
    bytes("tar/pax-bomb", &["tar/bounded"], |bytes| {
        extension(bytes, b'x', 1 << 33, b"")
    }),
    bytes("tar/pax-malformed", &["tar/well-formed"], |bytes| {
        extension(bytes, b'x', 12, b"99 path=abc\n")
    }),
    bytes("tar/link-with-content", &["tar/well-formed"], |bytes| {
        let last = last_header(bytes);
        bytes[last + 156] = b'2';
        resum(bytes, last);
    }),
    // Members.
    members("members/absolute", &["members/relative"], |parts| {
        parts.push(Part::file("/etc/cron.d/x", *b"x"))
    }),
    members("members/parent", &["members/no-parent"], |parts| {
        parts.push(Part::file("../x", *b"x"))
    }),
    members("members/symlink", &["members/no-symlink"], |parts| {
        parts.push(special("log", EntryType::Symlink))
    }),
    members(
        "members/symlink-as-log",
        &["members/no-symlink", "layout/container-log"],
        |parts| {
            part(parts, "container.log").kind = EntryType::Symlink;
            part(parts, "container.log").content = b"/etc/shadow".to_vec();
        },
    ),
    members("members/hard-link", &["members/no-hard-link"], |parts| {
        parts.push(special("log", EntryType::Link))
    }),
    members("members/character-device", &["members/no-device"], |parts| {
        parts.push(special("null", EntryType::Char))
    }),
    members("members/block-device", &["members/no-device"], |parts| {
        parts.push(special("disk", EntryType::Block))
    }),
    members("members/fifo", &["members/no-device"], |parts| {
        parts.push(special("fifo", EntryType::Fifo))
    }),
    members("members/gnu-sparse", &["members/no-sparse"], |parts| {
        parts.push(special("holes", EntryType::GNUSparse))
    }),
    members("members/strange-kind", &["members/known-kind"], |parts| {
        parts.push(special("x", EntryType::new(b'Z')))
    }),
    members("members/twice", &["members/unique"], |parts| {
        let again = part(parts, "config.dump").clone();
        parts.push(again);
    }),
    members("members/twice-by-another-name", &["members/unique"], |parts| {
        let mut again = part(parts, "checkpoint/core-1.img").clone();
        again.name = "./checkpoint/core-1.img".to_owned();
        parts.push(again);
    }),
    members("members/control-character", &["members/clean-names"], |parts| {
        parts.push(Part::file("a\x1b[2Jb", *b"x"))
    }),
    members("members/dot-component", &["members/clean-names"], |parts| {
        parts.push(Part::file("a/./b", *b"x"))
    }),
    members("members/setuid", &["members/no-set-id"], |parts| {
        let mut shell = Part::file("sh", *b"#!");
        shell.mode = 0o4755;
        parts.push(shell);
    }),
    // The layout.
    members("layout/no-spec", &["layout/upstream-names"], |parts| {
        drop_part(parts, "spec.dump")
    }),
    members("layout/no-config", &["layout/upstream-names"], |parts| {
        drop_part(parts, "config.dump")
    }),
    members("layout/no-inventory", &["layout/upstream-names"], |parts| {
        drop_part(parts, "checkpoint/inventory.img")
    }),
    members("layout/no-directory", &["layout/checkpoint-directory"], |parts| {
        drop_part(parts, "checkpoint/")
    }),
    members("layout/deeper", &["layout/flat"], |parts| {
        parts.push(Part::file("checkpoint/old/core-1.img", *b"x"))
    }),
    members("layout/strange-image", &["layout/image-names"], |parts| {
        parts.push(Part::file("checkpoint/x-1.img", *b"x"))
    }),
    members("layout/no-dump-log", &["layout/dump-log"], |parts| {
        drop_part(parts, "dump.log")
    }),
    said("layout/empty-dump-log", &["layout/dump-log"], |sample| {
        sample.dump_log.clear()
    }),
    members("layout/no-log", &["layout/container-log"], |parts| {
        drop_part(parts, "container.log")
    }),
    said("layout/raw-log", &["layout/log-format"], |sample| {
        sample.log = "just text\n".to_owned()
    }),
    members("layout/rootfs-diff", &["layout/rootfs-diff"], |parts| {
        part(parts, "rootfs-diff.tar").content = b"no tar".to_vec();
    }),
    // The documents.
    members("documents/config-cut", &["documents/config-dump"], |parts| {
        part(parts, "config.dump").content.truncate(40);
    }),
    said("documents/time-format", &["documents/config-dump"], |sample| {
        sample.config["checkpointedTime"] = json!("22 Nov 26 14:07 UTC");
    }),
    said("documents/no-runtime", &["documents/config-fields"], |sample| {
        remove(&mut sample.config, "runtime")
    }),
    said("documents/empty-image", &["documents/config-fields"], |sample| {
        sample.config["rootfsImageName"] = json!("")
    }),
    members("documents/spec-array", &["documents/spec-dump"], |parts| {
        part(parts, "spec.dump").content = b"[]".to_vec()
    }),
    said("documents/spec-no-args", &["documents/spec-process"], |sample| {
        sample.spec["process"]["args"] = json!([])
    }),
    said("documents/spec-version", &["documents/spec-process"], |sample| {
        sample.spec["ociVersion"] = json!("new")
    }),
    said("documents/status-dump-text", &["documents/status-dump"], |sample| {
        sample.status_dump["created_at"] = json!("2026-11-22T14:00:00Z");
    }),
    said("documents/status-version", &["documents/status"], |sample| {
        sample.status["Version"] = json!("v0")
    }),
    said("documents/two-descriptors", &["documents/descriptors"], |sample| {
        sample.descriptors = json!(["/dev/null", "pipe:[42633]"]);
    }),
    said("documents/mounts-object", &["documents/lists"], |sample| {
        sample.bind_mounts = json!({})
    }),
    said("documents/checkpointed-before-start", &["documents/times"], |sample| {
        sample.config["checkpointedTime"] = json!("2026-11-22T14:00:00.5Z");
    }),
    said("documents/restored-without-time", &["documents/restored"], |sample| {
        sample.config["restored"] = json!(true)
    }),
    said(
        "documents/restore-time-without-restore",
        &["documents/restored"],
        |sample| {
            sample.config["restoredTime"] = json!("2026-11-22T14:06:00Z");
        },
    ),
    said("documents/other-id", &["documents/same-id"], |sample| {
        sample.status_dump["id"] = json!("c0ffee")
    }),
    said("documents/other-pod", &["documents/same-name"], |sample| {
        sample.status_dump["labels"]["io.kubernetes.pod.name"] = json!("other");
    }),
    said("documents/other-start", &["documents/same-times"], |sample| {
        sample.status["StartedAt"] = json!(1_795_356_001_000_000_001_i64);
    }),
    said("documents/exited", &["documents/running"], |sample| {
        sample.status_dump["state"] = json!(2)
    }),
    said("documents/no-annotations", &["documents/engine"], |sample| {
        remove(&mut sample.spec, "annotations")
    }),
    said("documents/cri-o-without-metadata", &["documents/engine"], |sample| {
        sample.spec["annotations"]["io.container.manager"] = json!("cri-o");
    }),
    // The images, each for itself.
    members("images/magic", &["images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[4] ^= 1
    }),
    members("images/length", &["images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[8] ^= 1
    }),
    members("images/huge-length", &["images/decode"], |parts| {
        part(parts, "checkpoint/mm-1.img").content[8..12].copy_from_slice(&[0xff; 4]);
    }),
    members("images/trailing", &["images/decode"], |parts| {
        part(parts, "checkpoint/fs-1.img").content.extend([0; 4])
    }),
    members("images/swapped", &["images/decode"], |parts| {
        part(parts, "checkpoint/fs-1.img").content = part(parts, "checkpoint/ids-1.img").content.clone();
    }),
    members("images/no-entry", &["images/not-empty"], |parts| {
        part(parts, "checkpoint/ids-1.img").content.truncate(8)
    }),
    members("images/missing-field", &["images/required-fields"], |parts| {
        // cwd_id alone.
        part(parts, "checkpoint/fs-1.img")
            .content
            .splice(8.., [2, 0, 0, 0, 0x08, 2]);
    }),
    members("images/unknown-field", &["images/unknown-fields"], |parts| {
        // Field 90, which no message of CRIU has.
        let fs = &mut part(parts, "checkpoint/fs-1.img").content;
        fs.extend([0xd0, 0x05, 1]);
        fs[8] += 3;
    }),
    said("images/version", &["images/inventory"], |sample| {
        sample.inventory.img_version = 1
    }),
    said("images/no-root-ids", &["images/root-ids"], |sample| {
        sample.inventory.root_ids = None
    }),
    members("images/no-stats", &["images/stats-dump"], |parts| {
        drop_part(parts, "stats-dump")
    }),
    said("images/empty-stats", &["images/stats-dump"], |sample| {
        sample.stats = StatsEntry::default()
    }),
    said("images/stats-of-another-dump", &["images/stats-plausible"], |sample| {
        sample.stats.dump.iter_mut().for_each(|dump| dump.pages_written += 1);
    }),
    said("images/never-frozen", &["images/stats-plausible"], |sample| {
        sample.stats.dump.iter_mut().for_each(|dump| dump.frozen_time = 0);
    }),
    // Processes.
    members("process/no-tree", &["process/tree"], |parts| {
        drop_part(parts, "checkpoint/pstree.img")
    }),
    said("process/two-roots", &["process/tree"], |sample| {
        sample.pstree[1].ppid = 0
    }),
    said("process/thread-of-two", &["process/tree"], |sample| {
        sample.pstree[1].threads.push(2)
    }),
    members("process/no-core", &["process/cores"], |parts| {
        drop_part(parts, "checkpoint/core-5.img")
    }),
    members("process/no-core-of-a-thread", &["process/cores"], |parts| {
        drop_part(parts, "checkpoint/core-2.img")
    }),
    members("process/no-mm", &["process/mm"], |parts| {
        drop_part(parts, "checkpoint/mm-5.img")
    }),
    members("process/no-pagemap", &["process/pagemap"], |parts| {
        drop_part(parts, "checkpoint/pagemap-5.img")
    }),
    members("process/no-ids", &["process/ids"], |parts| {
        drop_part(parts, "checkpoint/ids-5.img")
    }),
    members("process/no-fs", &["process/fs"], |parts| {
        drop_part(parts, "checkpoint/fs-5.img")
    }),
    members("process/no-fdinfo", &["process/fdinfo"], |parts| {
        drop_part(parts, "checkpoint/fdinfo-2.img")
    }),
    said("process/stray", &["process/no-stray"], |sample| {
        let core = sample.cores[&5].clone();
        sample.cores.insert(99, core);
    }),
    said("process/unknown-machine", &["process/machine"], |sample| {
        core(sample, 1).mtype = March::Unknown.into()
    }),
    said("process/two-machines", &["process/machine"], |sample| {
        core(sample, 5).mtype = March::Riscv64.into()
    }),
    said("process/no-name", &["process/leaders"], |sample| {
        core(sample, 1).tc.iter_mut().for_each(|tc| tc.comm.clear());
    }),
    said("process/task-in-thread", &["process/leaders"], |sample| {
        core(sample, 2).tc = core(sample, 1).tc.clone()
    }),
    said("process/no-credentials", &["process/threads"], |sample| {
        core(sample, 2)
            .thread_core
            .iter_mut()
            .for_each(|thread| thread.creds = None);
    }),
    said("process/no-signal-actions", &["process/signal-actions"], |sample| {
        core(sample, 1).tc.iter_mut().for_each(|tc| tc.sigactions.clear());
    }),
    said("process/fifteen-limits", &["process/limits"], |sample| {
        let limits = core(sample, 1).tc.as_mut().and_then(|tc| tc.rlimits.as_mut());
        limits.into_iter().for_each(|limits| limits.rlimits.truncate(15));
    }),
    said("process/no-timers", &["process/timers"], |sample| {
        core(sample, 5).tc.iter_mut().for_each(|tc| tc.timers = None);
    }),
    said("process/zero-registers", &["process/registers"], |sample| {
        core(sample, 1)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0);
    }),
    said("process/runs-on-the-heap", &["process/registers"], |sample| {
        core(sample, 2)
            .thread_info
            .iter_mut()
            .for_each(|info| info.gpregs.ip = 0x60_0000);
    }),
    // Memory.
    said("memory/overlap", &["memory/mappings"], |sample| {
        mm(sample, 0).end += 0x20_0000
    }),
    said("memory/unaligned", &["memory/mappings"], |sample| {
        mm(sample, 0).end -= 1
    }),
    said("memory/heap-backwards", &["memory/layout"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_brk = mm.mm_start_brk - 1);
    }),
    said("memory/long-auxv", &["memory/auxv"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.mm_saved_auxv.resize(46, 0));
    }),
    members("memory/no-pages", &["memory/page-files"], |parts| {
        drop_part(parts, "checkpoint/pages-2.img")
    }),
    said("memory/stray-pages", &["memory/page-files"], |sample| {
        drop(sample.pages.insert(9, vec![0; 4096]))
    }),
    said("memory/page-too-few", &["memory/page-counts"], |sample| {
        page_file(sample).truncate(5 * 4096)
    }),
    said("memory/half-a-page", &["memory/page-counts"], |sample| {
        page_file(sample).truncate(6 * 4096 - 2048)
    }),
    said("memory/page-too-many", &["memory/page-counts"], |sample| {
        page_file(sample).resize(7 * 4096, 0)
    }),
    said("memory/entries-out-of-order", &["memory/page-order"], |sample| {
        page_map(sample).swap(1, 2)
    }),
    said("memory/not-present", &["memory/page-present"], |sample| {
        page_map(sample).insert(
            1,
            cri_proto::criu::message::PagemapEntry {
                flags: Some(2),
                ..run(0x40_2000, 1)
            },
        );
    }),
    said("memory/old-counts", &["memory/page-both-counts"], |sample| {
        page_map(sample).iter_mut().for_each(|entry| entry.nr_pages = None);
    }),
    said("memory/new-counts", &["memory/page-both-counts"], |sample| {
        page_map(sample).iter_mut().for_each(|entry| entry.compat_nr_pages = 0);
    }),
    said("memory/page-of-nothing", &["memory/page-mapped"], |sample| {
        page_map(sample)[0].vaddr = 0x50_0000
    }),
    said("memory/no-stack", &["memory/stacks"], |sample| {
        page_map(sample)[2].vaddr = 0x60_3000
    }),
    said("memory/no-arguments", &["memory/arguments"], |sample| {
        page_map(sample)[3].vaddr -= 0x1000;
    }),
    said("memory/no-canary", &["memory/canary"], |sample| {
        sample
            .pages
            .values_mut()
            .for_each(|pages| pages[2 * 4096 - 5..][..32].fill(0));
    }),
    // Files.
    members("files/no-table", &["files/table"], |parts| {
        drop_part(parts, "checkpoint/files.img")
    }),
    said("files/same-id", &["files/unique"], |sample| {
        let again = sample.files[2].clone();
        sample.files.push(again);
    }),
    said("files/wrong-part", &["files/parts"], |sample| {
        sample.files[1].reg = None
    }),
    said("files/unknown-file", &["files/descriptors"], |sample| {
        descriptors(sample)[0].id = 77
    }),
    said("files/wrong-kind", &["files/descriptors"], |sample| {
        descriptors(sample)[0].r#type = FdTypes::Tty.into()
    }),
    said("files/number-twice", &["files/numbers"], |sample| {
        let again = descriptors(sample)[2].clone();
        descriptors(sample).push(again);
    }),
    said("files/unknown-root", &["files/references"], |sample| {
        sample.fs.values_mut().for_each(|fs| fs.root_id = 77);
    }),
    said("files/unknown-executable", &["files/references"], |sample| {
        sample.mms.values_mut().for_each(|mm| mm.exe_file_id = 77);
    }),
    said("files/other-pipes", &["files/standard-streams"], |sample| {
        sample.descriptors = json!(["/dev/null", "pipe:[1]", "pipe:[2]"]);
    }),
    // Secrets.
    said("secrets/in-log-of-the-dump", &["secrets/environment"], |sample| {
        sample.dump_log.push_str("TOKEN=s3cret-of-the-sample\n");
    }),
    said("secrets/in-status", &["secrets/environment"], |sample| {
        sample.status["Message"] = json!("TOKEN=s3cret-of-the-sample");
    }),
];

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Where the last member's header begins: the sample's last member is two blocks long.
fn last_header(bytes: &[u8]) -> usize {
    bytes.len() - 2 * BLOCK - 2 * BLOCK - BLOCK
}

fn resum(bytes: &mut [u8], at: usize) {
    let Some(block) = bytes[at..].first_chunk_mut::<BLOCK>() else {
        return;
    };
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(sum.as_bytes());
}

/// Puts an extension header of this kind and stated size, with this content, before the first member.
fn extension(bytes: &mut Vec<u8>, flag: u8, size: u64, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::new(flag));
    header.set_size(size);
    header.set_cksum();
    let mut block = header.as_bytes().to_vec();
    if !content.is_empty() {
        block.extend(content);
        block.resize(2 * BLOCK, 0);
    }
    bytes.splice(..0, block);
}

fn special(name: &str, kind: EntryType) -> Part {
    let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
        b"/etc/shadow".to_vec()
    } else {
        vec![]
    };
    Part {
        name: name.to_owned(),
        kind,
        mode: 0o600,
        content,
    }
}

fn part<'a>(parts: &'a mut [Part], name: &str) -> &'a mut Part {
    parts
        .iter_mut()
        .find(|part| part.name == name)
        .expect("the sample has every member that a mutant changes")
}

fn drop_part(parts: &mut Vec<Part>, name: &str) {
    parts.retain(|part| part.name != name);
}

fn remove(document: &mut Value, key: &str) {
    document
        .as_object_mut()
        .expect("the sample's documents are objects")
        .remove(key);
}

fn core(sample: &mut Sample, tid: u32) -> &mut cri_proto::criu::message::CoreEntry {
    sample
        .cores
        .get_mut(&tid)
        .expect("the sample has every thread that a mutant changes")
}

fn mm(sample: &mut Sample, mapping: usize) -> &mut cri_proto::criu::message::VmaEntry {
    let mm = sample.mms.get_mut(&1).expect("the sample has a process 1");
    &mut mm.vmas[mapping]
}

fn page_file(sample: &mut Sample) -> &mut Vec<u8> {
    sample.pages.get_mut(&2).expect("the sample has two files of pages")
}

fn page_map(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::PagemapEntry> {
    let (_, map) = sample.pagemaps.get_mut(&1).expect("the sample has a process 1");
    map
}

fn descriptors(sample: &mut Sample) -> &mut Vec<cri_proto::criu::message::FdinfoEntry> {
    sample.fdinfo.get_mut(&1).expect("the sample has a table 1")
}
