//! Checkpoint images: a checkpoint archive as the one layer of an OCI image, as `checkpointctl build` and CRI-O make it.
//!
//! ```text
//!   oci-layout, index.json --> manifest, with an annotation that says it is a checkpoint --> its layer --> a file without a name
//! ```
//!
//! The image is a folder with the layout in it, or one tar of that. Only `index.json` and blobs by their digest are opened, a link
//! among them is not followed, and what does not have its digest is refused. The layer is unpacked as one file, never its members.
//!
//! Ways to fail: several images or layers, a compression other than gzip, no checkpoint, sizes beyond any that is made here.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    RestoreError,
    images::{MOST_MEMBERS, open_regular},
};

/// The name of the index, in the folder or the tar.
pub(super) const INDEX: &str = "index.json";
/// The largest document.
const LARGEST_DOCUMENT: u64 = 4 << 20;
/// The largest layer, unpacked, where the disk has room for it.
const LARGEST_LAYER: u64 = 64 << 30;
/// The annotations that make an image a checkpoint: those of `checkpointctl build` and CRI-O of today, and of older ones.
const MARKS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];
/// The first bytes of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where the parts of an image lie.
#[derive(Debug)]
pub(super) enum Layout {
    /// In a folder.
    Folder(PathBuf),
    /// In a tar, each at an offset and of a length.
    Archive {
        /// The tar.
        path: PathBuf,
        /// The tar, open.
        file: File,
        /// Its plain members.
        members: BTreeMap<String, (u64, u64)>,
    },
}

/// What a document says of another blob.
#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
}

