//! One checkpoint, from the job to the archive.
//!
//! ```text
//! create the temporary; prescan
//! phase freeze    all threads are stopped
//! phase capture   registers, fds and other state that needs stopped threads are read;
//!                 a snapshot of every process is forked meanwhile
//! phase write     memory that fork does not preserve --> archive
//!                 thaw
//!                 the page maps of the snapshots determine all sizes
//!                 images, and the pages of the snapshots --> archive; the snapshots are killed
//!                 documents, log, statistics          (delay model: write)
//! phase finish    rename
//! ```
//!
//! If no snapshot is made (`--freeze full`, a delay model in the freeze, [`SnapshotRefused`]), images and all pages are
//! written before the thaw. The checkpoint can fail at each line: the caller cancels, the deadline passes, the disk is
//! full, a process exits. Then the container is thawed, the temporary is removed and no file is at the location.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::Instant,
};

use cri_proto::document::ROOTFS_DIFF;

use super::{
    Defect, DelayPhase, Failure, Freeze, Host, Job, Phase, Report,
    archive::Archive,
    archive_writer::{ArchiveWriter, DumpOutcome},
    cancel::CancelToken,
    cgroup_freezer,
    dump::{self, StateSource},
    dump_log::DumpLog,
    error::Error,
    fault::{self, PendingFaults},
    freeze::FrozenContainer,
    pages::PageTimes,
    snapshot::{Prescan, SnapshotBuilder, SnapshotRefused},
    stats,
};
use crate::process::{affinity::AvoidCpuGuard, proc_files, pstree};

/// Checkpoints a container. Blocks the calling thread until the checkpoint is done.
///
/// The work is done in a thread that exits with the call, so that the kernel detaches every thread that the engine
/// could not detach.
///
/// # Errors
///
/// The container keeps running and no file is left at the location, unless a fault of the job says otherwise.
pub fn run(job: &Job, host: &dyn Host) -> Result<Report, Failure> {
    check_supported().map_err(Failure::from)?;
    let result = thread::scope(|scope| {
        let tracer = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn_scoped(scope, || checkpoint(job, host))
            .map_err(Error::SpawnTracer)?;
        tracer.join().unwrap_or(Err(Error::TracerPanicked))
    });
    Ok(result?)
}

/// Checks that checkpoints support this architecture and page size.
fn check_supported() -> Result<(), Error> {
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Err(Error::UnsupportedArch);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(4096)) | Ok(None) | Err(_) => Ok(()),
        Ok(Some(other)) => Err(Error::UnsupportedPageSize(other)),
    }
}

fn checkpoint(job: &Job, host: &dyn Host) -> Result<Report, Error> {
    let cancel = CancelToken::new(host, job.deadline);
    let log = DumpLog::new(cancel.started());
    let mut faults = PendingFaults::new(job.injections.clone());
    let mut archive = match Archive::create(&job.temporary, &job.location) {
        Ok(archive) => archive,
        Err(error) => {
            fault::apply_side_effects(job, host, None, Some(&error), cancel.started().elapsed());
            return Err(error);
        }
    };
    let result = run_phases(job, host, &mut archive, &cancel, &mut faults, log);
    let elapsed = cancel.started().elapsed();
    fault::apply_side_effects(job, host, Some(&mut archive), result.as_ref().err(), elapsed);
    result
}

