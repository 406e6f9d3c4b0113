//! The content of one archive member, searched while it is read.

use std::io::{self, Read};

use super::{
    decompress::{self, Compression},
    documents,
    log_stats::LogStats,
    model::NestedTar,
    search::NeedleSearch,
    tar_header::{BLOCK_BYTES, TarHeader},
    tar_reader::TarReader,
};

/// The number of bytes of a nested tar that are read: more than enough to decompress a first block.
const MAX_NESTED_BYTES: u64 = 256 << 10;

pub(super) struct MemberReader<'w, 's> {
    pub(super) tar: &'w mut TarReader<'s>,
    pub(super) name: &'w str,
    pub(super) memory: Option<&'w mut NeedleSearch>,
    pub(super) secrets: &'w mut [NeedleSearch],
    /// Whether the tar ended before the member.
    pub(super) truncated: bool,
}

impl MemberReader<'_, '_> {
    fn searches(&mut self) -> impl Iterator<Item = &mut NeedleSearch> {
        self.memory
            .iter_mut()
            .map(|search| &mut **search)
            .chain(self.secrets.iter_mut())
    }

    pub(super) fn begin_searches(&mut self) {
        self.searches().for_each(NeedleSearch::begin_member);
    }

    /// Reads the rest of the content if there is a search. Otherwise the tar reader skips it.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        if self.searches().next().is_some() {
            let mut buffer = vec![0; 1 << 20];
            while self.read(&mut buffer)? > 0 {}
        }
        Ok(())
    }

    /// The whole content; `None` if it is too large for a document.
    pub(super) fn read_document(&mut self, size: u64) -> io::Result<Option<Vec<u8>>> {
        if size > documents::MAX_DOCUMENT_BYTES {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Detects whether the content is a tar, possibly compressed.
    pub(super) fn read_nested(&mut self) -> io::Result<NestedTar> {
        let mut first = Vec::new();
        (&mut *self).take(MAX_NESTED_BYTES).read_to_end(&mut first)?;
        let compression = Compression::detect(&first);
        let Some(compression) = compression else {
            return Ok(detect_tar(&first, None));
        };
        if !compression.is_decompressed() {
            return Ok(NestedTar::Compressed(compression));
        }
        // Only the first bytes were read, so the compressed data seems truncated. The error does not matter.
        let (mut inner, _) = decompress::decompressing_reader(compression, &first[..]);
        let mut block = Vec::new();
        (&mut inner).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        Ok(detect_tar(&block, Some(compression)))
    }

    pub(super) fn read_log(&mut self) -> io::Result<LogStats> {
        let mut stats = LogStats::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(stats);
            }
            stats.feed(&buffer[..read]);
        }
    }
}

impl Read for MemberReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read_payload(buffer)?;
        self.truncated |= read == 0 && !buffer.is_empty() && self.tar.remaining() > 0;
        let name = self.name;
        self.searches().for_each(|search| search.feed(name, &buffer[..read]));
        Ok(read)
    }
}

/// Whether these bytes begin with a tar header: of any format, or of an extension header.
fn detect_tar(first: &[u8], compression: Option<Compression>) -> NestedTar {
    let suffix = compression.map_or_else(String::new, |compression| format!(" within {compression}"));
    let Some(block) = first.first_chunk::<BLOCK_BYTES>() else {
        return NestedTar::Other(format!("{} bytes{suffix}, too short for a tar", first.len()));
    };
    if *block == [0; BLOCK_BYTES] {
        return NestedTar::Tar(compression);
    }
    match TarHeader::parse(block) {
        Ok(_) => NestedTar::Tar(compression),
        Err(error) => NestedTar::Other(format!("not a tar{suffix}: {error}")),
    }
}
