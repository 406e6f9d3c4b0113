//! The content of one member, searched as it is read.

use std::io::{self, Read};

use super::{documents, log::LogFacts, search::Search, walk::Walk};

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
