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
//! full, a process exits. Then the container is thawed, the temporary is removed and no file is at the location. [`Hooks`] act between the steps.

use std::{thread, time::Instant};

use cri_proto::document::ROOTFS_DIFF;

use super::{
    DelayPhase, Failure, Hooks, Host, Job, Phase, Report,
    archive::Archive,
    archive_writer::{ArchiveWriter, DumpOutcome},
    cancel::CancelToken,
    cgroup_freezer,
    container_log::ContainerLog,
    dump::{self, DumperContext, FrozenDump},
    dump_log::DumpLog,
    error::Error,
    freeze::FrozenContainer,
    snapshot::{self, ForkOutcome, SnapshotBuilder, SnapshotPlan, SnapshotRefused, SnapshotSet},
    stats,
};
use crate::process::{affinity::AvoidCpuGuard, pstree};

/// Checkpoints a container. Blocks the calling thread until the checkpoint is done.
///
/// The work is done in a thread that exits with the call, so that the kernel detaches every thread that the engine
/// could not detach.
///
/// # Errors
///
/// The container keeps running and no file is left at the location, unless a hook acts otherwise.
pub fn run(job: &Job, host: &dyn Host, hooks: &dyn Hooks) -> Result<Report, Failure> {
    check_supported()?;
    thread::scope(|scope| {
        let tracer = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn_scoped(scope, || checkpoint(job, host, hooks))
            .map_err(Error::SpawnTracer)?;
        tracer.join().unwrap_or_else(|_| Err(Error::TracerPanicked.into()))
    })
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

fn checkpoint(job: &Job, host: &dyn Host, hooks: &dyn Hooks) -> Result<Report, Failure> {
    let cancel = CancelToken::new(host, job.deadline);
    // The archive lives until the hooks were called, so that its temporary still exists then.
    let (result, _archive) = match Archive::create(&job.temporary, &job.location, |file| hooks.sink(file)) {
        Ok(mut archive) => {
            let checkpoint = Checkpoint {
                job,
                host,
                hooks,
                cancel: &cancel,
                archive: &mut archive,
                log: DumpLog::new(cancel.started()),
            };
            (checkpoint.run().map_err(Failure::from), Some(archive))
        }
        Err(error) => (Err(Failure::from(error)), None),
    };
    hooks.after(job, host, result.as_ref().err(), cancel.started().elapsed());
    result
}

/// A checkpoint in progress.
struct Checkpoint<'a> {
    job: &'a Job,
    host: &'a dyn Host,
    hooks: &'a dyn Hooks,
    cancel: &'a CancelToken<'a>,
    archive: &'a mut Archive,
    log: DumpLog,
}

/// What the phase freeze leaves to the next phase.
struct Frozen<'a> {
    container: FrozenContainer<'a>,
    dumper: DumperContext,
    plan: SnapshotPlan,
    /// The processes execute the parasite query while this thread reads the rest, so this thread leaves the CPU of
    /// init.
    avoid_cpu: Option<AvoidCpuGuard>,
}

/// What the phase capture leaves to the next phase.
struct Captured<'a> {
    /// Before `container`, because fields drop in order: the originals must reap their snapshots while stopped.
    snapshots: Result<SnapshotSet<'a>, SnapshotRefused>,
    container: FrozenContainer<'a>,
    dump: FrozenDump,
    container_log: ContainerLog,
    avoid_cpu: Option<AvoidCpuGuard>,
}

impl<'a> Checkpoint<'a> {
    fn run(mut self) -> Result<Report, Error> {
        let frozen = self.freeze()?;
        let captured = self.capture(frozen)?;
        let outcome = self.write(captured)?;
        self.finish(&outcome)
    }

    fn begin_phase(&self, phase: Phase) -> Result<(), Error> {
        self.host.on_phase(phase);
        self.cancel.check()?;
        self.hooks.on_phase(phase, self.host, self.cancel).map_err(Error::Hook)
    }

