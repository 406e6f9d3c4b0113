//! Acts what a fault rule injects into a checkpoint.
//!
//! A rule is acted when its phase begins. What shapes the archive or the thaw is remembered then and acted where it applies:
//! the shape when the archive is whole, the frozen end when everything would be let go.

use std::time::{Duration, Instant};

use globset::Glob;

use super::{Effect, Host, Injection, Phase, archive::Archive, error::Error, watch::Watch};
use crate::process::{ProcessId, proc};

/// How long a killed container may take to be gone before the checkpoint goes on.
const KILL_BOUND: Duration = Duration::from_secs(2);

/// What injections left to do later.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    injections: Vec<Injection>,
    ending: Ending,
    /// The container's processes are left stopped.
    pub(crate) leave_frozen: bool,
}

/// How the archive ends.
#[derive(Debug, Default)]
struct Ending {
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
                Effect::NoSpace { after } => archive.limit_space(after),
                Effect::PartialArchive { percent } => self.ending.partial = Some(percent),
                Effect::TruncatedArchive { percent } => self.ending.cut = Some(percent),
                Effect::EmptyArchive => self.ending.cut = Some(0),
                Effect::CorruptArchive => self.ending.corrupt = true,
                Effect::NoArchive => self.ending.absent = true,
                Effect::Mode(mode) => self.ending.mode = Some(mode),
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
            }
        }
        Ok(())
    }

    /// Shapes the whole archive; false when it shall not appear.
    pub(crate) fn shape(&self, archive: &mut Archive) -> Result<bool, Error> {
        if self.ending.corrupt {
            archive.corrupt()?;
        }
        if let Some(percent) = self.ending.partial.or(self.ending.cut) {
            archive.cut(percent)?;
        }
        if let Some(mode) = self.ending.mode {
            archive.set_mode(mode)?;
        }
        Ok(!self.ending.absent)
    }

    /// The share that is left at the location while the call fails.
    pub(crate) fn partial(&self) -> Option<u8> {
        self.ending.partial
    }
}

/// Kills the container and waits until it no longer holds memory, so that what comes next sees it dead.
fn kill(host: &dyn Host) -> Result<(), Error> {
    let members = host.members().map_err(Error::Members)?;
    for member in &members {
        signal(*member, libc::SIGKILL);
    }
    let until = Instant::now() + KILL_BOUND;
    let lives = |member: &ProcessId| proc::stat(member.pid).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'));
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
