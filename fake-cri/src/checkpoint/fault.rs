//! Acts what a fault rule injects into a checkpoint.
//!
//! A rule is acted when its phase begins. What shapes the archive or the thaw is remembered then and acted where it applies:
//! the shape when the archive is whole, the frozen end when everything would be let go.

use std::{
    io,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use globset::Glob;
use nix::errno::Errno;

use super::{
    Aftermath, Effect, Ending, Host, Injection, Job, Phase, Quirk, Region, archive::Archive, error::Error,
    freeze::Frozen, watch::Watch,
};
use crate::process::{ProcessId, proc};

/// How long a killed container may take to be gone before the checkpoint goes on.
const KILL_BOUND: Duration = Duration::from_secs(2);

/// What injections left to do later.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    injections: Vec<Injection>,
    form: Form,
    /// The container's processes are left stopped.
    pub(crate) leave_frozen: bool,
}

/// How the archive ends.
#[derive(Debug, Default)]
struct Form {
    partial: Option<u8>,
    cut: Option<u8>,
    corrupt: bool,
    absent: bool,
    mode: Option<u32>,
}

impl Faults {
    /// Those of a job.
    pub(crate) fn new(injections: Vec<Injection>) -> Self {
        Self {
            injections,
            ..Self::default()
        }
    }

    /// Whether the call as a whole goes wrong in this way.
    pub(crate) fn has(&self, quirk: Quirk) -> bool {
        has(&self.injections, quirk)
    }

    /// A phase begins.
    ///
    /// # Errors
    ///
    /// What an injection fails with, and what ends a delay or a hang.
    pub(crate) fn act(
        &mut self,
        phase: Phase,
        archive: &mut Archive,
        host: &dyn Host,
        watch: &Watch<'_>,
    ) -> Result<(), Error> {
        for injection in self.injections.clone() {
            if injection.phase != phase {
                continue;
            }
            match injection.effect {
                Effect::Error { code, message } => return Err(Error::Injected { code, message }),
                Effect::Delay(time) => watch.wait_until(Instant::now() + time)?,
                Effect::Hang => return Err(watch.hang()),
                Effect::NoSpace { after } => archive.limit(after, Errno::ENOSPC),
                Effect::IoError { after } => archive.limit(after, Errno::EIO),
                Effect::PartialArchive { percent } => self.form.partial = Some(percent),
                Effect::TruncatedArchive { percent } => self.form.cut = Some(percent),
                Effect::EmptyArchive => self.form.cut = Some(0),
                Effect::CorruptArchive => self.form.corrupt = true,
                Effect::NoArchive => self.form.absent = true,
                Effect::Mode(mode) => self.form.mode = Some(mode),
                Effect::OmitMember(glob) => match Glob::new(&glob) {
                    Ok(glob) => archive.omit(glob.compile_matcher()),
                    Err(error) => {
                        return Err(Error::Injected {
                            code: 3, // INVALID_ARGUMENT
                            message: format!("the fault's member {glob:?} is no glob: {error}"),
                        });
                    }
                },
                Effect::LeaveFrozen => self.leave_frozen = true,
                Effect::KillContainer => kill(host)?,
                Effect::CrashRuntime => host.crash_runtime(),
                // What is about the call as a whole is asked for where it matters.
                Effect::Quirk(_) | Effect::ImagesFrom(_) => {}
            }
        }
        Ok(())
    }

    /// Shapes the whole archive; false when it shall not appear.
    pub(crate) fn shape(&self, archive: &mut Archive) -> Result<bool, Error> {
        if self.form.corrupt {
            archive.corrupt()?;
        }
        if let Some(percent) = self.form.partial.or(self.form.cut) {
            archive.cut(percent)?;
        }
        if let Some(mode) = self.form.mode {
            archive.set_mode(mode)?;
        }
        Ok(!self.form.absent)
    }

    /// The share that is left at the location while the call fails.
    pub(crate) fn partial(&self) -> Option<u8> {
        self.form.partial
    }
}

/// How long a container runs on before its log is copied, where a fault wants it late: several lines of a quick log.
pub(crate) const LATE: Duration = Duration::from_millis(60);

fn has(injections: &[Injection], quirk: Quirk) -> bool {
    injections
        .iter()
        .any(|injection| injection.effect == Effect::Quirk(quirk))
}

/// The archive whose images are used again.
pub(crate) fn images_from(job: &Job) -> Option<&Path> {
    job.injections.iter().find_map(|injection| match &injection.effect {
        Effect::ImagesFrom(path) => Some(path.as_path()),
        _ => None,
    })
}

