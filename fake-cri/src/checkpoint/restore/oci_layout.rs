//! Checkpoint images: a checkpoint archive as the one layer of an OCI image, as `checkpointctl build` and CRI-O make it.
//!
//! ```text
//!   oci-layout, index.json --> manifest, with an annotation that says it is a checkpoint --> its layer --> a file without a name
//! ```
//!
//! The image is a folder with the layout in it, or one tar of that. Only `index.json` and blobs by their digest are opened, a link
//! among them is not followed, and what does not have its digest is refused. The layer is unpacked as one file, never its members.
//! Unpacking ends when the caller gives up, and what was unpacked is gone then: the file has no name.
//!
//! Ways to fail: several images or layers, a compression other than gzip, encryption, no checkpoint, sizes beyond any that is made
//! here. No error quotes a document: a folder's `index.json` may be any file of that name.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{RestoreError, archive_file, cancel::CancelFlag, images::MAX_MEMBERS, tar_reader::TarReader};

/// The name of the index, in the folder or the tar.
pub(super) const INDEX_FILE: &str = "index.json";
/// The largest document.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The largest layer, unpacked, where the disk has room for it.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// The annotations that make an image a checkpoint: those of `checkpointctl build` and CRI-O of today, and of older ones.
const CHECKPOINT_ANNOTATIONS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];
/// The first bytes of gzip.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// As many of a layer's first bytes as tell what it is.
const HEAD_BYTES: u64 = 64;
/// What is unpacked between two looks at the cancel.
const UNPACK_CHUNK_BYTES: usize = 1 << 20;
/// How the media type of an encrypted layer ends (ocicrypt).
const ENCRYPTED_SUFFIX: &str = "+encrypted";

/// Where the parts of an image lie.
#[derive(Debug)]
pub(super) enum OciLayout {
    /// In a scratch_dir.
    Directory(PathBuf),
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

/// How errors name the parts of an image.
const MANIFEST_LABEL: &str = "its manifest";
const LAYER_LABEL: &str = "its layer";

/// What a document says of another blob.
#[derive(Debug, Deserialize)]
struct OciDescriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
}

/// `index.json`.
#[derive(Debug, Deserialize)]
struct OciIndex {
    manifests: Vec<OciDescriptor>,
}

