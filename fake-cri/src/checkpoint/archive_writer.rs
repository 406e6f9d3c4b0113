//! Writes images and pages into the archive, from frozen processes or from their snapshots.

use std::{collections::HashMap, fs::File, io::Read as _, path::Path, slice, time::Duration};

use cri_proto::criu::IMAGE_DIR;

use super::{
    archive::Archive,
    cancel::CancelToken,
    dump::{CriuImage, FrozenDump, ImageSet, Mm, StateSource},
    dump_log::DumpLog,
    error::Error,
    fault::ZeroedRegions,
    freeze::FrozenContainer,
    pages::{self, PageSource, PageTimes, PagesFile, ReservedPages},
    snapshot::{self, SnapshotSet},
};
use crate::process::{affinity::AvoidCpuGuard, memory::ProcMem};

/// Writes one dump into an archive.
pub(crate) struct ArchiveWriter<'a> {
    pub(crate) archive: &'a mut Archive,
    pub(crate) zeroed: ZeroedRegions,
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
        self.archive.add_directory(IMAGE_DIR)?;
        let image_set = frozen_dump.finish(StateSource::Originals, self.cancel, log)?;
        self.write_images(&image_set)?;
        let parts = self.reserve_pages_files(&image_set.pages)?;
        let times = self.write_pages(&parts, PageSource::Originals, log)?;
        for deferred_mm in &image_set.deferred_mms {
            self.write_image(&deferred_mm.image())?;
        }
        Ok((times, image_set))
    }

    /// Writes or keeps the memory that fork does not preserve, thaws the originals, dumps the rest from the snapshots
    /// and kills the snapshots.
    pub(crate) fn dump_snapshots(
        &mut self,
        (frozen, avoid_cpu): (FrozenContainer<'_>, Option<AvoidCpuGuard>),
        frozen_dump: FrozenDump,
        mut snapshots: SnapshotSet<'_>,
        log: &mut DumpLog,
    ) -> Result<DumpOutcome, Error> {
        log.info(format_args!("forked snapshots"));
        self.archive.add_directory(IMAGE_DIR)?;
        let shared = self.reserve_pages_files(frozen_dump.shmem_pages_files())?;
        let mut times = self.write_pages(&shared, PageSource::Originals, log)?;
        drop(shared);
        let not_forked = frozen_dump
            .mms()
            .map(|mm| Ok((mm.proc_tid, read_not_forked(mm, log)?)))
            .collect::<Result<HashMap<_, _>, Error>>()?;
        let all_stopped_at = frozen.all_stopped_at();
        let frozen_total = frozen.thaw();
        let frozen_time = all_stopped_at.elapsed();
        drop(avoid_cpu);
        snapshots.set_originals_running();
        log.info(format_args!(
            "resumed after {frozen_total:?}, dumping memory from snapshots"
        ));

        let mut image_set = frozen_dump.finish(StateSource::Snapshots(&snapshots), self.cancel, log)?;
        log.info(format_args!("queried snapshots"));
        let deferred_mms = std::mem::take(&mut image_set.deferred_mms);
        self.write_images(&image_set)?;
        let private: Vec<_> = image_set.pages.iter().filter(|file| !file.shared).collect();
        let mut parts = self.reserve_pages_files(private)?;
        if self.zeroed.is_empty() {
            for deferred_mm in &deferred_mms {
                times += snapshot::splice_pages(&mut parts, deferred_mm, &snapshots, self.archive, self.cancel, log)?;
                snapshots.restore_rseq(deferred_mm.proc_tid);
            }
        }
        times += self.write_pages(&parts, PageSource::Snapshots(&snapshots), log)?;
        log.info(format_args!(
            "copied pages: reading took {:?}, writing {:?}",
            times.read_time, times.write_time
        ));
        for deferred_mm in deferred_mms {
            self.cancel.check()?;
            let snapshot_pid = snapshots
                .pid_of(deferred_mm.proc_tid)
                .ok_or(Error::TaskExited { pid: deferred_mm.pid })?;
            let is_of_process = |part: &&ReservedPages<'_>| {
                part.file
                    .runs
                    .first()
                    .is_some_and(|run| run.proc_tid == deferred_mm.proc_tid)
            };
            let present = parts.iter().find(is_of_process).map_or(&[][..], |part| &part.file.runs);
            snapshots.discard(
                deferred_mm.proc_tid,
                deferred_mm.discardable(),
                present.iter().map(|run| &run.range),
            );
            self.write_image(&deferred_mm.verify(snapshot_pid, log)?)?;
        }
        log.info(format_args!("verified VmFlags"));
        let reap_stop = snapshots.finish(log);
        log.info(format_args!("removed snapshots, second stop took {reap_stop:?}"));
        self.write_not_forked(&parts, not_forked)?;
        Ok(DumpOutcome {
            image_set,
            times,
            frozen_time: frozen_time + reap_stop,
            frozen_total: frozen_total + reap_stop,
            used_snapshot: true,
        })
    }

    /// A fault: writes the images of an earlier archive.
    pub(crate) fn copy_earlier_images(&mut self, earlier: &Path) -> Result<(), Error> {
        let read_error = |source| Error::Write {
            action: "read",
            path: earlier.to_owned(),
            source,
        };
        let mut earlier_archive = tar::Archive::new(File::open(earlier).map_err(read_error)?);
        for member in earlier_archive.entries().map_err(read_error)? {
            let mut member = member.map_err(read_error)?;
            let name = member.path().map_err(read_error)?.to_string_lossy().into_owned();
            if !name.starts_with(IMAGE_DIR) {
                continue;
            }
            if name.ends_with('/') {
                self.archive.add_directory(&name)?;
            } else {
                let mut content = Vec::new();
                member.read_to_end(&mut content).map_err(read_error)?;
                self.archive.add_member(&name, &content)?;
            }
        }
        Ok(())
    }

    fn write_images(&mut self, image_set: &ImageSet) -> Result<(), Error> {
        let descriptors = image_set.descriptors.to_string();
        self.archive
            .add_member(&format!("{IMAGE_DIR}descriptors.json"), descriptors.as_bytes())?;
        image_set.images.iter().try_for_each(|image| self.write_image(image))
    }

    fn write_image(&mut self, image: &CriuImage) -> Result<(), Error> {
        self.archive
            .add_member(&format!("{IMAGE_DIR}{}", image.name), &image.bytes)
    }

    /// Reserves members for pages files.
    fn reserve_pages_files<'f>(
        &mut self,
        files: impl IntoIterator<Item = &'f PagesFile>,
    ) -> Result<Vec<ReservedPages<'f>>, Error> {
        let mut parts = Vec::new();
        for file in files {
            let name = format!("{IMAGE_DIR}{}", file.name);
            if let Some(reserved) = self.archive.reserve_member(&name, file.bytes())? {
                let spliced = Vec::new();
                parts.push(ReservedPages {
                    file,
                    reserved,
                    spliced,
                });
            }
        }
        Ok(parts)
    }

    fn write_pages(
        &self,
        parts: &[ReservedPages<'_>],
        from: PageSource<'_>,
        log: &mut DumpLog,
    ) -> Result<PageTimes, Error> {
        pages::copy_pages(parts, from, self.archive, &self.zeroed, self.cancel, log)
    }

    /// Writes the kept memory, by the `proc_tid` of its process, into the ranges that the snapshots left empty. A fault
    /// may omit a pages file.
    fn write_not_forked(
        &self,
        parts: &[ReservedPages<'_>],
        mut not_forked: HashMap<i32, Vec<u8>>,
    ) -> Result<(), Error> {
        for part in parts {
            let Some(first) = part.file.runs.first() else { continue };
            let mut kept_bytes = not_forked.remove(&first.proc_tid).unwrap_or_default();
            let (mut offset, mut rest) = (0, kept_bytes.as_mut_slice());
            for run in &part.file.runs {
                let length = run.range.end - run.range.start;
                if run.not_forked {
                    let (bytes, behind) = rest.split_at_mut(length as usize);
                    self.zeroed
                        .zero(run.proc_tid, false, slice::from_ref(&run.range), bytes);
                    self.archive.write_at(part.reserved, offset, bytes)?;
                    rest = behind;
                }
                offset += length;
            }
        }
        Ok(())
    }
}

/// The private memory of a process that fork does not preserve.
fn read_not_forked(mm: &Mm, log: &mut DumpLog) -> Result<Vec<u8>, Error> {
    let pid = mm.process.pid;
    let ranges: Vec<_> = mm.not_forked_runs().iter().map(|run| run.range.clone()).collect();
    let mut bytes = vec![0; ranges.iter().map(|range| (range.end - range.start) as usize).sum()];
    ProcMem::new(mm.proc_tid)
        .read(&ranges, &mut bytes, |address| {
            log.unsupported(format_args!(
                "pid {pid}: the page at {address:#x} cannot be read and is zero in the archive"
            ));
        })
        .map_err(|error| Error::capture(pid, "memory", error))?;
    Ok(bytes)
}
