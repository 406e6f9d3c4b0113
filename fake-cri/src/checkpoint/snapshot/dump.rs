//! Dumps a container from its snapshots, after the thaw.

use std::collections::HashMap;

use super::{MemorySource, SnapshotSet, page_pipe::splice_pages};
use crate::{
    checkpoint::{
        archive::Archive,
        archive_writer::{ArchiveWriter, DumpOutcome},
        dump::{FrozenDump, Mm},
        dump_log::DumpLog,
        error::Error,
        freeze::FrozenContainer,
        pages::ReservedPages,
    },
    process::{Tid, affinity::AvoidCpuGuard, memory::ProcMem},
};

/// Writes or keeps the memory that fork does not preserve, thaws the originals, dumps the rest from the snapshots
/// and kills the snapshots.
pub(crate) fn dump(
    writer: &mut ArchiveWriter<'_>,
    frozen: FrozenContainer<'_>,
    avoid_cpu: Option<AvoidCpuGuard>,
    frozen_dump: FrozenDump,
    mut snapshots: SnapshotSet<'_>,
    log: &mut DumpLog,
) -> Result<DumpOutcome, Error> {
    log.info(format_args!("forked snapshots"));
    writer.begin_images()?;
    let shared = writer.reserve_pages_files(frozen_dump.shmem_pages_files())?;
    let mut times = writer.write_pages(&shared, MemorySource::Originals, log)?;
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

    let mut image_set = frozen_dump.finish(MemorySource::Snapshots(&snapshots), writer.cancel, log)?;
    log.info(format_args!("queried snapshots"));
    let deferred_mms = std::mem::take(&mut image_set.deferred_mms);
    writer.write_images(&image_set)?;
    let private: Vec<_> = image_set.pages.iter().filter(|file| !file.shared).collect();
    let mut parts = writer.reserve_pages_files(private)?;
    for deferred_mm in &deferred_mms {
        times += splice_pages(&mut parts, deferred_mm, &snapshots, writer, log)?;
        snapshots.restore_rseq(deferred_mm.proc_tid);
    }
    times += writer.write_pages(&parts, MemorySource::Snapshots(&snapshots), log)?;
    log.info(format_args!(
        "copied pages: reading took {:?}, writing {:?}",
        times.read_time, times.write_time
    ));
    for deferred_mm in deferred_mms {
        writer.cancel.check()?;
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
        writer.write_image(&deferred_mm.verify(snapshot_pid, log)?)?;
    }
    log.info(format_args!("verified VmFlags"));
    let reap_stop = snapshots.finish(log);
    log.info(format_args!("removed snapshots, second stop took {reap_stop:?}"));
    write_not_forked(writer.archive, &parts, not_forked)?;
    Ok(DumpOutcome {
        image_set,
        times,
        frozen_time: frozen_time + reap_stop,
        frozen_total: frozen_total + reap_stop,
        used_snapshot: true,
    })
}

/// Writes the kept memory, by the `proc_tid` of its process, into the ranges that the snapshots left empty.
fn write_not_forked(
    archive: &Archive,
    parts: &[ReservedPages<'_>],
    mut not_forked: HashMap<Tid, Vec<u8>>,
) -> Result<(), Error> {
    for part in parts {
        let Some(first) = part.file.runs.first() else { continue };
        let kept_bytes = not_forked.remove(&first.proc_tid).unwrap_or_default();
        let (mut offset, mut rest) = (0, kept_bytes.as_slice());
        for run in &part.file.runs {
            if run.not_forked {
                let (bytes, behind) = rest.split_at(run.bytes() as usize);
                archive.write_at(part.reserved, offset, bytes)?;
                rest = behind;
            }
            offset += run.bytes();
        }
    }
    Ok(())
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
