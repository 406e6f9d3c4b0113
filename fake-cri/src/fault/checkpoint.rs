//! The faults of a checkpoint, as hooks of the engine.
//!
//! | acts | effects and defects |
//! |---|---|
//! | at the start of its phase | error, delay, hang, crash, kill-container, leave-frozen |
//! | while the archive is written | no-space, io-error, ignore-no-space ([`super::sink`]) |
//! | on the complete temporary | the effects on the archive, zero-memory, copy-log-late ([`super::archive`]) |
//! | after the checkpoint | `after` |

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use globset::Glob;
use serde::{Deserialize, Serialize};

use super::{
    CallOutcome, Defect, Effect, MemoryRegion, SideEffect,
    archive::{self, Edit},
    sink::FaultySink,
};
use crate::{
    checkpoint::{
        CancelToken, ErrorKind, Failure, FileSink, Hooks, Host, Job, Phase, Sink, error::Error,
        location::rename_into_place,
    },
    process::{Pid, ProcessId, Tid, pidfd, proc_files},
};

/// How long to wait for the effect of a signal before the checkpoint continues.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the container keeps running before its log is copied late: time for several lines of a busy log.
const LATE_LOG_DELAY: Duration = Duration::from_millis(60);

/// The faults of one checkpoint.
///
/// The fault layer puts them into the extensions of a CheckpointContainer request. The runtime passes them to the shim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointFaults {
    /// Faults in the phases.
    pub injections: Vec<Injection>,
    /// Defects of the whole call.
    pub defects: Vec<Defect>,
}

/// A fault at one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// The phase at whose start the fault acts.
    pub phase: Phase,
    /// What the fault does.
    pub effect: Effect,
}

impl CheckpointFaults {
    /// Whether there is no fault.
    pub fn is_empty(&self) -> bool {
        self.injections.is_empty() && self.defects.is_empty()
    }

    /// Whether the call has this defect.
    pub fn has(&self, defect: Defect) -> bool {
        self.defects.contains(&defect)
    }
}

/// Injects the faults of a checkpoint.
pub struct CheckpointHooks<'a> {
    faults: CheckpointFaults,
    crash_runtime: Box<dyn Fn() + Send + Sync + 'a>,
    leave_frozen: AtomicBool,
}

impl fmt::Debug for CheckpointHooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CheckpointHooks").field(&self.faults).finish()
    }
}

impl<'a> CheckpointHooks<'a> {
    /// Creates the hooks. [`Effect::Crash`] calls `crash_runtime`, which kills fake-cri.
    pub fn new(faults: CheckpointFaults, crash_runtime: impl Fn() + Send + Sync + 'a) -> Self {
        Self {
            faults,
            crash_runtime: Box::new(crash_runtime),
            leave_frozen: AtomicBool::new(false),
        }
    }

    fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.faults.injections.iter().map(|injection| &injection.effect)
    }

    /// Changes the complete temporary. Returns false if it must not appear.
    fn change_temporary(&self, job: &Job) -> io::Result<bool> {
        let path = &job.temporary;
        if let (true, Some(log)) = (self.faults.has(Defect::CopyLogLate), &job.log) {
            let late_log = fs::read(log)?;
            archive::rewrite(path, |name| {
                Ok(match name == job.layout.log_member() {
                    true => Edit::Replace(late_log.clone()),
                    false => Edit::Keep,
                })
            })?;
        }
        let mut regions = MemoryRegion::ALL.to_vec();
        regions.retain(|region| self.faults.has(Defect::ZeroMemory(*region)));
        if !regions.is_empty() {
            archive::zero_regions(path, &regions)?;
        }
        // The order of the effects: first members, then bytes, then the file.
        for effect in self.effects() {
            if let Effect::Omit(glob) = effect {
                let omitted = Glob::new(glob).map_err(io::Error::other)?.compile_matcher();
                archive::rewrite(path, |name| {
                    Ok(match omitted.is_match(name) {
                        true => Edit::Omit,
                        false => Edit::Keep,
                    })
                })?;
            }
        }
        if self.effects().any(|effect| *effect == Effect::CorruptArchive) {
            archive::corrupt(path)?;
        }
        for effect in self.effects() {
            match effect {
                Effect::PartialArchive(percent) | Effect::TruncatedArchive(percent) => {
                    archive::truncate(path, *percent)?;
                }
                Effect::EmptyArchive => archive::truncate(path, 0)?,
                Effect::Mode(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))?,
                _ => {}
            }
        }
        Ok(!self.effects().any(|effect| *effect == Effect::NoArchive))
    }
}

