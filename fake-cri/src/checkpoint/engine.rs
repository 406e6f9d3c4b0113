//! One checkpoint from its job to its archive.
//!
//! ```text
//!  create the temporary; look at what takes long
//!  phase freeze    all threads stand still
//!  phase capture   registers, descriptors, and what else only those who stand can tell, are read;
//!                  every process is copied meanwhile, as by a fork
//!  phase write     what a copy does not hold --> archive
//!                  thaw
//!                  the copies' page maps give every size
//!                  images, and the copies' pages --> archive; the copies are removed
//!                  documents, log, statistics          (delay model: write)
//!  phase finish    rename
//! ```
//!
//! Where nothing is copied (`--freeze whole`, a delay model in the freeze, [`Unfit`]), images and all pages go to the
//! archive before the thaw. Each line may be the last: the caller gives up, the deadline passes, the disk is full, a process
//! dies. Then everything is let go, the temporary is removed and nothing is at the location.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::Instant,
};

use cri_proto::document::ROOTFS_DIFF;

use super::{
    DelayIn, Failure, Freeze, Host, Job, Phase, Quirk, Report,
    archive::Archive,
    capture::{self, Eyes},
    copying::{Copying, Unfit},
    error::Error,
    fault::{self, Faults},
    freeze::Frozen,
    freezer,
    log::DumpLog,
    outlook::Outlook,
    pages::Times,
    stats,
    watch::Watch,
    write::{Moved, Write},
};
use crate::process::{family, proc, processor::Aside};

/// Checkpoints a container. Blocks until it is done; the caller must be a thread that may.
///
/// The work is done in a thread that ends with the call, so that the kernel lets go of whatever the engine could not.
///
/// # Errors
///
/// The container runs on and nothing is left at the location, unless a fault of the job says otherwise.
pub fn run(job: &Job, host: &dyn Host) -> Result<Report, Failure> {
    supported().map_err(Failure::from)?;
    let result = thread::scope(|scope| {
        let tracer = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn_scoped(scope, || checkpoint(job, host))
            .map_err(Error::Tracer)?;
        tracer.join().unwrap_or(Err(Error::Panicked))
    });
    Ok(result?)
}

/// Whether checkpoints are built for this machine.
fn supported() -> Result<(), Error> {
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Err(Error::Architecture);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(4096)) | Ok(None) | Err(_) => Ok(()),
        Ok(Some(other)) => Err(Error::PageSize(other)),
    }
}

fn checkpoint(job: &Job, host: &dyn Host) -> Result<Report, Error> {
    let watch = Watch::start(host, job.deadline);
    let log = DumpLog::new(watch.started());
    let mut faults = Faults::new(job.injections.clone());
    let mut archive = match Archive::create(&job.temporary, &job.location) {
        Ok(archive) => archive,
        Err(error) => {
            fault::afterwards(job, host, None, Some(&error), watch.started().elapsed());
            return Err(error);
        }
    };
    let result = fill(job, host, &mut archive, &watch, &mut faults, log);
    let took = watch.started().elapsed();
    fault::afterwards(job, host, Some(&mut archive), result.as_ref().err(), took);
    result
}