    /// Stops all threads.
    fn freeze(&mut self) -> Result<Frozen<'a>, Error> {
        self.begin_phase(Phase::Freeze)?;
        cgroup_freezer::refuse_frozen(&self.host.members().map_err(Error::ListMembers)?)?;
        let init = self.job.init.pid;
        let dumper = DumperContext::read(pstree::live_thread(init));
        let plan = snapshot::plan(self.job, self.host)?;
        self.log.info(format_args!("prescan done"));
        let avoid_cpu = AvoidCpuGuard::of_task(init.main_thread());
        let bound = self.job.freeze_timeout;
        let container = FrozenContainer::freeze(self.host, self.hooks, self.cancel, bound, &mut self.log)
            .map_err(|error| frozen_cgroup_error(self.host, error))?;
        Ok(Frozen {
            container,
            dumper,
            plan,
            avoid_cpu,
        })
    }

    /// Reads the state that needs stopped threads, and forks snapshots meanwhile.
    fn capture(&mut self, frozen: Frozen<'a>) -> Result<Captured<'a>, Error> {
        self.begin_phase(Phase::Capture)?;
        let Frozen {
            container,
            dumper,
            plan,
            avoid_cpu,
        } = frozen;
        let (job, cancel, log) = (self.job, self.cancel, &mut self.log);
        let scan = dump::scan_frozen(&container, job.init, self.hooks, plan.prescan(), cancel, log)?;
        let builder = SnapshotBuilder::begin(self.host, &container, &scan, plan, job.freeze_timeout, log)?;
        let mut dump = scan.read(job.init, &dumper, cancel, log)?;
        log.info(format_args!("collected the frozen state"));
        let ForkOutcome {
            query_results,
            snapshots,
        } = builder.finish(log)?;
        dump.merge_query_results(&query_results);
        if snapshots.is_err() {
            dump.query_fork_states(log)?;
        }
        let container_log = ContainerLog::open(job.log.as_deref(), log);
        self.check_strict()?;
        Ok(Captured {
            container,
            dump,
            snapshots,
            container_log,
            avoid_cpu,
        })
    }

    /// Thaws the container and writes the archive.
    fn write(&mut self, captured: Captured<'_>) -> Result<DumpOutcome, Error> {
        self.begin_phase(Phase::Write)?;
        let Captured {
            container,
            dump,
            snapshots,
            container_log,
            avoid_cpu,
        } = captured;
        container.check_alive()?;
        let delay_end = |delay: &super::Delay| (delay.phase, delay.end(self.cancel.started(), &container));
        let delay_end = self.job.delay.as_ref().map(delay_end);
        let freezing_time = container.freezing_time();
        let outcome = match snapshots {
            Ok(snapshots) => {
                let mut writer = ArchiveWriter {
                    archive: self.archive,
                    cancel: self.cancel,
                };
                snapshot::dump(&mut writer, container, avoid_cpu, dump, snapshots, &mut self.log)?
            }
            Err(refused) => {
                // A full freeze takes long, so all CPUs may be used to read memory.
                drop(avoid_cpu);
                self.log.info(format_args!("full freeze: {refused}"));
                self.dump_originals(container, dump, delay_end)?
            }
        };
        self.log.info(format_args!("resumed after {:?}", outcome.frozen_total));
        self.write_documents(container_log)?;
        let stats = stats::DumpTimes {
            freezing_time,
            frozen_time: outcome.frozen_time,
            memdump_time: outcome.times.read_time,
            memwrite_time: outcome.times.write_time,
        };
        self.archive
            .add_member("stats-dump", &stats.encode(&outcome.image_set))?;
        if let Some((DelayPhase::Write, end)) = delay_end {
            self.cancel.wait_until(end)?;
        }
        self.log.info(format_args!("wrote {} pages", outcome.image_set.pages()));
        self.check_strict()?;
        self.archive.add_member("dump.log", self.log.text().as_bytes())?;
        self.archive.end_archive()?;
        Ok(outcome)
    }

    /// Writes images and all pages of the frozen container, and thaws it.
    fn dump_originals(
        &mut self,
        container: FrozenContainer<'_>,
        dump: FrozenDump,
        delay_end: Option<(DelayPhase, Option<Instant>)>,
    ) -> Result<DumpOutcome, Error> {
        let mut writer = ArchiveWriter {
            archive: self.archive,
            cancel: self.cancel,
        };
        let (times, image_set) = writer.dump_originals(dump, &mut self.log)?;
        if let Some((DelayPhase::Freeze, end)) = delay_end {
            self.cancel.wait_until(end)?;
        }
        let all_stopped_at = container.all_stopped_at();
        let frozen_total = container.thaw();
        Ok(DumpOutcome {
            image_set,
            times,
            frozen_time: all_stopped_at.elapsed(),
            frozen_total,
            used_snapshot: false,
        })
    }

    /// Writes the members that do not come from the processes.
    fn write_documents(&mut self, container_log: ContainerLog) -> Result<(), Error> {
        for document in &self.job.documents {
            self.archive.add_member(&document.name, document.content.as_bytes())?;
        }
        let layout = self.job.layout;
        container_log.write(layout.log_member(), self.archive, self.cancel, &mut self.log)?;
        // The processes run on the host's root filesystem, so no file of it belongs to the container.
        if layout.has_empty_diff() {
            self.archive.add_member(ROOTFS_DIFF, &[0; 1024])?;
        }
        Ok(())
    }

    /// Renames the archive to its location.
    fn finish(self, outcome: &DumpOutcome) -> Result<Report, Error> {
        self.begin_phase(Phase::Finish)?;
        let should_persist = self.hooks.before_persist(self.job, self.cancel).map_err(Error::Hook)?;
        self.cancel.check()?;
        let archive_bytes = if should_persist {
            self.archive.persist(&self.job.location, self.job.fsync)?
        } else {
            0
        };
        Ok(Report {
            processes: outcome.image_set.processes,
            threads: outcome.image_set.threads,
            archive_bytes,
            pages: outcome.image_set.pages(),
            frozen_time: outcome.frozen_total,
            used_snapshot: outcome.used_snapshot,
            total_time: self.cancel.started().elapsed(),
        })
    }

    /// Fails if the job is strict and state is unsupported.
    fn check_strict(&self) -> Result<(), Error> {
        match self.log.unsupported_summary().filter(|_| self.job.strict) {
            Some(summary) => Err(Error::UnsupportedState(summary)),
            None => Ok(()),
        }
    }
}

/// Prefers a frozen cgroup as the cause if a thread did not stop.
fn frozen_cgroup_error(host: &dyn Host, error: Error) -> Error {
    let Error::Freeze { .. } = error else { return error };
    let members = host.members().unwrap_or_default();
    cgroup_freezer::refuse_frozen(&members).err().unwrap_or(error)
}
