//! Reads the members of a tar archive, header by header, in bounded memory.
//!
//! | header | read |
//! |---|---|
//! | ustar, GNU | name (with the prefix), size (octal or base 256) |
//! | PAX extended (`x`) | `path` and `size` of the next member, as Go writes them for long names and from 8 GiB |
//! | GNU long name (`L`) | the name of the next member |
//! | GNU sparse (`S`), PAX sparse | skipped: no image is stored as a sparse file |
//!
//! No error quotes a byte of the archive: the caller's path may name any file.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// The most members of an archive.
pub(super) const MAX_MEMBERS: usize = 1 << 20;
const BLOCK_BYTES: u64 = 512;
const MAX_PAX_BYTES: u64 = 1 << 20;
/// The longest name that is read. The names of images are short.
const MAX_NAME_BYTES: u64 = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TarMember {
    /// The name as stored; empty if it is longer than [`MAX_NAME_BYTES`].
    pub(super) name: Vec<u8>,
    /// Whether the member is a regular file that is not sparse.
    pub(super) is_file: bool,
    /// Offset of the content in the archive.
    pub(super) offset: u64,
    /// Length of the content in bytes. The content does not extend beyond the end of the file.
    pub(super) size: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("not a tar archive")]
    NotTar,
    #[error("the file is empty")]
    Empty,
    #[error("no tar header at byte {0}")]
    MissingHeader(u64),
    #[error("the tar header at byte {0} is malformed")]
    Malformed(u64),
    #[error("truncated: the member with its header at byte {0} extends beyond the end of the file")]
    Truncated(u64),
}

/// What PAX and GNU headers say about the next member.
#[derive(Debug, Default)]
struct MemberExtensions {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

#[derive(Debug)]
pub(super) struct TarReader<'a> {
    file: &'a File,
    length: u64,
    position: u64,
    extended: MemberExtensions,
}

