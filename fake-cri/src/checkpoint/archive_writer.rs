//! Writes images and pages into the archive.

use std::time::Duration;

use cri_proto::criu::IMAGE_DIR;

use super::{
    archive::Archive,
    cancel::CancelToken,
    dump::{CriuImage, FrozenDump, ImageSet},
    dump_log::DumpLog,
    error::Error,
    pages::{self, PageTimes, PagesFile, ReservedPages},
    snapshot::MemorySource,
};

/// Writes one dump into an archive.
pub(crate) struct ArchiveWriter<'a> {
    pub(crate) archive: &'a mut Archive,
    pub(crate) cancel: &'a CancelToken<'a>,
}

/// The result of a dump.
#[derive(Debug)]
pub(crate) struct DumpOutcome {
    pub(crate) image_set: ImageSet,
    /// The time for reading and writing pages.
    pub(crate) times: PageTimes,
    /// From the last stop to the thaw, plus the stops to reap snapshots.
    pub(crate) frozen_time: Duration,
    /// The same, from the first interrupt.
    pub(crate) frozen_total: Duration,
    /// Whether snapshots were dumped.
    pub(crate) used_snapshot: bool,
}

impl ArchiveWriter<'_> {
    /// Dumps everything from the frozen processes.
    pub(crate) fn dump_originals(
        &mut self,
        frozen_dump: FrozenDump,
        log: &mut DumpLog,
    ) -> Result<(PageTimes, ImageSet), Error> {
        self.begin_images()?;
        let image_set = frozen_dump.finish(MemorySource::Originals, self.cancel, log)?;
        self.write_images(&image_set)?;
        let parts = self.reserve_pages_files(&image_set.pages)?;
        let times = self.write_pages(&parts, MemorySource::Originals, log)?;
        for deferred_mm in &image_set.deferred_mms {
            self.write_image(&deferred_mm.image())?;
        }
        Ok((times, image_set))
    }

    /// Writes the directory of the images.
    pub(crate) fn begin_images(&mut self) -> Result<(), Error> {
        self.archive.add_directory(IMAGE_DIR)
    }

    pub(crate) fn write_images(&mut self, image_set: &ImageSet) -> Result<(), Error> {
        let descriptors = image_set.descriptors.to_string();
        self.archive
            .add_member(&format!("{IMAGE_DIR}descriptors.json"), descriptors.as_bytes())?;
        image_set.images.iter().try_for_each(|image| self.write_image(image))
    }

    pub(crate) fn write_image(&mut self, image: &CriuImage) -> Result<(), Error> {
        self.archive
            .add_member(&format!("{IMAGE_DIR}{}", image.name), &image.bytes)
    }

    /// Reserves members for pages files.
    pub(crate) fn reserve_pages_files<'f>(
        &mut self,
        files: impl IntoIterator<Item = &'f PagesFile>,
    ) -> Result<Vec<ReservedPages<'f>>, Error> {
        let mut parts = Vec::new();
        for file in files {
            let name = format!("{IMAGE_DIR}{}", file.name);
            parts.push(ReservedPages {
                file,
                reserved: self.archive.reserve_member(&name, file.bytes())?,
                spliced: Vec::new(),
            });
        }
        Ok(parts)
    }

    pub(crate) fn write_pages(
        &self,
        parts: &[ReservedPages<'_>],
        from: MemorySource<'_>,
        log: &mut DumpLog,
    ) -> Result<PageTimes, Error> {
        pages::copy_pages(parts, from, self.archive, self.cancel, log)
    }
}