/// From the freeze to the rename.
fn fill(
    job: &Job,
    host: &dyn Host,
    archive: &mut Archive,
    watch: &Watch<'_>,
    faults: &mut Faults,
    mut log: DumpLog,
) -> Result<Report, Error> {
    if faults.has(Quirk::IgnoreNoSpace) {
        archive.ignore_no_space();
    }
    let shape = capture::Shape {
        first_process_alone: faults.has(Quirk::OnlyFirstProcess),
        without_last_threads: faults.has(Quirk::LoseThread),
    };
    let late_log = faults.has(Quirk::LateLog);
    let mut enter = |phase, archive: &mut Archive| {
        host.phase(phase);
        watch.check()?;
        faults.act(phase, archive, host, watch)?;
        Ok::<_, Error>(faults.leave_frozen)
    };

    let leave = enter(Phase::Freeze, archive)?;
    freezer::refuse_frozen(&host.members().map_err(Error::Members)?)?;
    let surroundings = capture::Surroundings::own(family::living_thread(job.init.pid));
    let outlook = outlook(job, host)?;
    log.info(format_args!("looked at what runs"));
    // What it is to be asked it answers while the rest is read.
    let aside = Aside::of(job.init.pid);
    let mut frozen =
        Frozen::freeze(host, watch, job.freeze_bound, &mut log).map_err(|error| named_freezer(host, error))?;
    frozen.leave_stopped(leave);
    frozen.leave_stopped(enter(Phase::Capture, archive)?);
    let found = capture::find(&frozen, job.init, shape, outlook.as_ref().ok(), watch, &mut log)?;
    let copying = Copying::begin(host, &frozen, &found, outlook, job.freeze_bound, &mut log)?;
    let mut standing = found.read(job.init, &surroundings, watch, &mut log)?;
    log.info(format_args!("read what stands"));
    let (answers, twins) = copying.end(&mut log)?;
    standing.told(&answers);
    if twins.is_err() {
        standing.ask_inherited(&mut log)?;
    }
    let mut container_log = ContainerLog::open(job.log.as_deref(), &mut log);
    all_carried(job, &log)?;

    frozen.leave_stopped(enter(Phase::Write, archive)?);
    if !job.injections.is_empty() {
        frozen.still_stands()?;
    }
    let until = job.delay.as_ref().map(|delay| {
        let memory = delay.counted_memory(|| resident(&frozen), || proportional(&frozen));
        (delay.within, watch.started().checked_add(delay.time(memory)))
    });
    let freezing_time = frozen.freezing_time();
    let mut write = Write {
        archive,
        blanks: fault::blanks(job, &frozen),
        watch,
    };
    let moved = match twins {
        Ok(twins) => write.read_copies((frozen, aside), standing, twins, &mut log)?,
        Err(unfit) => {
            // All processors may read what stands for so long.
            drop(aside);
            log.info(format_args!("stands still until all is read: {unfit}"));
            let (times, capture) = match fault::images_from(job) {
                Some(earlier) => {
                    write.earlier_images(earlier)?;
                    let capture = standing.finish(Eyes::Originals, watch, &mut log)?;
                    (Times::default(), capture)
                }
                None => write.read_originals(standing, &mut log)?,
            };
            if let Some((DelayIn::Freeze, until)) = until {
                wait(watch, until)?;
            }
            let still_at = frozen.still_at();
            let frozen_for = frozen.thaw();
            Moved {
                capture,
                times,
                frozen_time: still_at.elapsed(),
                frozen_for,
                copied: false,
            }
        }
    };
    let capture = &moved.capture;
    if late_log {
        watch.wait_until(Instant::now() + fault::LATE)?;
        container_log = ContainerLog::open(job.log.as_deref(), &mut log);
    }
    log.info(format_args!("let everything go after {:?}", moved.frozen_for));

    for document in &job.documents {
        archive.member(&document.name, document.content.as_bytes())?;
    }
    container_log.write(job.layout.log_member(), archive, watch, &mut log)?;
    // Nothing of the root filesystem is the container's own: its processes run on the host's.
    if job.layout.has_empty_diff() {
        archive.member(ROOTFS_DIFF, &[0; 1024])?;
    }
    let stats = stats::Times {
        freezing_time,
        frozen_time: moved.frozen_time,
        memdump_time: moved.times.reading,
        memwrite_time: moved.times.writing,
    };
    archive.member("stats-dump", &stats.encode(capture))?;
    if let Some((DelayIn::Write, until)) = until {
        wait(watch, until)?;
    }
    log.info(format_args!("wrote {} pages", capture.pages()));
    all_carried(job, &log)?;
    archive.member("dump.log", log.into_text().as_bytes())?;
    archive.finish()?;

    if enter(Phase::Finish, archive)? && !frozen_left(&job.injections) {
        // The thaw is over, so the stop is sent to those that run.
        for member in host.members().map_err(Error::Members)? {
            fault::signal(member, libc::SIGSTOP);
        }
    }
    let appears = faults.shape(archive)?;
    watch.check()?;
    let archive_bytes = match appears {
        true => archive.place(&job.location, job.fsync)?,
        false => 0,
    };
    if let Some(percent) = faults.partial() {
        return Err(Error::LeftPartial {
            percent,
            path: job.location.clone(),
        });
    }
    Ok(Report {
        processes: capture.processes,
        threads: capture.threads,
        archive_bytes,
        pages: capture.pages(),
        frozen: moved.frozen_for,
        copied: moved.copied,
        total: watch.started().elapsed(),
    })
}

