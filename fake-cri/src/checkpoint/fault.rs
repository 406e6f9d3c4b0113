//! Applies the faults of a rule to a checkpoint.
//!
//! Effects act at the start of their phase. Effects on the archive or the thaw are recorded and act later: on the
//! complete archive, and at the thaw.

use std::{
    io,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use globset::Glob;
use nix::errno::Errno;

use super::{
    CallOutcome, Defect, Host, InjectedEffect, Injection, Job, MemoryRegion, Phase, SideEffect, archive::Archive,
    cancel::CancelToken, error::Error, freeze::FrozenContainer,
};
use crate::process::{ProcessId, proc_files};

/// How long to wait for the exit of a killed container before the checkpoint continues.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The recorded effects that act later.
#[derive(Debug, Default)]
pub(crate) struct PendingFaults {
    injections: Vec<Injection>,
    archive_defects: ArchiveDefects,
    /// Whether the container's processes are left stopped.
    pub(crate) leave_frozen: bool,
}

/// The effects on the complete archive.
#[derive(Debug, Default)]
struct ArchiveDefects {
    partial_percent: Option<u8>,
    truncate_percent: Option<u8>,
    corrupt: bool,
    is_absent: bool,
    mode: Option<u32>,
}

impl PendingFaults {
    pub(crate) fn new(injections: Vec<Injection>) -> Self {
        Self {
            injections,
            ..Self::default()
        }
    }

    /// Whether the job has this defect.
    pub(crate) fn has_defect(&self, defect: Defect) -> bool {
        has_defect(&self.injections, defect)
    }

    /// Applies the effects of a phase at its start.
    ///
    /// # Errors
    ///
    /// The injected error, or the end of a delay or hang by the caller or the deadline.
    pub(crate) fn begin_phase(
        &mut self,
        phase: Phase,
        archive: &mut Archive,
        host: &dyn Host,
        cancel: &CancelToken<'_>,
    ) -> Result<(), Error> {
        for injection in self.injections.clone() {
            if injection.phase != phase {
                continue;
            }
            match injection.effect {
                InjectedEffect::Error { code, message } => return Err(Error::Injected { code, message }),
                InjectedEffect::Delay(time) => cancel.wait_until(Instant::now() + time)?,
                InjectedEffect::Hang => return Err(cancel.block_until_cancelled()),
                InjectedEffect::NoSpace { after } => archive.limit_writes(after, Errno::ENOSPC),
                InjectedEffect::IoError { after } => archive.limit_writes(after, Errno::EIO),
                InjectedEffect::PartialArchive { percent } => self.archive_defects.partial_percent = Some(percent),
                InjectedEffect::TruncatedArchive { percent } => self.archive_defects.truncate_percent = Some(percent),
                InjectedEffect::EmptyArchive => self.archive_defects.truncate_percent = Some(0),
                InjectedEffect::CorruptArchive => self.archive_defects.corrupt = true,
                InjectedEffect::NoArchive => self.archive_defects.is_absent = true,
                InjectedEffect::Mode(mode) => self.archive_defects.mode = Some(mode),
                InjectedEffect::OmitMember(glob) => match Glob::new(&glob) {
                    Ok(glob) => archive.omit_members(glob.compile_matcher()),
                    Err(error) => {
                        return Err(Error::Injected {
                            code: 3, // INVALID_ARGUMENT
                            message: format!("the fault's member {glob:?} is not a valid glob: {error}"),
                        });
                    }
                },
                InjectedEffect::LeaveFrozen => self.leave_frozen = true,
                InjectedEffect::KillContainer => kill_container(host)?,
                InjectedEffect::CrashRuntime => host.crash_runtime(),
                // Read where they apply.
                InjectedEffect::Defect(_) | InjectedEffect::CopyImages(_) => {}
            }
        }
        Ok(())
    }

    /// Applies the effects on the archive. Returns false if the archive must not appear.
    pub(crate) fn apply_to_archive(&self, archive: &mut Archive) -> Result<bool, Error> {
        if self.archive_defects.corrupt {
            archive.corrupt()?;
        }
        if let Some(percent) = self
            .archive_defects
            .partial_percent
            .or(self.archive_defects.truncate_percent)
        {
            archive.truncate(percent)?;
        }
        if let Some(mode) = self.archive_defects.mode {
            archive.set_file_mode(mode)?;
        }
        Ok(!self.archive_defects.is_absent)
    }

    /// The percentage of the archive that is left at the location while the call fails.
    pub(crate) fn partial_percent(&self) -> Option<u8> {
        self.archive_defects.partial_percent
    }
}

/// How long the container keeps running before its log is copied late: time for several lines of a busy log.
pub(crate) const LATE_LOG_DELAY: Duration = Duration::from_millis(60);

fn has_defect(injections: &[Injection], defect: Defect) -> bool {
    injections
        .iter()
        .any(|injection| injection.effect == InjectedEffect::Defect(defect))
}

/// The archive whose images are copied.
pub(crate) fn images_source(job: &Job) -> Option<&Path> {
    job.injections.iter().find_map(|injection| match &injection.effect {
        InjectedEffect::CopyImages(path) => Some(path.as_path()),
        _ => None,
    })
}

/// Applies the side effects that a defect has after a checkpoint with this outcome.
pub(crate) fn apply_side_effects(
    job: &Job,
    host: &dyn Host,
    archive: Option<&mut Archive>,
    error: Option<&Error>,
    elapsed: Duration,
) {
    let outcome = match error {
        None => CallOutcome::Success,
        Some(Error::DeadlineExceeded) => CallOutcome::Deadline,
        // The caller's clock starts before ours: after half of the time to its deadline, a cancellation counts as the
        // deadline.
        Some(Error::Cancelled) if job.deadline.is_some_and(|deadline| elapsed >= deadline / 2) => CallOutcome::Deadline,
        Some(Error::Cancelled) => CallOutcome::Cancel,
        Some(_) => CallOutcome::Error,
    };
    let has_side_effect = |side_effect| has_defect(&job.injections, Defect::After(outcome, side_effect));
    if has_side_effect(SideEffect::LeaveFrozen) {
        for member in host.members().unwrap_or_default() {
            signal_process(member, libc::SIGSTOP);
        }
    }
    if has_side_effect(SideEffect::KillContainer) {
        // Best effort: a failure of the fault is no failure of the checkpoint.
        let _ = kill_container(host);
    }
    let Some(archive) = archive.filter(|_| error.is_some()) else {
        return;
    };
    if has_side_effect(SideEffect::KeepPartial) {
        archive.persist_partial(&job.location);
    }
    if has_side_effect(SideEffect::KeepTemporary) {
        let mut name = job.location.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        archive.persist_partial(&job.location.with_file_name(name));
    }
}

/// The memory that a fault zeroes in the archive.
#[derive(Debug, Default)]
pub(crate) struct ZeroedRegions {
    shared: bool,
    /// Address ranges with the `proc_tid` of their process.
    ranges: Vec<(i32, Range<u64>)>,
}

impl ZeroedRegions {
    pub(crate) fn is_empty(&self) -> bool {
        !self.shared && self.ranges.is_empty()
    }

    /// Zeroes the affected bytes of these chunks, whose content is concatenated in `bytes`.
    pub(crate) fn zero(&self, proc_tid: i32, shared: bool, chunks: &[Range<u64>], bytes: &mut [u8]) {
        if shared {
            if self.shared {
                bytes.fill(0);
            }
            return;
        }
        let mut offset = 0;
        for chunk in chunks {
            for (_, range) in self.ranges.iter().filter(|(owner, _)| *owner == proc_tid) {
                let (start, end) = (range.start.max(chunk.start), range.end.min(chunk.end));
                if start < end {
                    let offset = |address: u64| offset + (address - chunk.start) as usize;
                    bytes[offset(start)..offset(end)].fill(0);
                }
            }
            offset += (chunk.end - chunk.start) as usize;
        }
    }
}

/// The memory that the job's faults zero.
pub(crate) fn zeroed_regions(job: &Job, frozen: &FrozenContainer<'_>) -> ZeroedRegions {
    let lost_regions: Vec<_> = MemoryRegion::ALL
        .into_iter()
        .filter(|region| has_defect(&job.injections, Defect::ZeroMemory(*region)))
        .collect();
    let mut zeroed = ZeroedRegions {
        shared: lost_regions.contains(&MemoryRegion::Shared),
        ranges: Vec::new(),
    };
    if lost_regions.is_empty() {
        return zeroed;
    }
    for proc_tid in frozen.processes().filter_map(|process| process.proc_tid()) {
        let ranges = private_regions(proc_tid).unwrap_or_default();
        let ranges = ranges.into_iter().filter(|(region, _)| lost_regions.contains(region));
        zeroed.ranges.extend(ranges.map(|(_, range)| (proc_tid, range)));
    }
    zeroed
}

/// The private memory of a process by region. The stack of a thread is recognised by the guard pages below it.
fn private_regions(proc_tid: i32) -> io::Result<Vec<(MemoryRegion, Range<u64>)>> {
    /// A guard of a thread's stack has one or a few pages; memory that an allocator reserves is larger.
    const MAX_GUARD_BYTES: u64 = 64 << 10;
    let stat = proc_files::stat(proc_tid)?;
    let environment = stat.env_start.unwrap_or(0) as u64..stat.env_end.unwrap_or(0) as u64;
    let mut regions = Vec::new();
    let mut guard_end = 0;
    for mapping in proc_files::smaps(proc_tid)? {
        let Range { start, end } = mapping.range;
        let anonymous = mapping.name.as_os_str().is_empty() || mapping.name.to_string_lossy().starts_with("[anon");
        if mapping.name.as_os_str() == "[stack]" {
            regions.push((MemoryRegion::Stack, start..environment.start.clamp(start, end)));
            regions.push((MemoryRegion::Stack, environment.end.clamp(start, end)..end));
        } else if anonymous && !mapping.read && !mapping.write {
            if end - start <= MAX_GUARD_BYTES {
                guard_end = end;
            }
        } else if anonymous && mapping.write && guard_end == start {
            regions.push((MemoryRegion::Threads, start..end));
        } else if mapping.name.as_os_str() == "[heap]" || (anonymous && mapping.write) {
            regions.push((MemoryRegion::Heap, start..end));
        }
    }
    regions.push((MemoryRegion::Environment, environment));
    Ok(regions)
}

/// Kills the container and waits until all processes are dead, so that the next steps see them dead.
fn kill_container(host: &dyn Host) -> Result<(), Error> {
    let members = host.members().map_err(Error::ListMembers)?;
    for member in &members {
        signal_process(*member, libc::SIGKILL);
    }
    let kill_deadline = Instant::now() + KILL_TIMEOUT;
    let is_alive = |member: &ProcessId| member.is_alive();
    while members.iter().any(is_alive) && Instant::now() < kill_deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Sends a signal to a process, unless its pid was reused.
pub(crate) fn signal_process(process: ProcessId, signal: i32) {
    if ProcessId::from_pid(process.pid).ok() == Some(process)
        && let Ok(signal) = nix::sys::signal::Signal::try_from(signal)
    {
        // ESRCH: the process exited meanwhile.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), signal);
    }
}