fn run_phases(
    job: &Job,
    host: &dyn Host,
    archive: &mut Archive,
    cancel: &CancelToken<'_>,
    faults: &mut PendingFaults,
    mut log: DumpLog,
) -> Result<Report, Error> {
    if faults.has_defect(Defect::IgnoreNoSpace) {
        archive.ignore_no_space();
    }
    let omitted = dump::OmittedTasks {
        all_but_init: faults.has_defect(Defect::InitProcessOnly),
        last_threads: faults.has_defect(Defect::OmitThread),
    };
    let late_log = faults.has_defect(Defect::CopyLogLate);
    let mut begin_phase = |phase, archive: &mut Archive| {
        host.on_phase(phase);
        cancel.check()?;
        faults.begin_phase(phase, archive, host, cancel)?;
        Ok::<_, Error>(faults.leave_frozen)
    };

    let leave_stopped = begin_phase(Phase::Freeze, archive)?;
    cgroup_freezer::refuse_frozen(&host.members().map_err(Error::ListMembers)?)?;
    let dumper = dump::DumperContext::read(pstree::live_thread(job.init.pid));
    let prescan = collect_prescan(job, host)?;
    log.info(format_args!("prescan done"));
    // The processes execute the parasite query while this thread reads the rest, so this thread leaves the CPU of init.
    let avoid_cpu = AvoidCpuGuard::of_task(job.init.pid);
    let mut frozen = FrozenContainer::freeze(host, cancel, job.freeze_timeout, &mut log)
        .map_err(|error| frozen_cgroup_error(host, error))?;
    frozen.leave_stopped(leave_stopped);
    frozen.leave_stopped(begin_phase(Phase::Capture, archive)?);
    let frozen_scan = dump::scan_frozen(&frozen, job.init, omitted, prescan.as_ref().ok(), cancel, &mut log)?;
    let builder = SnapshotBuilder::begin(host, &frozen, &frozen_scan, prescan, job.freeze_timeout, &mut log)?;
    let mut frozen_dump = frozen_scan.read(job.init, &dumper, cancel, &mut log)?;
    log.info(format_args!("collected the frozen state"));
    let (query_results, snapshots) = builder.finish(&mut log)?;
    frozen_dump.merge_query_results(&query_results);
    if snapshots.is_err() {
        frozen_dump.query_fork_states(&mut log)?;
    }
    let mut container_log = ContainerLog::open(job.log.as_deref(), &mut log);
    check_strict(job, &log)?;

    frozen.leave_stopped(begin_phase(Phase::Write, archive)?);
    if !job.injections.is_empty() {
        frozen.check_alive()?;
    }
    let delay_until = job.delay.as_ref().map(|delay| {
        let memory = delay.counted_memory(|| resident_bytes(&frozen), || proportional_bytes(&frozen));
        (delay.phase, cancel.started().checked_add(delay.duration(memory)))
    });
    let freezing_time = frozen.freezing_time();
    let mut writer = ArchiveWriter {
        archive,
        zeroed: fault::zeroed_regions(job, &frozen),
        cancel,
    };
    let outcome = match snapshots {
        Ok(snapshots) => writer.dump_snapshots((frozen, avoid_cpu), frozen_dump, snapshots, &mut log)?,
        Err(refused) => {
            // A full freeze takes long, so all CPUs may be used to read memory.
            drop(avoid_cpu);
            log.info(format_args!("full freeze: {refused}"));
            let (times, image_set) = match fault::images_source(job) {
                Some(earlier_archive) => {
                    writer.copy_earlier_images(earlier_archive)?;
                    let image_set = frozen_dump.finish(StateSource::Originals, cancel, &mut log)?;
                    (PageTimes::default(), image_set)
                }
                None => writer.dump_originals(frozen_dump, &mut log)?,
            };
            if let Some((DelayPhase::Freeze, until)) = delay_until {
                wait_for_delay(cancel, until)?;
            }
            let all_stopped_at = frozen.all_stopped_at();
            let frozen_total = frozen.thaw();
            DumpOutcome {
                image_set,
                times,
                frozen_time: all_stopped_at.elapsed(),
                frozen_total,
                used_snapshot: false,
            }
        }
    };
    let image_set = &outcome.image_set;
    if late_log {
        cancel.wait_until(Instant::now() + fault::LATE_LOG_DELAY)?;
        container_log = ContainerLog::open(job.log.as_deref(), &mut log);
    }
    log.info(format_args!("resumed after {:?}", outcome.frozen_total));

    for document in &job.documents {
        archive.add_member(&document.name, document.content.as_bytes())?;
    }
    container_log.write(job.layout.log_member(), archive, cancel, &mut log)?;
    // The processes run on the host's root filesystem, so no file of it belongs to the container.
    if job.layout.has_empty_diff() {
        archive.add_member(ROOTFS_DIFF, &[0; 1024])?;
    }
    let stats = stats::DumpTimes {
        freezing_time,
        frozen_time: outcome.frozen_time,
        memdump_time: outcome.times.read_time,
        memwrite_time: outcome.times.write_time,
    };
    archive.add_member("stats-dump", &stats.encode(image_set))?;
    if let Some((DelayPhase::Write, until)) = delay_until {
        wait_for_delay(cancel, until)?;
    }
    log.info(format_args!("wrote {} pages", image_set.pages()));
    check_strict(job, &log)?;
    archive.add_member("dump.log", log.into_text().as_bytes())?;
    archive.end_archive()?;

    if begin_phase(Phase::Finish, archive)? && !already_left_frozen(&job.injections) {
        // The container is already thawed, so SIGSTOP is sent to running processes.
        for member in host.members().map_err(Error::ListMembers)? {
            fault::signal_process(member, libc::SIGSTOP);
        }
    }
    let should_persist = faults.apply_to_archive(archive)?;
    cancel.check()?;
    let archive_bytes = match should_persist {
        true => archive.persist(&job.location, job.fsync)?,
        false => 0,
    };
    if let Some(percent) = faults.partial_percent() {
        return Err(Error::PartialArchive {
            percent,
            path: job.location.clone(),
        });
    }
    Ok(Report {
        processes: image_set.processes,
        threads: image_set.threads,
        archive_bytes,
        pages: image_set.pages(),
        frozen_time: outcome.frozen_total,
        used_snapshot: outcome.used_snapshot,
        total_time: cancel.started().elapsed(),
    })
}