/// The manifest of an image.
#[derive(Debug, Deserialize)]
struct OciManifest {
    #[serde(default)]
    layers: Vec<OciDescriptor>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl OciLayout {
    /// The checkpoint archive in it, in a file without a name in this scratch_dir.
    ///
    /// # Errors
    ///
    /// As the module's documentation says.
    pub(super) fn unpack_checkpoint(&self, scratch_dir: &Path, cancel: &CancelFlag) -> Result<File, RestoreError> {
        let index: OciIndex = self.document("its index.json", INDEX_FILE)?;
        let [manifest] = &index.manifests[..] else {
            return Err(self.archive_error(format!("it holds {} images, not one", index.manifests.len())));
        };
        let manifest: OciManifest = self.document(MANIFEST_LABEL, &self.blob(MANIFEST_LABEL, &manifest.digest)?)?;
        if !CHECKPOINT_ANNOTATIONS
            .iter()
            .any(|annotation| manifest.annotations.contains_key(*annotation))
        {
            return Err(self.archive_error(format!(
                "it is no checkpoint image: its manifest has no annotation {}",
                CHECKPOINT_ANNOTATIONS[0]
            )));
        }
        let [layer] = &manifest.layers[..] else {
            return Err(self.archive_error(format!("it has {} layers, not one", manifest.layers.len())));
        };
        if layer.media_type.ends_with(ENCRYPTED_SUFFIX) {
            return Err(self.archive_error(format!("{LAYER_LABEL} is encrypted; decrypt the image first")));
        }
        self.unpack_layer(&self.blob(LAYER_LABEL, &layer.digest)?, scratch_dir, cancel)
    }

    fn archive_error(&self, reason: String) -> RestoreError {
        let path = match self {
            Self::Directory(path) | Self::Archive { path, .. } => path.clone(),
        };
        RestoreError::Archive { path, reason }
    }

    /// The name of a blob, which errors call `label`.
    fn blob(&self, label: &str, digest: &str) -> Result<String, RestoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            hex.len() == 64 && hex.bytes().all(is_digit)
        });
        match hex {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.archive_error(format!(
                "what names {label} is no digest (sha256: and 64 hexadecimal digits)"
            ))),
        }
    }

    /// Opens a part by its name.
    fn open(&self, label: &str, name: &str) -> Result<Box<dyn Read>, RestoreError> {
        let io_error = |error: io::Error| self.archive_error(format!("{label}: {error}"));
        match self {
            Self::Directory(path) => Ok(Box::new(
                archive_file::open_nofollow(&path.join(name)).map_err(io_error)?,
            )),
            Self::Archive { file, members, .. } => {
                let (offset, length) = members
                    .get(name)
                    .ok_or_else(|| self.archive_error(format!("{label} is missing")))?;
                let mut file = file.try_clone().map_err(io_error)?;
                file.seek(SeekFrom::Start(*offset)).map_err(io_error)?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }

    /// A document; one that is a blob must have its digest.
    fn document<T: for<'a> Deserialize<'a>>(&self, label: &str, name: &str) -> Result<T, RestoreError> {
        let mut text = Vec::new();
        let read = self
            .open(label, name)?
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut text);
        let length = read.map_err(|error| self.archive_error(format!("{label}: {error}")))?;
        if length as u64 > MAX_DOCUMENT_BYTES {
            return Err(self.archive_error(format!("{label} is too large")));
        }
        if name != INDEX_FILE {
            self.check_digest(label, name, Sha256::digest(&text).as_ref())?;
        }
        // What the parser says quotes the text.
        serde_json::from_slice(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let problem = match error.classify() {
                serde_json::error::Category::Data => "has other fields than it should",
                _ => "is no JSON",
            };
            self.archive_error(format!("{label} {problem} (line {line}, column {column})"))
        })
    }

    /// Whether a blob has the digest that is its name.
    fn check_digest(&self, label: &str, name: &str, digest: &[u8]) -> Result<(), RestoreError> {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match name.ends_with(&hex) {
            true => Ok(()),
            false => Err(self.archive_error(format!("{label} has another digest than its name"))),
        }
    }

    /// A layer as one tar.
    fn unpack_layer(&self, name: &str, scratch_dir: &Path, cancel: &CancelFlag) -> Result<File, RestoreError> {
        let io_error = |error: io::Error| self.archive_error(format!("{LAYER_LABEL}: {error}"));
        let mut unpacked = tempfile::tempfile_in(scratch_dir).map_err(io_error)?;
        // A small layer may unpack to any size, and a disk that is full fails others.
        let disk = nix::sys::statvfs::fstatvfs(&unpacked).map_err(|errno| io_error(errno.into()))?;
        let max_bytes = max_layer_bytes(disk.blocks_available().saturating_mul(disk.fragment_size()));
        let mut hashing = HashingReader {
            input: BufReader::with_capacity(1 << 16, self.open(LAYER_LABEL, name)?),
            hash: Sha256::new(),
        };
        let mut head = Vec::new();
        (&mut hashing)
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(io_error)?;
        let is_gzip = head.starts_with(&GZIP_MAGIC);
        let format = archive_file::format_of(&head).filter(|_| !is_gzip);
        let mut layer_bytes = head.as_slice().chain(&mut hashing);
        if let Some(format) = format {
            return Err(self.archive_error(format!(
                "{LAYER_LABEL} is {format}; of what is not a plain tar only gzip is read"
            )));
        }
        let written = if is_gzip {
            let mut plain = MultiGzDecoder::new(&mut layer_bytes).take(max_bytes + 1);
            copy_until_cancelled(&mut plain, &mut unpacked, cancel)
        } else {
            copy_until_cancelled(&mut (&mut layer_bytes).take(max_bytes + 1), &mut unpacked, cancel)
        };
        if written?.map_err(io_error)? > max_bytes {
            return Err(self.archive_error(format!(
                "{LAYER_LABEL} unpacks to more than {max_bytes} bytes: more than nine tenths of what is free in {}, or than any checkpoint",
                scratch_dir.display()
            )));
        }
        copy_until_cancelled(&mut layer_bytes, &mut io::sink(), cancel)?.map_err(io_error)?;
        self.check_digest(LAYER_LABEL, name, hashing.hash.finalize().as_ref())?;
        unpacked.flush().map_err(io_error)?;
        Ok(unpacked)
    }
}