impl<'a> TarReader<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            file,
            length: file.metadata()?.len(),
            position: 0,
            extended: MemberExtensions::default(),
        })
    }

    /// Returns the next member, `None` at the end of the archive. Must not be called again after an error.
    pub(super) fn next_member(&mut self) -> Result<Option<TarMember>, TarError> {
        loop {
            let header_offset = self.position;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size = match self.extended.size {
                Some(size) if !is_extension(&header) => size,
                _ => header.entry_size().map_err(|_| TarError::Malformed(header_offset))?,
            };
            if header.entry_type().is_gnu_sparse() {
                self.skip_sparse_headers(&header, header_offset)?;
            }
            let offset = self.position;
            let padded = size.checked_next_multiple_of(BLOCK_BYTES);
            let end = offset.checked_add(size).filter(|end| *end <= self.length);
            let (Some(_), Some(padded)) = (end, padded) else {
                return Err(TarError::Truncated(header_offset));
            };
            // The padding of the last member may be missing.
            self.position = (offset + padded).min(self.length);
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                self.read_pax(offset, size, header_offset)?;
            } else if kind.is_gnu_longname() {
                self.extended.name = Some(match size <= MAX_NAME_BYTES {
                    true => truncate_at_nul(self.read_content(offset, size)?),
                    false => Vec::new(),
                });
            } else if !is_extension(&header) {
                let extended = std::mem::take(&mut self.extended);
                return Ok(Some(TarMember {
                    name: extended.name.unwrap_or_else(|| header.path_bytes().into_owned()),
                    is_file: kind.is_file() && !extended.sparse,
                    offset,
                    size,
                }));
            }
        }
    }

    fn read_header(&mut self) -> Result<Option<tar::Header>, TarError> {
        let header_offset = self.position;
        let mut header = tar::Header::new_old();
        match self.length - header_offset {
            0 if header_offset == 0 => return Err(TarError::Empty),
            0 => return Ok(None),
            left if left < BLOCK_BYTES && header_offset == 0 => return Err(TarError::NotTar),
            left if left < BLOCK_BYTES => return Err(TarError::MissingHeader(header_offset)),
            _ => {}
        }
        self.file.read_exact_at(header.as_mut_bytes(), header_offset)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) && header_offset > 0 {
            return Ok(None);
        }
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(match header_offset {
                0 => TarError::NotTar,
                _ => TarError::MissingHeader(header_offset),
            });
        }
        self.position += BLOCK_BYTES;
        Ok(Some(header))
    }

    fn read_content(&self, offset: u64, size: u64) -> Result<Vec<u8>, TarError> {
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut content, offset)?;
        Ok(content)
    }

    fn read_pax(&mut self, offset: u64, size: u64, header_offset: u64) -> Result<(), TarError> {
        if size > MAX_PAX_BYTES {
            return Err(TarError::Malformed(header_offset));
        }
        let content = self.read_content(offset, size)?;
        for record in tar::PaxExtensions::new(&content) {
            let record = record.map_err(|_| TarError::Malformed(header_offset))?;
            match record.key_bytes() {
                b"path" => self.extended.name = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = str::from_utf8(record.value_bytes())
                        .ok()
                        .and_then(|text| text.parse().ok());
                    self.extended.size = Some(size.ok_or(TarError::Malformed(header_offset))?);
                }
                key if key.starts_with(b"GNU.sparse.") => self.extended.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// The headers that list the parts of a sparse file precede the content and are not counted in its size.
    fn skip_sparse_headers(&mut self, header: &tar::Header, header_offset: u64) -> Result<(), TarError> {
        let mut extended = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while extended {
            if self.length - self.position < BLOCK_BYTES {
                return Err(TarError::Truncated(header_offset));
            }
            let mut more = tar::GnuExtSparseHeader::new();
            self.file.read_exact_at(more.as_mut_bytes(), self.position)?;
            self.position += BLOCK_BYTES;
            extended = more.is_extended();
        }
        Ok(())
    }
}

/// Whether a header describes the next member instead of being a member.
fn is_extension(header: &tar::Header) -> bool {
    let kind = header.entry_type();
    kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
        || kind.is_gnu_longname()
        || kind.is_gnu_longlink()
}

/// The sum of the bytes of a header, with the checksum field taken as blanks.
fn checksum(header: &[u8; BLOCK_BYTES as usize]) -> u32 {
    const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;
    let bytes = header.iter().enumerate();
    bytes
        .map(|(index, byte)| {
            if CHECKSUM_FIELD.contains(&index) {
                u32::from(b' ')
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}

fn truncate_at_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use tar::{EntryType, Header};

    use super::*;

    fn header(name: &str, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_path(name).expect("a short name");
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn add(file: &mut File, header: &Header, content: &[u8]) {
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(content).unwrap();
        file.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()])
            .unwrap();
    }

    fn record(key: &str, value: &str) -> String {
        let rest = key.len() + value.len() + 3;
        let digits = (rest + 1).to_string().len().max((rest + 2).to_string().len());
        let length = rest + digits;
        format!("{length} {key}={value}\n")
    }

    fn read_all(file: &File) -> Result<Vec<TarMember>, TarError> {
        let mut members = TarReader::new(file).unwrap();
        let mut entries = Vec::new();
        while let Some(member) = members.next_member()? {
            entries.push(member);
        }
        Ok(entries)
    }

    /// Go's archive/tar writes a file of 8 GiB or more with a PAX record that has the size, and no size in the header.
    #[test]
    fn pax_sizes_and_names_are_used() {
        const SIZE: u64 = (9 << 30) + 7;
        let mut file = tempfile::tempfile().unwrap();
        let pax = record("size", &SIZE.to_string()) + &record("path", "checkpoint/pages-1.img");
        add(
            &mut file,
            &header("PaxHeaders.0/x", EntryType::XHeader, pax.len() as u64),
            pax.as_bytes(),
        );
        add(&mut file, &header("other", EntryType::Regular, 0), b"");
        let offset = file.stream_position().unwrap();
        // A hole, which uses no disk space.
        file.seek(SeekFrom::Current(SIZE.next_multiple_of(512) as i64)).unwrap();
        add(&mut file, &header("spec.dump", EntryType::Regular, 2), b"{}");
        file.write_all(&[0; 1024]).unwrap();
        let members = read_all(&file).unwrap();
        assert_eq!(members.len(), 2);
        assert_eq!(
            members[0],
            TarMember {
                name: b"checkpoint/pages-1.img".to_vec(),
                is_file: true,
                offset,
                size: SIZE,
            }
        );
        assert_eq!((members[1].name.as_slice(), members[1].size), (&b"spec.dump"[..], 2));
    }

    #[test]
    fn gnu_long_names_are_used() {
        let mut file = tempfile::tempfile().unwrap();
        let long = format!("checkpoint/{}\0", "x".repeat(300));
        add(
            &mut file,
            &header("././@LongLink", EntryType::GNULongName, long.len() as u64),
            long.as_bytes(),
        );
        add(&mut file, &header("checkpoint/xxx", EntryType::Regular, 3), b"abc");
        // Longer than `MAX_NAME_BYTES`, so it is not held in memory.
        let endless = 1 << 30;
        add(
            &mut file,
            &header("././@LongLink", EntryType::GNULongName, endless),
            b"",
        );
        file.seek(SeekFrom::Current(endless as i64)).unwrap();
        add(
            &mut file,
            &header("checkpoint/inventory.img", EntryType::Regular, 1),
            b"a",
        );
        let members = read_all(&file).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_slice()).collect();
        assert_eq!(names, [&long.as_bytes()[..long.len() - 1], b""]);
    }

    #[test]
    fn errors_quote_no_content() {
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            read_all(&file).expect_err("not a tar archive").to_string()
        };
        let secret = "root:$y$j9T$secret:19000:0:99999:7:::\n".repeat(40);
        assert_eq!(file(secret.as_bytes()), "not a tar archive");
        assert_eq!(file(b"short"), "not a tar archive");
        assert_eq!(file(b""), "the file is empty");
        assert_eq!(file(&[0; 4096]), "not a tar archive");
        let mut trailing = header("a", EntryType::Regular, 0).as_bytes().to_vec();
        trailing.extend(secret.as_bytes());
        assert_eq!(file(&trailing), "no tar header at byte 512");
        let mut bad_size = header("a", EntryType::Regular, 0);
        bad_size.as_mut_bytes()[124..136].copy_from_slice(b"s3cr3tpassw\0");
        bad_size.set_cksum();
        assert_eq!(file(bad_size.as_bytes()), "the tar header at byte 0 is malformed");
        let truncated = header("a", EntryType::Regular, 4096);
        assert!(file(truncated.as_bytes()).starts_with("truncated"));
    }
}
