//! A small valid archive, written without CRIU, as the base of the archive mutants.
//!
//! Two live processes (the first has two threads and a timer that signals one of them) and a zombie; seven open files,
//! one of them an epoll instance; memory that both processes share (its pages compressed as CRIU 4.3 does); a canary in
//! the heap; a secret in the environment. The layout is containerd's. Nothing depends on the clock or the machine, so
//! the bytes are always the same.

mod documents;
mod entries;

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use cri_proto::criu::{
    self, Kind,
    message::{
        CoreEntry, DumpStatsEntry, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MmEntry, PagemapEntry, PstreeEntry,
        StatsEntry, TaskKobjIdsEntry,
    },
};
use serde_json::{Value, json};

use self::entries::{
    STACK_ADDRESS, VDSO_ADDRESS, append_only, core, descriptors, epoll, fs, ids, mm, pagemap, pipe, process, regular,
    zombie,
};
use super::Expectations;

pub use self::entries::{BlockSizesEncoding, compressed_entry, pagemap_entry};

/// The bytes in the heap of the first process, and nowhere else.
pub const CANARY: &[u8] = b"5b0e9c1d-canary-of-the-sample";

/// The secret in the environment: in memory and in `spec.dump`.
pub const SECRET: &[u8] = b"s3cret-of-the-sample";

/// The expectations for the sample.
pub fn expected() -> Expectations {
    Expectations {
        memory: Some(CANARY.to_vec()),
        secrets: vec![SECRET.to_vec()],
        layout: None,
    }
}

/// The time of the dump, in seconds since the Unix epoch.
pub const DUMP_TIME_SECS: u64 = 1_795_356_424;

/// The id of the shared memory.
pub const SHARED_MEMORY_ID: u32 = 77;

const PAGE_BYTES: usize = 4096;

/// A member of the sample's tar.
#[derive(Clone, Debug)]
pub struct SampleMember {
    /// The name.
    pub name: String,
    /// The type flag.
    pub kind: tar::EntryType,
    /// The permission bits.
    pub mode: u32,
    /// The modification time, in seconds since the Unix epoch.
    pub mtime: u64,
    /// The content. For a link: its target.
    pub content: Vec<u8>,
}

impl SampleMember {
    /// A regular file of mode 0600.
    pub fn file(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            kind: tar::EntryType::Regular,
            mode: 0o600,
            mtime: DUMP_TIME_SECS,
            content: content.into(),
        }
    }
}

/// The content of the sample before it is encoded.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `inventory.img`.
    pub inventory: InventoryEntry,
    /// `pstree.img`.
    pub pstree: Vec<PstreeEntry>,
    /// `core-TID.img`.
    pub cores: BTreeMap<u32, CoreEntry>,
    /// `mm-PID.img`.
    pub mms: BTreeMap<u32, MmEntry>,
    /// `ids-PID.img`.
    pub ids: BTreeMap<u32, TaskKobjIdsEntry>,
    /// `fs-PID.img`.
    pub fs: BTreeMap<u32, FsEntry>,
    /// `fdinfo-ID.img`.
    pub fdinfo: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// `files.img`.
    pub files: Vec<FileEntry>,
    /// `pagemap-PID.img`, with the id of its pages file.
    pub pagemaps: BTreeMap<u32, (u32, Vec<PagemapEntry>)>,
    /// `pagemap-shmem-ID.img`, with the id of its pages file.
    pub shared_pagemaps: BTreeMap<u32, (u32, Vec<PagemapEntry>)>,
    /// `pages-ID.img`.
    pub pages: BTreeMap<u32, Vec<u8>>,
    /// `stats-dump`.
    pub stats: StatsEntry,
    /// `config.dump`.
    pub config: Value,
    /// `spec.dump`.
    pub spec: Value,
    /// `status.dump`.
    pub status_dump: Value,
    /// `status`.
    pub status: Value,
    /// `checkpoint/descriptors.json`.
    pub descriptors: Value,
    /// `bind.mounts`.
    pub bind_mounts: Value,
    /// `deleted.files`.
    pub deleted_files: Value,
    /// `container.log`.
    pub log: String,
    /// `dump.log`.
    pub dump_log: String,
}

