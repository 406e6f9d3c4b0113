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

use super::{RestoreError, caller::Caller, images::MOST_MEMBERS, members::Members, source};

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
/// As many of a layer's first bytes as tell what it is.
const HEAD: u64 = 64;
/// What is unpacked between two looks at the caller.
const CHUNK: usize = 1 << 20;
/// How the media type of an encrypted layer ends (ocicrypt).
const ENCRYPTED: &str = "+encrypted";

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

/// How errors name the parts of an image.
const MANIFEST: &str = "its manifest";
const LAYER: &str = "its layer";

/// What a document says of another blob.
#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
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
    pub(super) fn checkpoint(&self, folder: &Path, caller: &Caller) -> Result<File, RestoreError> {
        let index: Index = self.document("its index.json", INDEX)?;
        let [manifest] = &index.manifests[..] else {
            return Err(self.wrong(format!("it holds {} images, not one", index.manifests.len())));
        };
        let manifest: Manifest = self.document(MANIFEST, &self.blob(MANIFEST, &manifest.digest)?)?;
        if !MARKS.iter().any(|mark| manifest.annotations.contains_key(*mark)) {
            return Err(self.wrong(format!(
                "it is no checkpoint image: its manifest has no annotation {}",
                MARKS[0]
            )));
        }
        let [layer] = &manifest.layers[..] else {
            return Err(self.wrong(format!("it has {} layers, not one", manifest.layers.len())));
        };
        if layer.media_type.ends_with(ENCRYPTED) {
            return Err(self.wrong(format!("{LAYER} is encrypted; decrypt the image first")));
        }
        self.unpacked(&self.blob(LAYER, &layer.digest)?, folder, caller)
    }

    fn wrong(&self, reason: String) -> RestoreError {
        let path = match self {
            Self::Folder(path) | Self::Archive { path, .. } => path.clone(),
        };
        RestoreError::Archive { path, reason }
    }

    /// The name of a blob, which errors call `what`.
    fn blob(&self, what: &str, digest: &str) -> Result<String, RestoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            hex.len() == 64 && hex.bytes().all(is_digit)
        });
        match hex {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.wrong(format!(
                "what names {what} is no digest (sha256: and 64 hexadecimal digits)"
            ))),
        }
    }

    /// Opens a part by its name.
    fn open(&self, what: &str, name: &str) -> Result<Box<dyn Read>, RestoreError> {
        let failed = |error: io::Error| self.wrong(format!("{what}: {error}"));
        match self {
            Self::Folder(path) => Ok(Box::new(source::open_unlinked(&path.join(name)).map_err(failed)?)),
            Self::Archive { file, members, .. } => {
                let (offset, length) = members
                    .get(name)
                    .ok_or_else(|| self.wrong(format!("{what} is missing")))?;
                let mut file = file.try_clone().map_err(failed)?;
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }

    /// A document; one that is a blob must have its digest.
    fn document<T: for<'a> Deserialize<'a>>(&self, what: &str, name: &str) -> Result<T, RestoreError> {
        let mut text = Vec::new();
        let read = self.open(what, name)?.take(LARGEST_DOCUMENT + 1).read_to_end(&mut text);
        let length = read.map_err(|error| self.wrong(format!("{what}: {error}")))?;
        if length as u64 > LARGEST_DOCUMENT {
            return Err(self.wrong(format!("{what} is too large")));
        }
        if name != INDEX {
            self.check(what, name, Sha256::digest(&text).as_ref())?;
        }
        // What the parser says quotes the text.
        serde_json::from_slice(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let problem = match error.classify() {
                serde_json::error::Category::Data => "has other fields than it should",
                _ => "is no JSON",
            };
            self.wrong(format!("{what} {problem} (line {line}, column {column})"))
        })
    }

    /// Whether a blob has the digest that is its name.
    fn check(&self, what: &str, name: &str, digest: &[u8]) -> Result<(), RestoreError> {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match name.ends_with(&hex) {
            true => Ok(()),
            false => Err(self.wrong(format!("{what} has another digest than its name"))),
        }
    }

    /// A layer as one tar.
    fn unpacked(&self, name: &str, folder: &Path, caller: &Caller) -> Result<File, RestoreError> {
        let failed = |error: io::Error| self.wrong(format!("{LAYER}: {error}"));
        let mut unpacked = tempfile::tempfile_in(folder).map_err(failed)?;
        // A small layer may unpack to any size, and a disk that is full fails others.
        let disk = nix::sys::statvfs::fstatvfs(&unpacked).map_err(|errno| failed(errno.into()))?;
        let most = largest_layer(disk.blocks_available().saturating_mul(disk.fragment_size()));
        let mut hashed = Hashed {
            input: BufReader::with_capacity(1 << 16, self.open(LAYER, name)?),
            hash: Sha256::new(),
        };
        let mut head = Vec::new();
        (&mut hashed).take(HEAD).read_to_end(&mut head).map_err(failed)?;
        let is_gzip = head.starts_with(&GZIP);
        let format = source::format_of(&head).filter(|_| !is_gzip);
        let mut whole = head.as_slice().chain(&mut hashed);
        if let Some(format) = format {
            return Err(self.wrong(format!(
                "{LAYER} is {format}; of what is not a plain tar only gzip is read"
            )));
        }
        let written = if is_gzip {
            let mut plain = MultiGzDecoder::new(&mut whole).take(most + 1);
            copy(&mut plain, &mut unpacked, caller)
        } else {
            copy(&mut (&mut whole).take(most + 1), &mut unpacked, caller)
        };
        if written?.map_err(failed)? > most {
            return Err(self.wrong(format!(
                "{LAYER} unpacks to more than {most} bytes: more than nine tenths of what is free in {}, or than any checkpoint",
                folder.display()
            )));
        }
        copy(&mut whole, &mut io::sink(), caller)?.map_err(failed)?;
        self.check(LAYER, name, hashed.hash.finalize().as_ref())?;
        unpacked.flush().map_err(failed)?;
        Ok(unpacked)
    }
}

