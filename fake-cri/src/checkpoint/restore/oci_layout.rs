//! Reads checkpoint images: OCI images whose only layer is a checkpoint archive, as `checkpointctl build` and CRI-O
//! create them.
//!
//! ```text
//!   oci-layout, index.json --> manifest, annotated as a checkpoint --> its layer --> an unnamed file
//! ```
//!
//! The image is a directory with the OCI layout, or a tar file of that directory. Only `index.json` and blobs are
//! opened; symbolic links are not followed; a blob that does not match its digest is refused. The layer is unpacked as
//! one file; its members are not unpacked. Unpacking ends when the caller cancels. The file has no name, so nothing is
//! left behind.
//!
//! Ways to fail: several images or layers, a compression other than gzip, encryption, not a checkpoint, sizes above the
//! limits. No error quotes a document: the `index.json` of a directory may be any file of that name.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    RestoreError, archive_file,
    cancel::CancelFlag,
    tar_reader::{MAX_MEMBERS, TarReader},
};

/// The path of the index in the directory or the tar file.
pub(super) const INDEX_FILE: &str = "index.json";
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The largest unpacked layer; the free disk space may set a lower limit.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// The annotations that mark a checkpoint image: of `checkpointctl build` and current CRI-O, and of older versions of
/// both.
const CHECKPOINT_ANNOTATIONS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Enough bytes of a layer to detect its format.
const HEAD_BYTES: u64 = 64;
/// Bytes that are unpacked between two checks of the cancel flag.
const UNPACK_CHUNK_BYTES: usize = 1 << 20;
/// Suffix of the media type of an encrypted layer (ocicrypt).
const ENCRYPTED_SUFFIX: &str = "+encrypted";

/// Where the parts of an image are stored.
#[derive(Debug)]
pub(super) enum OciLayout {
    /// A directory with the OCI layout.
    Directory(PathBuf),
    /// A tar file of the layout.
    Archive {
        path: PathBuf,
        file: File,
        /// Offset and length of `index.json` and of each blob.
        members: BTreeMap<String, (u64, u64)>,
    },
}

const MANIFEST_LABEL: &str = "manifest";
const LAYER_LABEL: &str = "layer";

/// A reference to a blob.
#[derive(Debug, Deserialize)]
struct OciDescriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
}

#[derive(Debug, Deserialize)]
struct OciIndex {
    manifests: Vec<OciDescriptor>,
}

#[derive(Debug, Deserialize)]
struct OciManifest {
    #[serde(default)]
    layers: Vec<OciDescriptor>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl OciLayout {
    /// Unpacks the checkpoint archive into an unnamed file in `scratch_dir`.
    pub(super) fn unpack_checkpoint(&self, scratch_dir: &Path, cancel: &CancelFlag) -> Result<File, RestoreError> {
        let index: OciIndex = self.document("index.json", INDEX_FILE)?;
        let [manifest] = &index.manifests[..] else {
            return Err(self.archive_error(format!("{} images, expected one", index.manifests.len())));
        };
        let manifest: OciManifest = self.document(MANIFEST_LABEL, &self.blob(MANIFEST_LABEL, &manifest.digest)?)?;
        if !CHECKPOINT_ANNOTATIONS
            .iter()
            .any(|annotation| manifest.annotations.contains_key(*annotation))
        {
            return Err(self.archive_error(format!(
                "not a checkpoint image: the manifest has no annotation {}",
                CHECKPOINT_ANNOTATIONS[0]
            )));
        }
        let [layer] = &manifest.layers[..] else {
            return Err(self.archive_error(format!("{} layers, expected one", manifest.layers.len())));
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

    /// Returns the path of a blob. `label` names the blob in errors.
    fn blob(&self, label: &str, digest: &str) -> Result<String, RestoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            hex.len() == 64 && hex.bytes().all(is_digit)
        });
        match hex {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.archive_error(format!(
                "the digest of the {label} is not sha256: and 64 hexadecimal digits"
            ))),
        }
    }

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

    /// Reads a document. A blob must match its digest.
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
        // The parser's message quotes the text.
        serde_json::from_slice(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let problem = match error.classify() {
                serde_json::error::Category::Data => "does not have the expected fields",
                _ => "is not JSON",
            };
            self.archive_error(format!("{label} {problem} (line {line}, column {column})"))
        })
    }

    fn check_digest(&self, label: &str, name: &str, digest: &[u8]) -> Result<(), RestoreError> {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match name.ends_with(&hex) {
            true => Ok(()),
            false => Err(self.archive_error(format!("the content of the {label} does not match its digest"))),
        }
    }

    /// Unpacks the layer, a tar file or one compressed with gzip, into an unnamed file.
    fn unpack_layer(&self, name: &str, scratch_dir: &Path, cancel: &CancelFlag) -> Result<File, RestoreError> {
        let io_error = |error: io::Error| self.archive_error(format!("{LAYER_LABEL}: {error}"));
        let mut unpacked = tempfile::tempfile_in(scratch_dir).map_err(io_error)?;
        // A small layer may unpack to any size, and other processes fail when the disk is full.
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
                "{LAYER_LABEL} is {format}; only plain tar and gzip are supported"
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
                "{LAYER_LABEL} unpacks to more than {max_bytes} bytes (90 % of the free space in {}, at most 64 GiB)",
                scratch_dir.display()
            )));
        }
        copy_until_cancelled(&mut layer_bytes, &mut io::sink(), cancel)?.map_err(io_error)?;
        self.check_digest(LAYER_LABEL, name, hashing.hash.finalize().as_ref())?;
        unpacked.flush().map_err(io_error)?;
        Ok(unpacked)
    }
}

/// Copies `input` until it ends or the caller cancels. Returns the number of bytes.
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

/// The size limit of an unpacked layer: a tenth of the free space is left to other processes.
fn max_layer_bytes(free: u64) -> u64 {
    MAX_LAYER_BYTES.min(free - free / 10)
}

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

#[derive(Debug)]
pub(super) enum ArchiveKind {
    /// A checkpoint image in a tar file.
    OciImage(OciLayout),
    /// Any other file: a checkpoint archive, or a file that cannot be restored.
    Other(File),
}

/// Detects whether a file is a tar file of an OCI layout.
pub(super) fn detect(path: &Path, file: File, cancel: &CancelFlag) -> Result<ArchiveKind, RestoreError> {
    let mut image_members = BTreeMap::new();
    let mut count = 0;
    if let Ok(mut members) = TarReader::new(&file) {
        // `CriuImages::read_archive` reads the file again and reports that it is not a tar archive, or has too many
        // members.
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

    /// Endless input. Sets the flag after 64 MiB.
    struct EndlessInput(CancelFlag, u64);

    impl Read for EndlessInput {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += buffer.len() as u64;
            if self.1 > 64 << 20 {
                self.0.cancel();
            }
            assert!(self.1 < 1 << 30, "reading continues after the cancel");
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