impl Default for Sample {
    fn default() -> Self {
        let (shared, stored) = compressed_entry(&[0x5a; 2 * PAGE_BYTES], 0, 1, BlockSizesEncoding::Message);
        let mut sample = Self {
            inventory: InventoryEntry {
                img_version: criu::IMAGES_V1_1,
                fdinfo_per_id: Some(true),
                root_ids: Some(ids(1)),
                ..InventoryEntry::default()
            },
            pstree: vec![
                process(1, 0, &[1, 2]),
                process(5, 1, &[5]),
                process(7, 1, &[2_077_958_032]),
            ],
            cores: BTreeMap::from([
                (1, core(1, Some("app"), STACK_ADDRESS + 0x1f000)),
                (2, core(2, None, 0x70_f800)),
                (5, core(5, Some("worker"), STACK_ADDRESS + 0x1f000)),
                (7, zombie()),
            ]),
            mms: BTreeMap::from([(1, mm()), (5, mm())]),
            ids: BTreeMap::from([(1, ids(1)), (5, ids(2))]),
            fs: BTreeMap::from([(1, fs()), (5, fs())]),
            fdinfo: BTreeMap::from([(1, descriptors()), (2, descriptors())]),
            files: vec![
                regular(1, "/app"),
                regular(2, "/"),
                regular(3, "/dev/null"),
                pipe(4, 42633),
                pipe(5, 42634),
                append_only(6, "/var/log/app.log"),
                epoll(7, &[(1, 42633)]),
            ],
            pagemaps: BTreeMap::new(),
            shared_pagemaps: BTreeMap::from([(SHARED_MEMORY_ID, (3, vec![shared]))]),
            pages: BTreeMap::from([(3, stored)]),
            stats: StatsEntry::default(),
            config: documents::config(),
            spec: documents::spec(),
            status_dump: documents::status_dump(),
            status: documents::status(),
            descriptors: json!(["/dev/null", "pipe:[42633]", "pipe:[42634]"]),
            bind_mounts: json!([{"source": "/etc/hosts", "destination": "/etc/hosts", "file_type": "file", "permissions": 420}]),
            deleted_files: json!(["/var/cache/app"]),
            log: "2026-11-22T14:00:01.5Z stdout F ready\n2026-11-22T14:00:02Z stderr P half a li\n".to_owned(),
            dump_log: "(00.000000) dumping\n(00.010000) done\n".to_owned(),
        };
        for (pid, pages_id) in [(1, 1), (5, 2)] {
            let map = vec![
                pagemap_entry(0x40_1000, 1),
                pagemap_entry(0x60_0000, 2),
                pagemap_entry(0x70_f000, 1),
                pagemap_entry(STACK_ADDRESS + 0x1f000, 2),
                pagemap_entry(VDSO_ADDRESS, 1),
            ];
            sample.pagemaps.insert(pid, (pages_id, map));
            let mut pages: Vec<_> = (0..7 * PAGE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
            if pid == 1 {
                // The canary crosses a page boundary, as data in memory may.
                pages[2 * PAGE_BYTES - 5..][..CANARY.len()].copy_from_slice(CANARY);
            }
            pages[5 * PAGE_BYTES + 64..][..SECRET.len()].copy_from_slice(SECRET);
            sample.pages.insert(pages_id, pages);
        }
        let dump = DumpStatsEntry {
            freezing_time: 90,
            frozen_time: 800,
            memdump_time: 500,
            memwrite_time: 400,
            pages_scanned: 40,
            pages_written: 14,
            shpages_written: Some(2),
            ..DumpStatsEntry::default()
        };
        sample.stats.dump = Some(dump);
        sample
    }
}

impl Sample {
    /// The members, in containerd's order.
    pub fn members(&self) -> Vec<SampleMember> {
        let directory = SampleMember {
            name: "checkpoint/".to_owned(),
            kind: tar::EntryType::Directory,
            mode: 0o700,
            mtime: DUMP_TIME_SECS,
            content: vec![],
        };
        let mut members = vec![directory];
        let mut image = |kind: Kind, id: Option<u32>, content: Vec<u8>| {
            members.push(SampleMember::file(
                format!("checkpoint/{}", kind.file_name(id.map(u64::from))),
                content,
            ));
        };
        for (id, core) in &self.cores {
            image(Kind::Core, Some(*id), criu::encode(Kind::Core, [core]));
        }
        for (id, descriptors) in &self.fdinfo {
            image(Kind::Fdinfo, Some(*id), criu::encode(Kind::Fdinfo, descriptors));
        }
        image(Kind::Files, None, criu::encode(Kind::Files, &self.files));
        for (id, fs) in &self.fs {
            image(Kind::Fs, Some(*id), criu::encode(Kind::Fs, [fs]));
        }
        for (id, ids) in &self.ids {
            image(Kind::Ids, Some(*id), criu::encode(Kind::Ids, [ids]));
        }
        image(Kind::Inventory, None, criu::encode(Kind::Inventory, [&self.inventory]));
        for (id, mm) in &self.mms {
            image(Kind::Mm, Some(*id), criu::encode(Kind::Mm, [mm]));
        }
        for (id, (pages_id, map)) in &self.pagemaps {
            image(Kind::Pagemap, Some(*id), pagemap(*pages_id, map));
        }
        image(Kind::Pstree, None, criu::encode(Kind::Pstree, &self.pstree));
        for (id, (pages_id, map)) in &self.shared_pagemaps {
            members.push(SampleMember::file(
                format!("checkpoint/{}", criu::shmem_pagemap_file_name((*id).into())),
                pagemap(*pages_id, map),
            ));
        }
        for (id, pages) in &self.pages {
            members.push(SampleMember::file(
                format!("checkpoint/{}", criu::pages_file_name(*id)),
                pages.clone(),
            ));
        }
        let documents = [
            ("bind.mounts", self.bind_mounts.to_string()),
            ("checkpoint/descriptors.json", self.descriptors.to_string()),
            ("deleted.files", self.deleted_files.to_string()),
            ("config.dump", self.config.to_string()),
            ("container.log", self.log.clone()),
            ("dump.log", self.dump_log.clone()),
            ("spec.dump", self.spec.to_string()),
            ("status", self.status.to_string()),
            ("status.dump", self.status_dump.to_string()),
        ];
        members.extend(documents.map(|(name, content)| SampleMember::file(name, content)));
        members.push(SampleMember::file(
            "stats-dump",
            criu::encode(Kind::Stats, [&self.stats]),
        ));
        members.push(SampleMember::file("rootfs-diff.tar", [0; 1024]));
        members
    }
}

/// Writes an archive with mode 0600, as a runtime must.
///
/// # Errors
/// An I/O error.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// Encodes the members as a tar.
///
/// # Errors
/// A name is too long for a tar header.
pub fn tar_of(members: &[SampleMember]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(member.kind);
        header.set_mode(member.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(member.mtime);
        let is_link = matches!(member.kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let content = if is_link { &[][..] } else { &member.content };
        header.set_size(content.len() as u64);
        if is_link {
            header.as_old_mut().linkname[..member.content.len()].copy_from_slice(&member.content);
        }
        // The `tar` crate refuses invalid names, which the cases must find. So the name is written to the header
        // directly.
        let name = member.name.as_bytes();
        let field = &mut header.as_old_mut().name;
        let capacity = field.len();
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is too long", member.name));
        field
            .get_mut(..name.len())
            .filter(|_| name.len() < capacity)
            .ok_or_else(too_long)?
            .copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, content)?;
    }
    builder.into_inner()
}
