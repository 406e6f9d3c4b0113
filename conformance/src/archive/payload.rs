//! The content of one member, searched as it is read.

use std::io::{self, Read};

use super::{
    decompress, documents,
    header::{BLOCK, Header},
    log::LogFacts,
    model::Nested,
    search::Search,
    walk::{Compression, Walk},
};

/// How much of a nested tar is looked at, in bytes: a first block decompresses from less.
const NESTED_BYTES: u64 = 256 << 10;

/// The content of one member, searched as it is read.
pub(super) struct Payload<'w, 's> {
    pub(super) walk: &'w mut Walk<'s>,
    pub(super) name: &'w str,
    pub(super) memory: Option<&'w mut Search>,
    pub(super) secrets: &'w mut [Search],
    /// The tar ended before the member did.
    pub(super) cut: bool,
}

impl Payload<'_, '_> {
    fn searches(&mut self) -> impl Iterator<Item = &mut Search> {
        self.memory
            .iter_mut()
            .map(|search| &mut **search)
            .chain(self.secrets.iter_mut())
    }

    pub(super) fn begin(&mut self) {
        self.searches().for_each(Search::begin);
    }

    /// Reads what is left if anything is looked for in it; else it is passed over by the walk.
    pub(super) fn rest(&mut self) -> io::Result<()> {
        if self.searches().next().is_some() {
            let mut buffer = vec![0; 1 << 20];
            while self.read(&mut buffer)? > 0 {}
        }
        Ok(())
    }

    /// The whole content, `None` if it is too large for a document.
    pub(super) fn document(&mut self, size: u64) -> io::Result<Option<Vec<u8>>> {
        if size > documents::LARGEST {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// What the content begins with that is to be a tar.
    pub(super) fn nested(&mut self) -> io::Result<Nested> {
        let mut first = Vec::new();
        (&mut *self).take(NESTED_BYTES).read_to_end(&mut first)?;
        let compression = Compression::of(&first);
        let Some(compression) = compression else {
            return Ok(begins_a_tar(&first, None));
        };
        if !compression.is_read() {
            return Ok(Nested::Compressed(compression));
        }
        // What was cut off for being long is damage at the end only.
        let (mut inner, _) = decompress::reader(compression, &first[..]);
        let mut block = Vec::new();
        (&mut inner).take(BLOCK as u64).read_to_end(&mut block)?;
        Ok(begins_a_tar(&block, Some(compression)))
    }

    pub(super) fn log(&mut self) -> io::Result<LogFacts> {
        let mut facts = LogFacts::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(facts);
            }
            facts.feed(&buffer[..read]);
        }
    }
}

impl Read for Payload<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.walk.payload(buffer)?;
        self.cut |= read == 0 && !buffer.is_empty() && self.walk.left() > 0;
        let name = self.name;
        self.searches().for_each(|search| search.feed(name, &buffer[..read]));
        Ok(read)
    }
}

/// Whether these bytes begin a tar. Extension headers, and headers older than ustar, are headers like any other.
fn begins_a_tar(first: &[u8], compression: Option<Compression>) -> Nested {
    let within = compression.map_or_else(String::new, |compression| format!(" within {compression}"));
    let Some(block) = first.first_chunk::<BLOCK>() else {
        return Nested::Other(format!("{} bytes{within}, shorter than a tar", first.len()));
    };
    if *block == [0; BLOCK] {
        return Nested::Tar(compression);
    }
    match Header::parse(block) {
        Ok(_) => Nested::Tar(compression),
        Err(error) => Nested::Other(format!("no tar{within}: {error}")),
    }
}