/// Copies all there is, as long as the caller waits for it; how many bytes that were.
fn copy(input: &mut impl Read, output: &mut impl io::Write, caller: &Caller) -> Result<io::Result<u64>, RestoreError> {
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        caller.check()?;
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

/// What a file is.
#[derive(Debug)]
pub(super) enum Found {
    /// A checkpoint image in a tar.
    Image(Layout),
    /// Something else: a checkpoint archive, or nothing that can be restored.
    Other(File),
}

/// Looks whether a file is a tar with an image in it.
///
/// # Errors
///
/// The caller gave up.
pub(super) fn find(path: &Path, file: File, caller: &Caller) -> Result<Found, RestoreError> {
    let mut found = BTreeMap::new();
    let mut count = 0;
    if let Ok(mut members) = Members::of(&file) {
        // What is no tar, or has too many members, is refused by whoever reads it as a checkpoint archive.
        while let Ok(Some(member)) = members.next() {
            caller.check()?;
            count += 1;
            if count > MOST_MEMBERS {
                break;
            }
            let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
            let Ok(name) = str::from_utf8(name) else { continue };
            if member.is_file && (name == INDEX || name.starts_with("blobs/sha256/")) {
                found.insert(name.to_owned(), (member.offset, member.size));
            }
        }
    }
    Ok(match found.contains_key(INDEX) {
        true => Found::Image(Layout::Archive {
            path: path.to_owned(),
            file,
            members: found,
        }),
        false => Found::Other(file),
    })
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

    /// A reader whose caller gives up once so much was read.
    struct Endless(Caller, u64);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += buffer.len() as u64;
            if self.1 > 64 << 20 {
                self.0.give_up();
            }
            assert!(self.1 < 1 << 30, "it is read on for nobody");
            Ok(buffer.len())
        }
    }

    #[test]
    fn nothing_is_unpacked_for_a_caller_that_is_gone() {
        let caller = Caller::patient();
        let copied = copy(&mut Endless(caller.clone(), 0), &mut io::sink(), &caller);
        assert!(matches!(copied, Err(RestoreError::Cancelled)));
    }
}