/// Copies all there is, as long as the caller waits for it; how many bytes that were.
fn copy_until_cancelled(
    input: &mut impl Read,
    output: &mut impl io::Write,
    cancel: &CancelFlag,
) -> Result<io::Result<u64>, RestoreError> {
    let mut buffer = vec![0; UNPACK_CHUNK_BYTES];
    let mut copied = 0;
    loop {
        cancel.check()?;
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(Ok(copied)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = output.write_all(&buffer[..count]) {
            return Ok(Err(error));
        }
        copied += count as u64;
    }
}

/// How large a layer may be, unpacked, where so many bytes are free: a tenth of them is left to others.
fn max_layer_bytes(free: u64) -> u64 {
    MAX_LAYER_BYTES.min(free - free / 10)
}

/// What is read, and its digest.
struct HashingReader<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// What a file is.
#[derive(Debug)]
pub(super) enum ArchiveKind {
    /// A checkpoint image in a tar.
    OciImage(OciLayout),
    /// Something else: a checkpoint archive, or nothing that can be restored.
    Other(File),
}

/// Looks whether a file is a tar with an image in it.
///
/// # Errors
///
/// The caller gave up.
pub(super) fn detect(path: &Path, file: File, cancel: &CancelFlag) -> Result<ArchiveKind, RestoreError> {
    let mut image_members = BTreeMap::new();
    let mut count = 0;
    if let Ok(mut members) = TarReader::new(&file) {
        // What is no tar, or has too many members, is refused by whoever reads it as a checkpoint archive.
        while let Ok(Some(member)) = members.next_member() {
            cancel.check()?;
            count += 1;
            if count > MAX_MEMBERS {
                break;
            }
            let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
            let Ok(name) = str::from_utf8(name) else { continue };
            if member.is_file && (name == INDEX_FILE || name.starts_with("blobs/sha256/")) {
                image_members.insert(name.to_owned(), (member.offset, member.size));
            }
        }
    }
    Ok(match image_members.contains_key(INDEX_FILE) {
        true => ArchiveKind::OciImage(OciLayout::Archive {
            path: path.to_owned(),
            file,
            members: image_members,
        }),
        false => ArchiveKind::Other(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_limit_leaves_free_space() {
        assert_eq!(max_layer_bytes(0), 0);
        assert_eq!(max_layer_bytes(1000), 900);
        assert_eq!(max_layer_bytes(u64::MAX), MAX_LAYER_BYTES);
    }

    /// A reader whose caller gives up once so much was read.
    struct EndlessInput(CancelFlag, u64);

    impl Read for EndlessInput {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += buffer.len() as u64;
            if self.1 > 64 << 20 {
                self.0.cancel();
            }
            assert!(self.1 < 1 << 30, "it is read on for nobody");
            Ok(buffer.len())
        }
    }

    #[test]
    fn cancellation_stops_unpacking() {
        let cancel = CancelFlag::new();
        let copied = copy_until_cancelled(&mut EndlessInput(cancel.clone(), 0), &mut io::sink(), &cancel);
        assert!(matches!(copied, Err(RestoreError::Cancelled)));
    }
}