/// A thread that did not stop because its cgroup was frozen meanwhile: the freezer is what is wrong.
fn named_freezer(host: &dyn Host, error: Error) -> Error {
    let Error::Freeze { .. } = error else { return error };
    let members = host.members().unwrap_or_default();
    freezer::refuse_frozen(&members).err().unwrap_or(error)
}

/// Fails when the job is strict and something was lost.
fn all_carried(job: &Job, log: &DumpLog) -> Result<(), Error> {
    match log.all_lost().filter(|_| job.strict) {
        Some(lost) => Err(Error::NotCarried(lost)),
        None => Ok(()),
    }
}

/// Whether a fault of an earlier phase already left the container frozen at the thaw.
fn frozen_left(injections: &[super::Injection]) -> bool {
    injections
        .iter()
        .any(|injection| injection.effect == super::Effect::LeaveFrozen && injection.phase < Phase::Finish)
}

/// Looks at a container that shall be copied; the inner error says why it shall not.
fn outlook(job: &Job, host: &dyn Host) -> Result<Result<Outlook, Unfit>, Error> {
    if job.freeze == Freeze::Whole {
        return Ok(Err(Unfit::Asked));
    }
    let stands = |delay: &super::Delay| delay.within == DelayIn::Freeze;
    if job.delay.as_ref().is_some_and(stands) || fault::images_from(job).is_some() {
        return Ok(Err(Unfit::Modelled));
    }
    Ok(Outlook::take(host)?.map_err(Unfit::from))
}

/// Waits until the modelled time is over; a time that no clock can count is waited for without end.
fn wait(watch: &Watch<'_>, until: Option<Instant>) -> Result<(), Error> {
    match until {
        Some(until) => watch.wait_until(until),
        None => Err(watch.hang()),
    }
}

/// The bytes of all processes that are in memory.
fn resident(frozen: &Frozen<'_>) -> u64 {
    sum(frozen, |tid| {
        let status = proc::status(tid).ok()?;
        Some(status.vmrss.unwrap_or(0) * 1024)
    })
}

/// The same, a shared page counted by its sharers.
fn proportional(frozen: &Frozen<'_>) -> u64 {
    sum(frozen, proc::proportional_set)
}

fn sum(frozen: &Frozen<'_>, bytes: impl Fn(i32) -> Option<u64>) -> u64 {
    frozen.processes().filter_map(|process| bytes(process.window()?)).sum()
}

/// The container's log, held open from the freeze on, so that a rotation meanwhile changes nothing.
struct ContainerLog(Option<(File, u64)>);

impl ContainerLog {
    /// Opens it and takes its size. A log that cannot be opened is said, not failed: the state is worth more.
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
                log.lost(format_args!("the container's log {}: {error}", path.display()));
                Self(None)
            }
        }
    }

    /// Writes what it held at the freeze.
    fn write(&mut self, name: &str, archive: &mut Archive, watch: &Watch<'_>, log: &mut DumpLog) -> Result<(), Error> {
        let Some((file, size)) = &mut self.0 else {
            return archive.member(name, &[]);
        };
        if archive.begin(name, *size)? {
            let lacking = archive.copy(file, watch)?;
            if lacking > 0 {
                log.lost(format_args!(
                    "{lacking} bytes of the container's log, which was cut meanwhile"
                ));
            }
            archive.end()?;
        }
        Ok(())
    }
}
