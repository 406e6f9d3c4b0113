//! Reads the images of an archive in place.
//!
//! No member is unpacked: images are held in memory, pages stay in the archive and are read by offset. Only regular
//! files named `checkpoint/NAME`, with the name of an image, are used. Links, devices and all other members are
//! skipped, so a member cannot redirect a path. Besides images two files of the runtime are read: [`super::documents`].
//!
//! Ways to fail: not a tar archive, a duplicate image, images above the size limits. No error quotes the archive.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use cri_proto::criu::{Decoder, IMAGE_DIR, ImageFile, Kind, decode_single, first_fatal_issue};
use prost::Message;

use super::{
    RestoreError,
    archive_file::{self, OpenedPath},
    cancel::CancelFlag,
    documents::Documents,
    oci_layout,
    tar_reader::{MAX_MEMBERS, TarError, TarReader},
};

/// The largest image that is held in memory: ghost files are the largest, with 16 MiB.
const MAX_IMAGE_BYTES: u64 = 32 << 20;
/// The largest image that is decoded at once: the decoded messages take a multiple of its size in memory.
const MAX_DECODED_IMAGE_BYTES: u64 = 8 << 20;
const MAX_TOTAL_IMAGE_BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct CriuImages {
    path: PathBuf,
    archive: File,
    contents: BTreeMap<String, Vec<u8>>,
    pages: BTreeMap<u32, PagesLocation>,
    pub(super) documents: Documents,
    pub(super) cancel: CancelFlag,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PagesLocation {
    offset: u64,
    /// Length in bytes.
    pub(super) length: u64,
}

impl CriuImages {
    /// Reads the archive at this path, or the archive in the checkpoint image at this path. The layer of an image is
    /// unpacked into an unnamed file in `scratch_dir`.
    pub(super) fn read(path: &Path, scratch_dir: &Path, cancel: &CancelFlag) -> Result<Self, RestoreError> {
        let archive_error = |error: io::Error| RestoreError::archive(path, error.to_string());
        let layout = match archive_file::open(path).map_err(archive_error)? {
            OpenedPath::Directory => oci_layout::OciLayout::Directory(path.to_owned()),
            OpenedPath::File(file) => match oci_layout::detect(path, file, cancel)? {
                oci_layout::ArchiveKind::OciImage(layout) => layout,
                oci_layout::ArchiveKind::Other(file) => return Self::read_archive(path, file, cancel),
            },
        };
        Self::read_archive(path, layout.unpack_checkpoint(scratch_dir, cancel)?, cancel)
    }

    fn read_archive(path: &Path, archive: File, cancel: &CancelFlag) -> Result<Self, RestoreError> {
        let archive_error = |reason: String| RestoreError::archive(path, reason);
        let io_error = |error: io::Error| archive_error(error.to_string());
        let mut images = Self {
            path: path.to_owned(),
            archive: archive.try_clone().map_err(io_error)?,
            contents: BTreeMap::new(),
            pages: BTreeMap::new(),
            documents: Documents::default(),
            cancel: cancel.clone(),
        };
        let mut total_bytes = 0;
        let mut count = 0;
        let mut members = TarReader::new(&archive).map_err(io_error)?;
        while let Some(member) = members
            .next_member()
            .map_err(|error| tar_error(path, &archive, &error))?
        {
            cancel.check()?;
            count += 1;
            if count > MAX_MEMBERS {
                return Err(archive_error(format!("more than {MAX_MEMBERS} members")));
            }
            if !member.is_file {
                continue;
            }
            images.documents.add(path, &archive, &member, cancel)?;
            let Some(name) = image_name(&member.name) else {
                continue;
            };
            let size = member.size;
            match ImageFile::from_name(&name) {
                Some(ImageFile::Pages(pages_id)) => {
                    let pages = PagesLocation {
                        offset: member.offset,
                        length: size,
                    };
                    if images.pages.insert(pages_id, pages).is_some() {
                        return Err(archive_error(format!("duplicate member {name}")));
                    }
                }
                Some(image) => {
                    // The size in a header may be any number.
                    total_bytes = size.saturating_add(total_bytes);
                    if size > max_image_bytes(&image) || total_bytes > MAX_TOTAL_IMAGE_BYTES {
                        return Err(archive_error(format!("{name} is too large: {size} bytes")));
                    }
                    let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
                    archive.read_exact_at(&mut content, member.offset).map_err(io_error)?;
                    match images.contents.entry(name) {
                        Entry::Vacant(vacant) => vacant.insert(content),
                        Entry::Occupied(existing) => {
                            return Err(archive_error(format!("duplicate member {}", existing.key())));
                        }
                    };
                }
                None => {}
            }
        }
        if images.contents.is_empty() {
            return Err(archive_error("no CRIU images found".to_owned()));
        }
        Ok(images)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.contents.contains_key(name)
    }

    /// The names of all images except pages files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.keys().map(String::as_str)
    }

    fn bytes(&self, name: &str) -> Result<&[u8], RestoreError> {
        self.contents
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| RestoreError::Archive {
                path: self.path.clone(),
                reason: format!("{name} is missing"),
            })
    }

    /// Decodes an image of one message.
    pub(super) fn single<M: Message + Default>(&self, kind: Kind, id: Option<u64>) -> Result<M, RestoreError> {
        let name = kind.file_name(id);
        let bytes = self.bytes(&name)?;
        check_entries(&name, kind, bytes)?;
        Ok(decode_single(&name, kind, bytes)?)
    }

    /// Decodes an image of at most `max_entries` messages. A missing image has no messages.
    pub(super) fn optional<M: Message + Default>(
        &self,
        kind: Kind,
        id: Option<u64>,
        max_entries: usize,
    ) -> Result<Vec<M>, RestoreError> {
        let name = kind.file_name(id);
        let mut entries = Vec::new();
        if !self.has(&name) {
            return Ok(entries);
        }
        check_entries(&name, kind, self.bytes(&name)?)?;
        let mut decoder = self.decoder(&name, kind)?;
        while let Some(entry) = decoder.message()? {
            if entries.len() == max_entries {
                return Err(RestoreError::malformed(
                    name,
                    format!("more than {max_entries} entries"),
                ));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// As [`Self::optional`], but a missing image is an error.
    pub(super) fn entries<M: Message + Default>(
        &self,
        kind: Kind,
        id: Option<u64>,
        max_entries: usize,
    ) -> Result<Vec<M>, RestoreError> {
        self.bytes(&kind.file_name(id))?;
        self.optional(kind, id, max_entries)
    }

    /// Returns a decoder that reads an image message by message.
    pub(super) fn decoder(&self, name: &str, kind: Kind) -> Result<Decoder<&[u8]>, RestoreError> {
        Ok(Decoder::open_as(name, kind, self.bytes(name)?)?)
    }

    pub(super) fn pages(&self, pages_id: u32) -> Result<PagesLocation, RestoreError> {
        self.pages.get(&pages_id).copied().ok_or_else(|| RestoreError::Archive {
            path: self.path.clone(),
            reason: format!("{} is missing", cri_proto::criu::pages_file_name(pages_id)),
        })
    }

    /// Reads a part of a pages file. The caller must not read beyond `pages.length`.
    pub(super) fn read_pages(&self, pages: PagesLocation, offset: u64, buffer: &mut [u8]) -> Result<(), RestoreError> {
        self.archive
            .read_exact_at(buffer, pages.offset + offset)
            .map_err(|error| RestoreError::Archive {
                path: self.path.clone(),
                reason: format!("read pages: {error}"),
            })
    }
}

fn max_image_bytes(image: &ImageFile) -> u64 {
    match image {
        // Decoded at once, with all nested messages.
        ImageFile::Image(Kind::Core | Kind::Mm | Kind::Ids | Kind::Fs | Kind::Inventory, _) => MAX_DECODED_IMAGE_BYTES,
        // Decoded message by message, with a limit on their number.
        _ => MAX_IMAGE_BYTES,
    }
}

/// Describes why a file is not an archive, with the name of its format if known.
fn tar_error(path: &Path, file: &File, error: &TarError) -> RestoreError {
    let reason = match (error, archive_file::format_of_file(file)) {
        (TarError::NotTar, Some(format)) => {
            format!(
                "not a tar archive but {format}; a checkpoint archive is a tar file, neither compressed nor encrypted"
            )
        }
        _ => error.to_string(),
    };
    RestoreError::archive(path, reason)
}

/// Checks that every message of an image has its required fields. The decoder fills in missing fields: a mapping of
/// about a hundred bytes in memory may take two bytes of the image, so an image of 16 MiB could take a gigabyte.
fn check_entries(name: &str, kind: Kind, image: &[u8]) -> Result<(), RestoreError> {
    let mut decoder = Decoder::open_as(name, kind, image)?;
    loop {
        let message = kind.message(decoder.entries());
        let Some(entry) = decoder.entry()? else { break };
        if let Some(finding) = message.and_then(|message| first_fatal_issue(message, entry)) {
            return Err(RestoreError::malformed(name, finding.to_string()));
        }
    }
    Ok(())
}

/// Returns the name of the image that a member holds.
fn image_name(path: &[u8]) -> Option<String> {
    let path = str::from_utf8(path).ok()?;
    let name = path.strip_prefix("./").unwrap_or(path).strip_prefix(IMAGE_DIR)?;
    (!name.contains('/')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use cri_proto::criu::message::MmEntry;

    use super::*;

    #[test]
    fn messages_without_required_fields_are_refused() {
        // Empty VMA entries of two bytes each.
        let mappings = [0x72, 0].repeat(1 << 20);
        let mut image = Kind::Mm.header();
        image.extend((mappings.len() as u32).to_le_bytes());
        image.extend(mappings);
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        builder
            .append_data(&mut header, "checkpoint/mm-2.img", &*image)
            .expect("a vector takes all");
        let scratch_dir = tempfile::tempdir().expect("a directory");
        let path = scratch_dir.path().join("empty.tar");
        std::fs::write(&path, builder.into_inner().expect("a tar")).expect("written");
        let images = CriuImages::read(&path, scratch_dir.path(), &CancelFlag::new()).expect("a tar with an image");
        let error = images
            .single::<MmEntry>(Kind::Mm, Some(2))
            .expect_err("required fields are missing");
        assert_eq!(
            error.to_string(),
            "mm-2.img: mm_entry.vmas.start: required field is missing"
        );
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let scratch_dir = tempfile::tempdir().expect("a directory");
        let path = scratch_dir.path().join("claims.tar");
        let mut bytes = Vec::new();
        for (name, size, content) in [
            ("checkpoint/inventory.img", 512, &[0_u8; 512][..]),
            ("checkpoint/files.img", u64::MAX, &[]),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_path(name).expect("short");
            header.set_size(size);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
        }
        std::fs::write(&path, bytes).expect("written");
        let error = CriuImages::read(&path, scratch_dir.path(), &CancelFlag::new()).expect_err("impossible size");
        assert!(matches!(error, RestoreError::Archive { .. }), "{error}");
    }
}
