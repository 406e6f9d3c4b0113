//! Images and pages into the archive, from processes that stand still or from their copies.

use std::{collections::HashMap, fs::File, io::Read as _, path::Path, slice, time::Duration};

use super::{
    archive::Archive,
    capture::{Capture, Eyes, Image, Space, Standing},
    error::Error,
    fault::Blanks,
    freeze::Frozen,
    log::DumpLog,
    pages::{self, PagesFile, Part, Source, Times},
    pour,
    twin::Twins,
    watch::Watch,
};
use crate::process::{memory::Memory, processor::Aside};

/// The folder of the images in the archive.
const IMAGES: &str = "checkpoint/";

/// Where to write, and what is to be looked at meanwhile.
pub(crate) struct Write<'a> {
    pub(crate) archive: &'a mut Archive,
    pub(crate) blanks: Blanks,
    pub(crate) watch: &'a Watch<'a>,
}

/// What it took to write the memory.
#[derive(Debug)]
pub(crate) struct Moved {
    /// What was written.
    pub(crate) capture: Capture,
    /// Moving pages.
    pub(crate) times: Times,
    /// How long all stood still, and single threads once more.
    pub(crate) frozen_time: Duration,
    /// The same from the first thread asked.
    pub(crate) frozen_for: Duration,
    /// Whether copies were read.
    pub(crate) copied: bool,
}