/// Prefers a frozen cgroup as the cause if a thread did not stop.
fn frozen_cgroup_error(host: &dyn Host, error: Error) -> Error {
    let Error::Freeze { .. } = error else { return error };
    let members = host.members().unwrap_or_default();
    cgroup_freezer::refuse_frozen(&members).err().unwrap_or(error)
}

/// Fails if the job is strict and state is unsupported.
fn check_strict(job: &Job, log: &DumpLog) -> Result<(), Error> {
    match log.unsupported_summary().filter(|_| job.strict) {
        Some(summary) => Err(Error::UnsupportedState(summary)),
        None => Ok(()),
    }
}

/// Whether a fault of an earlier phase left the container stopped at the thaw.
fn already_left_frozen(injections: &[super::Injection]) -> bool {
    injections
        .iter()
        .any(|injection| injection.effect == super::InjectedEffect::LeaveFrozen && injection.phase < Phase::Finish)
}

/// Prescans a container for snapshots. The inner error says why no snapshot must be made.
fn collect_prescan(job: &Job, host: &dyn Host) -> Result<Result<Prescan, SnapshotRefused>, Error> {
    if job.freeze == Freeze::Full {
        return Ok(Err(SnapshotRefused::DisabledByFlag));
    }
    let freezes = |delay: &super::Delay| delay.phase == DelayPhase::Freeze;
    if job.delay.as_ref().is_some_and(freezes) || fault::images_source(job).is_some() {
        return Ok(Err(SnapshotRefused::FaultOrDelay));
    }
    Ok(Prescan::collect(host)?.map_err(SnapshotRefused::from))
}

/// Waits until `until`, or until cancellation if the time is too long for the clock (`None`).
fn wait_for_delay(cancel: &CancelToken<'_>, until: Option<Instant>) -> Result<(), Error> {
    match until {
        Some(until) => cancel.wait_until(until),
        None => Err(cancel.block_until_cancelled()),
    }
}

/// The resident memory of all processes, in bytes.
fn resident_bytes(frozen: &FrozenContainer<'_>) -> u64 {
    sum_over_processes(frozen, |tid| {
        let status = proc_files::status(tid).ok()?;
        Some(status.vmrss.unwrap_or(0) * 1024)
    })
}

/// The proportional set size of all processes, in bytes.
fn proportional_bytes(frozen: &FrozenContainer<'_>) -> u64 {
    sum_over_processes(frozen, proc_files::pss_bytes)
}

fn sum_over_processes(frozen: &FrozenContainer<'_>, bytes: impl Fn(i32) -> Option<u64>) -> u64 {
    frozen
        .processes()
        .filter_map(|process| bytes(process.proc_tid()?))
        .sum()
}

/// The container's log, opened during the freeze, so that a later rotation has no effect.
struct ContainerLog(Option<(File, u64)>);

impl ContainerLog {
    /// Opens the log and records its size. If the log cannot be opened, the checkpoint continues and `dump.log` reports
    /// it.
    fn open(path: Option<&Path>, log: &mut DumpLog) -> Self {
        let Some(path) = path else {
            return Self(None);
        };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
            .and_then(|file| {
                let metadata = file.metadata()?;
                match metadata.is_file() {
                    true => Ok((file, metadata.len())),
                    false => Err(std::io::Error::other("not a regular file")),
                }
            });
        match opened {
            Ok(opened) => Self(Some(opened)),
            Err(error) => {
                log.unsupported(format_args!("the container's log {}: {error}", path.display()));
                Self(None)
            }
        }
    }

    /// Writes the log up to its size at the freeze.
    fn write(
        &mut self,
        name: &str,
        archive: &mut Archive,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<(), Error> {
        let Some((file, size)) = &mut self.0 else {
            return archive.add_member(name, &[]);
        };
        if archive.begin_member(name, *size)? {
            let missing_bytes = archive.copy_from(file, cancel)?;
            if missing_bytes > 0 {
                log.unsupported(format_args!(
                    "{missing_bytes} bytes of the container's log, which was truncated meanwhile"
                ));
            }
            archive.end_member()?;
        }
        Ok(())
    }
}