/// `index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The manifest of an image.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Layout {
    /// The checkpoint archive in it, in a file without a name in this folder.
    ///
    /// # Errors
    ///
    /// As the module's documentation says.
    pub(super) fn checkpoint(&self, folder: &Path) -> Result<File, RestoreError> {
        let index: Index = self.document(INDEX)?;
        let [manifest] = &index.manifests[..] else {
            return Err(self.wrong(format!("it holds {} images, not one", index.manifests.len())));
        };
        let manifest: Manifest = self.document(&self.blob(&manifest.digest)?)?;
        if !MARKS.iter().any(|mark| manifest.annotations.contains_key(*mark)) {
            return Err(self.wrong(format!(
                "it is no checkpoint image: its manifest has no annotation {}",
                MARKS[0]
            )));
        }
        let [layer] = &manifest.layers[..] else {
            return Err(self.wrong(format!("it has {} layers, not one", manifest.layers.len())));
        };
        self.unpacked(&layer.digest, folder)
    }

    fn wrong(&self, reason: String) -> RestoreError {
        let path = match self {
            Self::Folder(path) | Self::Archive { path, .. } => path.clone(),
        };
        RestoreError::Archive { path, reason }
    }

    /// The name of a blob.
    fn blob(&self, digest: &str) -> Result<String, RestoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            hex.len() == 64 && hex.bytes().all(is_digit)
        });
        match hex {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.wrong(format!("{digest:?} is no digest"))),
        }
    }

    /// Opens a part by its name.
    fn open(&self, name: &str) -> Result<Box<dyn Read>, RestoreError> {
        let failed = |error: io::Error| self.wrong(format!("{name}: {error}"));
        match self {
            Self::Folder(path) => {
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(path.join(name))
                    .map_err(failed)?;
                if !file.metadata().map_err(failed)?.is_file() {
                    return Err(self.wrong(format!("{name} is no regular file")));
                }
                Ok(Box::new(file))
            }
            Self::Archive { file, members, .. } => {
                let (offset, length) = members
                    .get(name)
                    .ok_or_else(|| self.wrong(format!("{name} is missing")))?;
                let mut file = file.try_clone().map_err(failed)?;
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }

    /// A document; one that is a blob must have its digest.
    fn document<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, RestoreError> {
        let mut text = Vec::new();
        let read = self.open(name)?.take(LARGEST_DOCUMENT + 1).read_to_end(&mut text);
        let length = read.map_err(|error| self.wrong(format!("{name}: {error}")))?;
        if length as u64 > LARGEST_DOCUMENT {
            return Err(self.wrong(format!("{name} is too large")));
        }
        if name != INDEX {
            self.check(name, Sha256::digest(&text).as_ref())?;
        }
        serde_json::from_slice(&text).map_err(|error| self.wrong(format!("{name}: {error}")))
    }

    /// Whether a blob has the digest that is its name.
    fn check(&self, name: &str, digest: &[u8]) -> Result<(), RestoreError> {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match name.ends_with(&hex) {
            true => Ok(()),
            false => Err(self.wrong(format!("{name} has another digest than its name"))),
        }
    }

    /// A layer as one tar.
    fn unpacked(&self, digest: &str, folder: &Path) -> Result<File, RestoreError> {
        let name = self.blob(digest)?;
        let failed = |error: io::Error| self.wrong(format!("{name}: {error}"));
        let mut unpacked = tempfile::tempfile_in(folder).map_err(failed)?;
        // A small layer may unpack to any size, and a disk that is full fails others.
        let disk = nix::sys::statvfs::fstatvfs(&unpacked).map_err(|errno| failed(errno.into()))?;
        let most = largest_layer(disk.blocks_available().saturating_mul(disk.fragment_size()));
        let mut hashed = Hashed {
            input: BufReader::with_capacity(1 << 16, self.open(&name)?),
            hash: Sha256::new(),
        };
        let mut first = [0; 2];
        hashed.read_exact(&mut first).map_err(failed)?;
        let mut whole = (&first[..]).chain(&mut hashed);
        let written = if first == GZIP {
            let mut plain = MultiGzDecoder::new(&mut whole).take(most + 1);
            io::copy(&mut plain, &mut unpacked)
        } else {
            io::copy(&mut (&mut whole).take(most + 1), &mut unpacked)
        };
        if written.map_err(failed)? > most {
            return Err(self.wrong(format!(
                "{name} unpacks to more than {most} bytes: more than nine tenths of what is free in {}, or than any checkpoint",
                folder.display()
            )));
        }
        io::copy(&mut whole, &mut io::sink()).map_err(failed)?;
        self.check(&name, hashed.hash.finalize().as_ref())?;
        unpacked.flush().map_err(failed)?;
        Ok(unpacked)
    }
}

/// How large a layer may be, unpacked, where so many bytes are free: a tenth of them is left to others.
fn largest_layer(free: u64) -> u64 {
    LARGEST_LAYER.min(free - free / 10)
}

/// What is read, and its digest.
struct Hashed<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The image at this path, if it is one.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn find(path: &Path) -> io::Result<Option<Layout>> {
    if path.is_dir() {
        return Ok(Some(Layout::Folder(path.to_owned())));
    }
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let mut members = BTreeMap::new();
    let mut tar = tar::Archive::new(file.try_clone()?);
    for (index, entry) in tar.entries_with_seek()?.raw(true).enumerate() {
        // What is no tar, or has too many members, is refused by whoever reads it as a checkpoint archive.
        let Ok(entry) = entry else { return Ok(None) };
        if index > MOST_MEMBERS {
            return Ok(None);
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let whole = offset.checked_add(size).is_some_and(|end| end <= length);
        if !entry.header().entry_type().is_file() || !whole {
            continue;
        }
        let name = entry.path_bytes();
        let name = String::from_utf8_lossy(&name);
        let name = name.strip_prefix("./").unwrap_or(&name);
        if name == INDEX || name.starts_with("blobs/sha256/") {
            members.insert(name.to_owned(), (offset, size));
        }
    }
    let path = path.to_owned();
    Ok(members
        .contains_key(INDEX)
        .then_some(Layout::Archive { path, file, members }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_leaves_room_on_the_disk() {
        assert_eq!(largest_layer(0), 0);
        assert_eq!(largest_layer(1000), 900);
        assert_eq!(largest_layer(u64::MAX), LARGEST_LAYER);
    }
}