/// The checkpoint has ended so: what is wrong after such an end.
pub(crate) fn afterwards(
    job: &Job,
    host: &dyn Host,
    archive: Option<&mut Archive>,
    error: Option<&Error>,
    took: Duration,
) {
    let ending = match error {
        None => Ending::Success,
        Some(Error::DeadlineExceeded) => Ending::Deadline,
        // A caller's clock begins before ours: whoever has waited for half of its time has run out of it.
        Some(Error::Cancelled) if job.deadline.is_some_and(|deadline| took >= deadline / 2) => Ending::Deadline,
        Some(Error::Cancelled) => Ending::Cancel,
        Some(_) => Ending::Error,
    };
    let after = |aftermath| has(&job.injections, Quirk::After(ending, aftermath));
    if after(Aftermath::LeaveFrozen) {
        for member in host.members().unwrap_or_default() {
            signal(member, libc::SIGSTOP);
        }
    }
    if after(Aftermath::KillContainer) {
        // It is the fault's own work: that it cannot be done is no failure of the checkpoint.
        let _ = kill(host);
    }
    let Some(archive) = archive.filter(|_| error.is_some()) else {
        return;
    };
    if after(Aftermath::KeepPartial) {
        archive.leave_at(&job.location);
    }
    if after(Aftermath::KeepTemporary) {
        let mut name = job.location.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        archive.leave_at(&job.location.with_file_name(name));
    }
}

/// Which memory is zero in the archive, by a fault.
#[derive(Debug, Default)]
pub(crate) struct Blanks {
    shared: bool,
    /// Addresses by the thread through which they are read.
    ranges: Vec<(i32, Range<u64>)>,
}

impl Blanks {
    /// Whether nothing is to be lost.
    pub(crate) fn is_empty(&self) -> bool {
        !self.shared && self.ranges.is_empty()
    }

    /// Zeroes what of these pieces, which lie one after the other in `bytes`, is to be lost.
    pub(crate) fn blank(&self, window: i32, shared: bool, pieces: &[Range<u64>], bytes: &mut [u8]) {
        if shared {
            if self.shared {
                bytes.fill(0);
            }
            return;
        }
        let mut at = 0;
        for piece in pieces {
            for (_, range) in self.ranges.iter().filter(|(owner, _)| *owner == window) {
                let (start, end) = (range.start.max(piece.start), range.end.min(piece.end));
                if start < end {
                    let offset = |address: u64| at + (address - piece.start) as usize;
                    bytes[offset(start)..offset(end)].fill(0);
                }
            }
            at += (piece.end - piece.start) as usize;
        }
    }
}

/// The memory that the job's faults lose.
pub(crate) fn blanks(job: &Job, frozen: &Frozen<'_>) -> Blanks {
    let lost: Vec<_> = Region::ALL
        .into_iter()
        .filter(|region| has(&job.injections, Quirk::LoseMemory(*region)))
        .collect();
    let mut blanks = Blanks {
        shared: lost.contains(&Region::Shared),
        ranges: Vec::new(),
    };
    if lost.is_empty() {
        return blanks;
    }
    for window in frozen.processes().filter_map(|process| process.window()) {
        let ranges = regions(window).unwrap_or_default();
        let ranges = ranges.into_iter().filter(|(region, _)| lost.contains(region));
        blanks.ranges.extend(ranges.map(|(_, range)| (window, range)));
    }
    blanks
}

/// The private memory of a process by its kind. The stack of a thread is told by the guard below it.
fn regions(window: i32) -> io::Result<Vec<(Region, Range<u64>)>> {
    /// The guard of a thread's stack is a page or a few; what an allocator reserves is more.
    const GUARD: u64 = 64 << 10;
    let stat = proc::stat(window)?;
    let environment = stat.env_start.unwrap_or(0) as u64..stat.env_end.unwrap_or(0) as u64;
    let mut regions = Vec::new();
    let mut guard_ends = 0;
    for mapping in proc::mappings(window)? {
        let Range { start, end } = mapping.range;
        let anonymous = mapping.name.as_os_str().is_empty() || mapping.name.to_string_lossy().starts_with("[anon");
        if mapping.name.as_os_str() == "[stack]" {
            regions.push((Region::Stack, start..environment.start.clamp(start, end)));
            regions.push((Region::Stack, environment.end.clamp(start, end)..end));
        } else if anonymous && !mapping.read && !mapping.write {
            if end - start <= GUARD {
                guard_ends = end;
            }
        } else if anonymous && mapping.write && guard_ends == start {
            regions.push((Region::Threads, start..end));
        } else if mapping.name.as_os_str() == "[heap]" || (anonymous && mapping.write) {
            regions.push((Region::Heap, start..end));
        }
    }
    regions.push((Region::Environment, environment));
    Ok(regions)
}

/// Kills the container and waits until it no longer holds memory, so that what comes next sees it dead.
fn kill(host: &dyn Host) -> Result<(), Error> {
    let members = host.members().map_err(Error::Members)?;
    for member in &members {
        signal(*member, libc::SIGKILL);
    }
    let until = Instant::now() + KILL_BOUND;
    let lives = |member: &ProcessId| member.alive();
    while members.iter().any(lives) && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Sends a signal to a process if it is still the one that was meant.
pub(crate) fn signal(process: ProcessId, signal: i32) {
    if proc::identity(process.pid).ok() == Some(process)
        && let Ok(signal) = nix::sys::signal::Signal::try_from(signal)
    {
        // It may have ended in between, which is as good.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), signal);
    }
}
