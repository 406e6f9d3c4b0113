//! `ghost-file-N.img` and `remap-fpath.img`: files that are open or mapped and have no name any more.
//!
//! The image of a ghost is its owner, mode and times to the microsecond, and its content as it is; the remap says which entries of `files.img` it stands
//! for. CRIU makes the file anew beside where it was, opens it and removes it again.

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

/// Deleted files above this size are unsupported: their content would have to pass through memory.
const MAX_GHOST_BYTES: u64 = 16 << 20;

/// Extended attributes that a security module gives every file, and gives a new one too.
const LSM_LABEL_XATTRS: &[&str] = &["security.selinux", "security.SMACK64", "security.apparmor"];

/// The deleted files so far.
#[derive(Default)]
pub(super) struct GhostDump {
    /// By device and inode.
    ghost_ids: HashMap<(u64, u64), u32>,
    ghost_images: Vec<Vec<u8>>,
    remaps: Vec<RemapFilePathEntry>,
}

impl GhostDump {
    /// Carries the content of a deleted file, to be read where `source` leads, for this entry of `files.img`. What the image
    /// of the file has no place for is returned.
    ///
    /// # Errors
    ///
    /// It is too large, no regular file, or cannot be read.
    pub(super) fn add(&mut self, file_id: u32, source: &Path, metadata: &Metadata) -> io::Result<Vec<String>> {
        let key = (metadata.dev(), metadata.ino());
        let mut unsupported = Vec::new();
        let ghost_id = match self.ghost_ids.get(&key) {
            Some(id) => *id,
            None => {
                let (image, unsupported_state) = ghost_image(source, metadata)?;
                unsupported = unsupported_state;
                self.ghost_images.push(image);
                let id = u32::try_from(self.ghost_images.len()).expect("fewer files than numbers");
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

    /// Adds the images, if there are any.
    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        for (id, image) in (1_u64..).zip(self.ghost_images) {
            images.push(Kind::GhostFile.file_name(id), image);
        }
        if !self.remaps.is_empty() {
            images.push(Kind::RemapFpath.file_name(None), encode(Kind::RemapFpath, &self.remaps));
        }
    }
}

/// The image of one, and what it has no place for.
fn ghost_image(source: &Path, metadata: &Metadata) -> io::Result<(Vec<u8>, Vec<String>)> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > MAX_GHOST_BYTES {
        return Err(io::Error::other(format!(
            "it has {} bytes, and at most {MAX_GHOST_BYTES} are carried",
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
        // As the kernel numbers it inside (MKDEV of linux/kdev_t.h).
        dev: Some((major(device) << 20 | minor(device)) as u32),
        ino: Some(metadata.ino()),
        atim: Some(timeval(metadata.atime(), metadata.atime_nsec())),
        mtim: Some(timeval(metadata.mtime(), metadata.mtime_nsec())),
        ..GhostFileEntry::default()
    };
    let mut encoder = Encoder::new(Kind::GhostFile, Vec::new()).expect("a vector takes all");
    encoder.entry(&entry).expect("a vector takes all");
    encoder.payload(&content).expect("a vector takes all");
    Ok((encoder.finish(), unsupported))
}

/// Opens a file so that reading it does not change when it was last read, where its owner or a privileged user asks.
fn open_noatime(path: &Path) -> io::Result<File> {
    let result = File::options().read(true).custom_flags(libc::O_NOATIME).open(path);
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => File::open(path),
        opened => opened,
    }
}

/// A time of stat(2), in the microseconds of the image.
fn timeval(seconds: i64, nanos: i64) -> Timeval {
    Timeval {
        tv_sec: seconds.cast_unsigned(),
        tv_usec: nanos.cast_unsigned() / 1000,
    }
}