impl Write<'_> {
    /// Writes everything from processes that stand still.
    pub(crate) fn read_originals(&mut self, standing: Standing, log: &mut DumpLog) -> Result<(Times, Capture), Error> {
        self.archive.directory(IMAGES)?;
        let capture = standing.finish(Eyes::Originals, self.watch, log)?;
        self.images(&capture)?;
        let parts = self.reserve(&capture.pages)?;
        let times = self.pages(&parts, Source::Originals, log)?;
        for foreseen in &capture.foreseen {
            self.image(&foreseen.image())?;
        }
        Ok((times, capture))
    }

    /// Writes or keeps what copies do not hold, lets the originals run on, writes the rest from the copies and removes them.
    pub(crate) fn read_copies(
        &mut self,
        (frozen, aside): (Frozen<'_>, Option<Aside>),
        standing: Standing,
        mut twins: Twins<'_>,
        log: &mut DumpLog,
    ) -> Result<Moved, Error> {
        log.info(format_args!("made copies"));
        self.archive.directory(IMAGES)?;
        let shared = self.reserve(standing.shared_pages())?;
        let mut times = self.pages(&shared, Source::Originals, log)?;
        drop(shared);
        let unforked = standing
            .spaces()
            .map(|space| Ok((space.window, keep(space, log)?)))
            .collect::<Result<HashMap<_, _>, Error>>()?;
        let still_at = frozen.still_at();
        let frozen_for = frozen.thaw();
        let frozen_time = still_at.elapsed();
        drop(aside);
        twins.originals_run();
        log.info(format_args!("runs on after {frozen_for:?}, its copies are read"));

        let mut capture = standing.finish(Eyes::Copies(&twins), self.watch, log)?;
        log.info(format_args!("read what copies tell"));
        let foreseen = std::mem::take(&mut capture.foreseen);
        self.images(&capture)?;
        let private: Vec<_> = capture.pages.iter().filter(|file| !file.shared).collect();
        let mut parts = self.reserve(private)?;
        if self.blanks.is_empty() {
            for foreseen in &foreseen {
                times += pour::pour(&mut parts, foreseen, &twins, self.archive, self.watch, log)?;
                twins.settle(foreseen.window);
            }
        }
        times += self.pages(&parts, Source::Copies(&twins), log)?;
        log.info(format_args!(
            "moved the pages: read for {:?}, written for {:?}",
            times.reading, times.writing
        ));
        for foreseen in foreseen {
            self.watch.check()?;
            let copy = twins.of(foreseen.window).ok_or(Error::Ended { pid: foreseen.pid })?;
            let of_process = |part: &&Part<'_>| part.file.runs.first().is_some_and(|run| run.window == foreseen.window);
            let held = parts.iter().find(of_process).map_or(&[][..], |part| &part.file.runs);
            twins.empty(foreseen.window, foreseen.emptied(), held.iter().map(|run| &run.range));
            self.image(&foreseen.looked_at(copy, log)?)?;
        }
        log.info(format_args!("looked at the flags of mappings"));
        let again = twins.end(log);
        log.info(format_args!("removed the copies, stood {again:?} for it"));
        self.kept(&parts, unforked)?;
        Ok(Moved {
            capture,
            times,
            frozen_time: frozen_time + again,
            frozen_for: frozen_for + again,
            copied: true,
        })
    }

    /// A fault: writes the images of an archive that was made before.
    pub(crate) fn earlier_images(&mut self, earlier: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write {
            what: "read",
            path: earlier.to_owned(),
            source,
        };
        let mut before = tar::Archive::new(File::open(earlier).map_err(failed)?);
        for member in before.entries().map_err(failed)? {
            let mut member = member.map_err(failed)?;
            let name = member.path().map_err(failed)?.to_string_lossy().into_owned();
            if !name.starts_with(IMAGES) {
                continue;
            }
            if name.ends_with('/') {
                self.archive.directory(&name)?;
            } else {
                let mut content = Vec::new();
                member.read_to_end(&mut content).map_err(failed)?;
                self.archive.member(&name, &content)?;
            }
        }
        Ok(())
    }

    /// Writes the images.
    fn images(&mut self, capture: &Capture) -> Result<(), Error> {
        let descriptors = capture.descriptors.to_string();
        self.archive
            .member(&format!("{IMAGES}descriptors.json"), descriptors.as_bytes())?;
        capture.images.iter().try_for_each(|image| self.image(image))
    }

    fn image(&mut self, image: &Image) -> Result<(), Error> {
        self.archive.member(&format!("{IMAGES}{}", image.name), &image.bytes)
    }

    /// Reserves the places of pages files.
    fn reserve<'f>(&mut self, files: impl IntoIterator<Item = &'f PagesFile>) -> Result<Vec<Part<'f>>, Error> {
        let mut parts = Vec::new();
        for file in files {
            let name = format!("{IMAGES}{}", file.name);
            if let Some(slab) = self.archive.reserve(&name, file.bytes())? {
                let poured = Vec::new();
                parts.push(Part { file, slab, poured });
            }
        }
        Ok(parts)
    }

    fn pages(&self, parts: &[Part<'_>], from: Source<'_>, log: &mut DumpLog) -> Result<Times, Error> {
        pages::write(parts, from, self.archive, &self.blanks, self.watch, log)
    }

    /// Writes what was kept of the processes, by the thread that each is seen through, to where their copies left room for it.
    /// A pages file may have no place in the archive, by a fault.
    fn kept(&self, parts: &[Part<'_>], mut unforked: HashMap<i32, Vec<u8>>) -> Result<(), Error> {
        for part in parts {
            let Some(first) = part.file.runs.first() else { continue };
            let mut kept = unforked.remove(&first.window).unwrap_or_default();
            let (mut offset, mut rest) = (0, kept.as_mut_slice());
            for run in &part.file.runs {
                let length = run.range.end - run.range.start;
                if run.early {
                    let (bytes, behind) = rest.split_at_mut(length as usize);
                    self.blanks.blank(run.window, false, slice::from_ref(&run.range), bytes);
                    self.archive.fill(part.slab, offset, bytes)?;
                    rest = behind;
                }
                offset += length;
            }
        }
        Ok(())
    }
}

/// The private memory of a process that a fork does not carry.
fn keep(space: &Space, log: &mut DumpLog) -> Result<Vec<u8>, Error> {
    let pid = space.process.pid;
    let ranges: Vec<_> = space.unforked().iter().map(|run| run.range.clone()).collect();
    let mut bytes = vec![0; ranges.iter().map(|range| (range.end - range.start) as usize).sum()];
    Memory::of(space.window)
        .read(&ranges, &mut bytes, |address| {
            log.lost(format_args!(
                "pid {pid}: the page at {address:#x} cannot be read and is zero here"
            ));
        })
        .map_err(|error| Error::capture(pid, "memory", error))?;
    Ok(bytes)
}
