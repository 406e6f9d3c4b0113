//! `ghost-file-N.img` and `remap-fpath.img`: files that are open or mapped but have no name.
//!
//! The image of a ghost file has its owner, mode, times in microseconds, and content; the remap names the entries of
//! `files.img` for which it is used. CRIU creates the file next to its old path, opens it and removes it.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use cri_proto::criu::{
    Encoder, Kind, encode,
    message::{GhostFileEntry, RemapFilePathEntry, RemapType, Timeval},
};
use nix::sys::stat::{major, minor};

use super::super::ImageSetBuilder;
use crate::process::file_attributes;

/// Larger deleted files are unsupported, because their content passes through memory.
const MAX_GHOST_BYTES: u64 = 16 << 20;

/// Extended attributes that a security module sets on every new file.
const LSM_LABEL_XATTRS: &[&str] = &["security.selinux", "security.SMACK64", "security.apparmor"];

#[derive(Default)]
pub(super) struct GhostDump {
    /// By device and inode.
    ghost_ids: HashMap<(u64, u64), u32>,
    ghost_images: Vec<Vec<u8>>,
    remaps: Vec<RemapFilePathEntry>,
}

impl GhostDump {
    /// Dumps a deleted file, which is readable at `source`, for this entry of `files.img`. Returns state of the file
    /// that the image cannot hold.
    ///
    /// # Errors
    ///
    /// The file is too large, not a regular file, or cannot be read.
    pub(super) fn add(&mut self, file_id: u32, source: &Path, metadata: &Metadata) -> io::Result<Vec<String>> {
        let key = (metadata.dev(), metadata.ino());
        let mut unsupported = Vec::new();
        let ghost_id = match self.ghost_ids.get(&key) {
            Some(id) => *id,
            None => {
                let (image, unsupported_state) = ghost_image(source, metadata)?;
                unsupported = unsupported_state;
                self.ghost_images.push(image);
                let id = u32::try_from(self.ghost_images.len()).expect("fewer than 2^32 files");
                self.ghost_ids.insert(key, id);
                id
            }
        };
        self.remaps.push(RemapFilePathEntry {
            orig_id: file_id,
            remap_id: ghost_id,
            remap_type: Some(RemapType::Ghost.into()),
        });
        Ok(unsupported)
    }

    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        for (id, image) in (1_u64..).zip(self.ghost_images) {
            images.push(Kind::GhostFile.file_name(id), image);
        }
        if !self.remaps.is_empty() {
            images.push(Kind::RemapFpath.file_name(None), encode(Kind::RemapFpath, &self.remaps));
        }
    }
}

/// The image of a ghost file, and state that it cannot hold.
fn ghost_image(source: &Path, metadata: &Metadata) -> io::Result<(Vec<u8>, Vec<String>)> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_GHOST_BYTES {
        return Err(io::Error::other(format!(
            "it has {} bytes, more than the limit of {MAX_GHOST_BYTES}",
            metadata.len()
        )));
    }
    let file = open_noatime(source)?;
    let mut content = Vec::new();
    (&file).take(MAX_GHOST_BYTES).read_to_end(&mut content)?;
    let mut unsupported: Vec<_> = file_attributes::xattr_names(source)?
        .into_iter()
        .filter(|name| !LSM_LABEL_XATTRS.contains(&&**name))
        .map(|name| format!("the extended attribute {name}"))
        .collect();
    match file_attributes::inode_flags(&file) {
        0 => {}
        flags => unsupported.push(format!("the inode flags {flags:#x} (chattr)")),
    }
    let device = metadata.dev();
    let entry = GhostFileEntry {
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode(),
        // The kernel-internal encoding (MKDEV of linux/kdev_t.h).
        dev: Some((major(device) << 20 | minor(device)) as u32),
        ino: Some(metadata.ino()),
        atim: Some(timeval(metadata.atime(), metadata.atime_nsec())),
        mtim: Some(timeval(metadata.mtime(), metadata.mtime_nsec())),
        ..GhostFileEntry::default()
    };
    let mut encoder = Encoder::new(Kind::GhostFile);
    encoder.entry(&entry);
    encoder.payload(&content);
    Ok((encoder.finish(), unsupported))
}

/// Opens a file without a change of its access time, if the caller owns it or is privileged.
fn open_noatime(path: &Path) -> io::Result<File> {
    let result = File::options().read(true).custom_flags(libc::O_NOATIME).open(path);
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => File::open(path),
        opened => opened,
    }
}

fn timeval(seconds: i64, nanos: i64) -> Timeval {
    Timeval {
        tv_sec: seconds.cast_unsigned(),
        tv_usec: nanos.cast_unsigned() / 1000,
    }
}
