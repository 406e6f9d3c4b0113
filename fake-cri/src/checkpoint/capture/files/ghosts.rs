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

use super::super::Images;
use crate::process::attributes;

/// Deleted files above this size are not carried: their content would have to pass through memory.
const LARGEST: u64 = 16 << 20;

/// Extended attributes that a security module gives every file, and gives a new one too.
const LABELS: &[&str] = &["security.selinux", "security.SMACK64", "security.apparmor"];

/// The deleted files so far.
#[derive(Default)]
pub(super) struct Ghosts {
    /// By device and inode.
    numbers: HashMap<(u64, u64), u32>,
    ghosts: Vec<Vec<u8>>,
    remaps: Vec<RemapFilePathEntry>,
}

impl Ghosts {
    /// Carries the content of a deleted file, to be read where `source` leads, for this entry of `files.img`. What the image
    /// of the file has no place for is returned.
    ///
    /// # Errors
    ///
    /// It is too large, no regular file, or cannot be read.
    pub(super) fn add(&mut self, entry: u32, source: &Path, metadata: &Metadata) -> io::Result<Vec<String>> {
        let key = (metadata.dev(), metadata.ino());
        let mut lost = Vec::new();
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                let (image, without_place) = ghost(source, metadata)?;
                lost = without_place;
                self.ghosts.push(image);
                let number = u32::try_from(self.ghosts.len()).expect("fewer files than numbers");
                self.numbers.insert(key, number);
                number
            }
        };
        self.remaps.push(RemapFilePathEntry {
            orig_id: entry,
            remap_id: number,
            remap_type: Some(RemapType::Ghost.into()),
        });
        Ok(lost)
    }

    /// Adds the images, if there are any.
    pub(super) fn images(self, images: &mut Images) {
        for (number, ghost) in (1_u64..).zip(self.ghosts) {
            images.push(Kind::GhostFile.file_name(number), ghost);
        }
        if !self.remaps.is_empty() {
            images.push(Kind::RemapFpath.file_name(None), encode(Kind::RemapFpath, &self.remaps));
        }
    }
}

/// The image of one, and what it has no place for.
fn ghost(source: &Path, metadata: &Metadata) -> io::Result<(Vec<u8>, Vec<String>)> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other(format!(
            "it has {} bytes, and at most {LARGEST} are carried",
            metadata.len()
        )));
    }
    let file = open_unnoticed(source)?;
    let mut content = Vec::new();
    (&file).take(LARGEST).read_to_end(&mut content)?;
    let mut lost: Vec<_> = attributes::extended_attributes(source)?
        .into_iter()
        .filter(|name| !LABELS.contains(&&**name))
        .map(|name| format!("the extended attribute {name}"))
        .collect();
    match attributes::inode_flags(&file) {
        0 => {}
        flags => lost.push(format!("the inode flags {flags:#x} (chattr)")),
    }
    let device = metadata.dev();
    let entry = GhostFileEntry {
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode(),
        // As the kernel numbers it inside (MKDEV of linux/kdev_t.h).
        dev: Some((major(device) << 20 | minor(device)) as u32),
        ino: Some(metadata.ino()),
        atim: Some(time(metadata.atime(), metadata.atime_nsec())),
        mtim: Some(time(metadata.mtime(), metadata.mtime_nsec())),
        ..GhostFileEntry::default()
    };
    let mut encoder = Encoder::new(Kind::GhostFile, Vec::new()).expect("a vector takes all");
    encoder.entry(&entry).expect("a vector takes all");
    encoder.payload(&content).expect("a vector takes all");
    Ok((encoder.finish(), lost))
}

/// Opens a file so that reading it does not change when it was last read, where its owner or a privileged user asks.
fn open_unnoticed(path: &Path) -> io::Result<File> {
    let unnoticed = File::options().read(true).custom_flags(libc::O_NOATIME).open(path);
    match unnoticed {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => File::open(path),
        opened => opened,
    }
}

/// A time of stat(2), in the microseconds of the image.
fn time(seconds: i64, nanos: i64) -> Timeval {
    Timeval {
        tv_sec: seconds.cast_unsigned(),
        tv_usec: nanos.cast_unsigned() / 1000,
    }
}