impl Hooks for CheckpointHooks<'_> {
    fn sink(&self, file: FileSink) -> Box<dyn Sink> {
        Box::new(FaultySink::new(file, &self.faults))
    }

    fn on_phase(&self, phase: Phase, host: &dyn Host, cancel: &CancelToken<'_>) -> Result<(), Failure> {
        let injections = self.faults.injections.iter();
        for injection in injections.filter(|injection| injection.phase == phase) {
            match &injection.effect {
                Effect::Error(status) => {
                    return Err(Failure {
                        kind: ErrorKind::Injected(i32::from(status.code)),
                        message: status.message.clone(),
                    });
                }
                Effect::Delay(time) => cancel.wait_until(Instant::now().checked_add(*time))?,
                Effect::Hang => return Err(cancel.block_until_cancelled().into()),
                Effect::Crash => (self.crash_runtime)(),
                Effect::KillContainer => kill_container(host)?,
                Effect::LeaveFrozen => {
                    // In the last phase the container is thawed already.
                    if !self.leave_frozen.swap(true, Ordering::Relaxed) && phase == Phase::Finish {
                        let members = host.members().map_err(Error::ListMembers)?;
                        stop(&members);
                        wait_for_all(&members, is_stopped);
                    }
                }
                // These act on the sink or on the temporary.
                Effect::NoSpace(_)
                | Effect::IoError(_)
                | Effect::PartialArchive(_)
                | Effect::TruncatedArchive(_)
                | Effect::CorruptArchive
                | Effect::EmptyArchive
                | Effect::NoArchive
                | Effect::Mode(_)
                | Effect::Omit(_) => {}
                // The grammar does not allow these in a phase.
                Effect::Unimplemented | Effect::UnknownMethod | Effect::Disconnect | Effect::Defect(_) => {}
            }
        }
        Ok(())
    }

    fn select_tasks(&self, init: Pid, tasks: &mut BTreeMap<Pid, Vec<Tid>>) {
        if self.faults.has(Defect::InitProcessOnly) {
            tasks.retain(|pid, _| *pid == init);
        }
        if self.faults.has(Defect::OmitThread) {
            for threads in tasks.values_mut().filter(|threads| threads.len() > 1) {
                threads.pop();
            }
        }
    }

    fn before_thaw(&self, processes: &[ProcessId]) {
        if self.leave_frozen.load(Ordering::Relaxed) {
            stop(processes);
        }
    }

    fn before_persist(&self, job: &Job, cancel: &CancelToken<'_>) -> Result<bool, Failure> {
        if self.faults.has(Defect::CopyLogLate) {
            cancel.wait_until(Instant::now().checked_add(LATE_LOG_DELAY))?;
        }
        let appears = self
            .change_temporary(job)
            .map_err(|source| Error::write("apply a fault to", &job.temporary, source))?;
        let partial = self.effects().find_map(|effect| match effect {
            Effect::PartialArchive(percent) => Some(*percent),
            _ => None,
        });
        let Some(percent) = partial else { return Ok(appears) };
        cancel.check()?;
        if appears {
            rename_into_place(&job.temporary, &job.location).map_err(Error::Location)?;
        }
        Err(Failure {
            kind: ErrorKind::Write,
            message: format!("a fault left {percent} % of the archive at {}", job.location.display()),
        })
    }

    fn after(&self, job: &Job, host: &dyn Host, failure: Option<&Failure>, elapsed: Duration) {
        // The caller's clock starts before ours: after half of the time to its deadline, a cancellation counts as the
        // deadline.
        let at_deadline = job.deadline.is_some_and(|deadline| elapsed >= deadline / 2);
        let outcome = match failure.map(|failure| failure.kind) {
            None => CallOutcome::Success,
            Some(ErrorKind::DeadlineExceeded) => CallOutcome::Deadline,
            Some(ErrorKind::Cancelled) if at_deadline => CallOutcome::Deadline,
            Some(ErrorKind::Cancelled) => CallOutcome::Cancel,
            Some(_) => CallOutcome::Error,
        };
        let has_side_effect = |side_effect| self.faults.has(Defect::After(outcome, side_effect));
        if has_side_effect(SideEffect::LeaveFrozen) {
            let members = host.members().unwrap_or_default();
            stop(&members);
            wait_for_all(&members, is_stopped);
        }
        // Best effort: a failure of the fault is no failure of the checkpoint.
        if has_side_effect(SideEffect::KillContainer) {
            let _ = kill_container(host);
        }
        if failure.is_none() {
            return;
        }
        if has_side_effect(SideEffect::KeepPartial) {
            let _ = rename_into_place(&job.temporary, &job.location);
        }
        if has_side_effect(SideEffect::KeepTemporary) {
            let mut name = job.location.file_name().unwrap_or_default().to_owned();
            name.push(".tmp");
            let _ = rename_into_place(&job.temporary, &job.location.with_file_name(name));
        }
    }
}

/// Sends SIGSTOP. A process that exited meanwhile needs none.
fn stop(processes: &[ProcessId]) {
    for process in processes {
        let _ = pidfd::signal(*process, libc::SIGSTOP);
    }
}

/// Kills the container and waits until all processes are dead.
fn kill_container(host: &dyn Host) -> Result<(), Error> {
    let members = host.members().map_err(Error::ListMembers)?;
    for member in &members {
        // A process that exited meanwhile needs no signal.
        let _ = pidfd::signal(*member, libc::SIGKILL);
    }
    wait_for_all(&members, |process| !process.is_alive());
    Ok(())
}

fn is_stopped(process: ProcessId) -> bool {
    proc_files::stat(process.pid.main_thread()).map_or(true, |stat| matches!(stat.state, 'T' | 'Z' | 'X'))
}

/// Waits until a signal has had its effect on all processes, so that the next steps see it.
fn wait_for_all(processes: &[ProcessId], condition: impl Fn(ProcessId) -> bool) {
    let deadline = Instant::now() + SIGNAL_TIMEOUT;
    while !processes.iter().all(|process| condition(*process)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}
