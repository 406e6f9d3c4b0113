//! `memfd.img`: the files of memfd_create(2), and the plan of their pages.
//!
//! Their pages are copied like process memory, from a mapping of the file in the dumper. So only a chunk of them is in
//! memory at a time, and a file that no process maps is dumped too.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io,
    num::NonZero,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use cri_proto::criu::{
    Kind, encode,
    message::{MemfdFileEntry, MemfdInodeEntry},
    pages_file_name, shmem_pagemap_file_name,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};

use super::super::{ImageSetBuilder, fown::no_fown, pagemap::pagemap_image, shmem::data_ranges};
use crate::{
    checkpoint::pages::{PageRun, PagesFile},
    process::{Pid, file_mapping::FileMapping, pagemap::PAGE_SIZE, proc_files::FdInfo},
};

/// The kernel's prefix of a memfd's name.
const MEMFD_PATH_PREFIX: &str = "/memfd:";
/// `F_SEAL_SEAL`: the seal of a file that was created without `MFD_ALLOW_SEALING`.
const F_SEAL_SEAL: u32 = 1;

#[derive(Default)]
pub(super) struct Memfds {
    /// By device and inode.
    inode_ids: HashMap<(u64, u64), u32>,
    inodes: Vec<(MemfdInodeEntry, File)>,
}

/// The name of a memfd, by its path without ` (deleted)`.
pub(super) fn memfd_name(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(MEMFD_PATH_PREFIX)
}

impl Memfds {
    /// Adds an open memfd, which is readable at `source`.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or has huge pages, whose image differs.
    pub(super) fn add(
        &mut self,
        id: u32,
        name: &str,
        source: &Path,
        metadata: &Metadata,
        info: &FdInfo,
    ) -> io::Result<MemfdFileEntry> {
        let key = (metadata.dev(), metadata.ino());
        let inode_id = match self.inode_ids.get(&key) {
            Some(existing) => *existing,
            None => {
                if metadata.blksize() != PAGE_SIZE {
                    return Err(io::Error::other("it has huge pages"));
                }
                let file = File::open(source)?;
                let new_id = u32::try_from(self.inodes.len() + 1).expect("fewer than 2^32 files");
                let seals = match fcntl(&file, FcntlArg::F_GET_SEALS) {
                    Ok(seals) => seals.cast_unsigned(),
                    Err(Errno::EINVAL) => F_SEAL_SEAL,
                    Err(errno) => return Err(errno.into()),
                };
                let inode = MemfdInodeEntry {
                    name: name.to_owned(),
                    uid: metadata.uid(),
                    gid: metadata.gid(),
                    size: metadata.len(),
                    shmid: metadata.ino() as u32,
                    seals,
                    inode_id: new_id.into(),
                    hugetlb_flag: None,
                    mode: Some(metadata.mode()),
                };
                self.inodes.push((inode, file));
                self.inode_ids.insert(key, new_id);
                new_id
            }
        };
        Ok(MemfdFileEntry {
            id,
            flags: info.flags & !(libc::O_CLOEXEC as u32),
            pos: info.pos,
            fown: no_fown(),
            inode_id,
        })
    }

    /// Adds the images, and plans the pages.
    ///
    /// # Errors
    ///
    /// A file cannot be mapped, or its data ranges cannot be read.
    pub(super) fn push_images(self, images: &mut ImageSetBuilder) -> io::Result<()> {
        if self.inodes.is_empty() {
            return Ok(());
        }
        let entries = self.inodes.iter().map(|(inode, _)| inode);
        images.push(Kind::MemfdInode.file_name(None), encode(Kind::MemfdInode, entries));
        let own_pid = Pid::current();
        for (inode, file) in &self.inodes {
            let ranges = data_ranges(file)?;
            let end = ranges.last().map_or(0, |range| range.end);
            let mapped_file = NonZero::new(end as usize)
                .map(|length| FileMapping::new(file, length))
                .transpose()?;
            let runs = ranges
                .iter()
                .zip(mapped_file.iter().cycle())
                .map(|(range, mapped_file)| PageRun {
                    pid: own_pid,
                    proc_tid: own_pid.main_thread(),
                    range: mapped_file.address_range(range),
                    not_forked: true,
                });
            let runs = runs.collect();
            let pages_id = images.next_pages_id();
            images.push(
                shmem_pagemap_file_name(inode.shmid.into()),
                pagemap_image(pages_id, ranges.into_iter()),
            );
            images.pages.push(PagesFile {
                name: pages_file_name(pages_id),
                shared: true,
                runs,
                mapped_file,
            });
        }
        Ok(())
    }
}
