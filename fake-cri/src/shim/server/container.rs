//! The container's processes: their start, their end, and everything they leave.

use std::{ffi::CString, io, os::fd::AsFd, os::unix::ffi::OsStrExt, path::Path, time::Instant};

use super::{
    super::{Exit, LaunchSpec, MARKER, Program, Reason, folder, message::Refusal, message::Reply},
    ENDING, Server, Stage, command, members, streams,
    tracing::Event,
};
use crate::{
    checkpoint::{ErrorKind, Failure},
    process::{
        ProcessId, daemon, family,
        identity::Identity,
        pidfd,
        reap::{self, Found, Reaped},
        spawn::{self, SpawnError, Step},
    },
    stand_in,
};

impl Server {
    /// Starts the container's first process, and says when, in nanoseconds since the epoch.
    pub(super) fn start(&mut self) -> Result<(ProcessId, i64), Refusal> {
        if !matches!(self.stage, Stage::Created) || self.shutdown.is_some() {
            return Err(Refusal::State(format!(
                "container {} is not created but {}",
                self.spec.container_id,
                self.word()
            )));
        }
        if let Program::Restored { archive, options } = &self.spec.program {
            let (archive, options) = (archive.clone(), *options);
            return self.restore(&archive, options);
        }
        let (mut file, cwd) = prepare(&self.spec).map_err(Refusal::Exec)?;
        let streams = self.streams()?;
        let identity = self.identity()?;
        let directory = match (&self.spec.program, &identity) {
            (Program::StandIn(_), Some(identity)) if identity.uid != nix::unistd::geteuid().as_raw() => {
                file = stand_in::NAME.into();
                let opened = folder::open_to_users(&self.spec.dir, &[stand_in::OPTIONS_FILE]);
                Some(opened.map_err(|error| Refusal::Other(format!("open the shim's folder: {error}")))?)
            }
            _ => None,
        };
        let program = spawn::Program {
            file: text(file.as_os_str().as_bytes())?,
            argv: self
                .spec
                .argv
                .iter()
                .map(|argument| text(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: environment(&self.spec, &[])?,
            cwd: Some(text(cwd.as_os_str().as_bytes())?),
            streams: streams.given.each_ref().map(|fd| fd.as_fd()),
            terminal: self.spec.tty,
            identity: identity.as_ref(),
            directory: directory.as_ref().map(|fd| fd.as_fd()),
        };
        let started_at_ns = now();
        let init = spawn::spawn(&program).map_err(|error| Refusal::Exec(self.explain(&error, &file, &cwd)))?;
        self.runs(init, started_at_ns, streams);
        Ok((init, started_at_ns))
    }

    /// As whom the container's processes are started, where that is not as this shim. Beside a restored container it is as its
    /// first process.
    pub(super) fn identity(&self) -> Result<Option<Identity>, Refusal> {
        let failed = |error: io::Error| Refusal::Other(format!("read the container's user: {error}"));
        let wanted = match (&self.spec.program, self.init()) {
            (Program::Restored { .. }, Some(init)) => Some(Identity::of(init.pid).map_err(failed)?),
            _ => self.spec.identity.clone(),
        };
        let own = Identity::own().map_err(failed)?;
        Ok(wanted.filter(|wanted| *wanted != own))
    }

    /// Why a process could not be started, in runc's words.
    pub(super) fn explain(&self, error: &SpawnError, file: &Path, cwd: &Path) -> String {
        match error.step {
            Step::Directory => command::no_directory(cwd, &error.source),
            Step::Exec => match (&self.spec.program, &self.spec.identity) {
                (Program::StandIn(_), Some(Identity { uid, .. })) => format!(
                    "{}; user {uid} must be able to execute the file of fake-cri itself",
                    command::refused(file, &error.source)
                ),
                _ => command::refused(file, &error.source),
            },
            Step::Identity => match &self.spec.identity {
                Some(Identity { uid, gid, groups, .. }) => {
                    format!(
                        "become user {uid} of group {gid} with groups {groups:?}: {}",
                        error.source
                    )
                }
                None => error.to_string(),
            },
            Step::Fork | Step::Streams => format!("start {}: {error}", file.display()),
        }
    }

    /// The container's streams, as it is to have them.
    pub(super) fn streams(&self) -> Result<streams::Streams, Refusal> {
        let streams = if self.spec.tty {
            streams::terminal()
        } else {
            streams::pipes(self.spec.stdin)
        };
        streams.map_err(|error| Refusal::Other(format!("make the container's streams: {error}")))
    }

    /// The container runs, with our ends of these streams.
    pub(super) fn runs(&mut self, init: ProcessId, started_at_ns: i64, streams: streams::Streams) {
        self.outputs = streams.outputs;
        self.input = streams.input;
        self.stage = Stage::Running { init, started_at_ns };
        self.tell_members();
    }

    /// Keeps the checkpoint's view of who the container is up to date.
    pub(super) fn tell_members(&self) {
        let execs = self.execs.iter().map(|exec| exec.mark.clone()).collect();
        self.shared.set_members(self.init(), self.keeper, execs);
    }

    /// The container's first process, as long as it was not reaped.
    pub(super) fn init(&self) -> Option<ProcessId> {
        match self.stage {
            Stage::Running { init, .. } => Some(init),
            _ => None,
        }
    }

    /// The state in one word.
    pub(super) fn word(&self) -> &'static str {
        match self.stage {
            Stage::Created => "created",
            Stage::Running { .. } => "running",
            Stage::Ending { .. } => "ending",
            Stage::Over { .. } => "exited",
        }
    }

    /// SIGKILL to every descendant, commands beside the container included.
    pub(super) fn kill_everything(&self) -> io::Result<()> {
        for kin in family::descendants(self.me.pid)? {
            if !kin.ended() {
                pidfd::signal(kin.id, libc::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// Ends the shim, and before it the container if one runs.
    pub(super) fn shut_down(&mut self) {
        self.shutdown.get_or_insert_with(Instant::now);
        if self.checkpoint.is_some() {
            self.shared.cancel();
        }
        if let Err(error) = self.kill_everything() {
            eprintln!("kill the container: {error}");
        }
    }

    /// Reaps what has ended. While a checkpoint may be tracing, only what no tracer holds (see [`reap`]); and while the
    /// container stands still, nothing of it: its zombies are part of what the checkpoint has seen.
    pub(super) fn reap(&mut self) -> io::Result<()> {
        if self.checkpoint.is_some() {
            let released = {
                let _nobody_looks = self.shared.hold_members();
                let frozen = self.init().is_some_and(|init| family::traced(init.pid));
                let execs = &self.execs;
                let wanted = |pid| !frozen || execs.iter().any(|exec| exec.mark.root.pid == pid);
                reap::released(self.me.pid, wanted)?
            };
            for reaped in released {
                self.reaped(reaped);
            }
            // A first process that ended under the tracer is not reported to anybody until the tracer lets go.
            let held = self
                .init()
                .is_some_and(|init| family::Kin::of(init.pid).is_ok_and(|kin| kin.ended()));
            if held {
                self.ended_under_checkpoint = true;
                self.shared.cancel();
            }
            return Ok(());
        }
        while let Found::Ended(reaped) = reap::next()? {
            self.reaped(reaped);
        }
        Ok(())
    }

    fn reaped(&mut self, reaped: Reaped) {
        self.spent.add(reaped.cpu);
        if let Some(exec) = self
            .execs
            .iter_mut()
            .find(|exec| exec.mark.root.pid == reaped.pid && exec.code.is_none())
        {
            exec.code = Some(reaped.code().0);
            return;
        }
        if let Stage::Running { init, started_at_ns } = self.stage
            && init.pid == reaped.pid
        {
            let (code, signal) = reaped.code();
            let reason = if code == 0 { Reason::Completed } else { Reason::Error };
            let exit = Exit {
                code,
                signal,
                started_at_ns,
                // The clock may have been set back meanwhile.
                finished_at_ns: now().max(started_at_ns),
                reason,
                message: String::new(),
                lost: false,
            };
            self.stage = Stage::Ending {
                init,
                exit,
                since: Instant::now(),
            };
            self.tell_members();
        }
    }

    /// What the checkpoint's thread has told.
    pub(super) fn checkpoint_events(&mut self) -> io::Result<()> {
        for event in self.shared.events() {
            let Some(id) = self.checkpoint else { continue };
            match event {
                Event::Phase(phase) => self.send(id, &Reply::Phase(phase)),
                Event::Exited(pid, status) => self.reaped(Reaped { pid, status, cpu: None }),
                Event::Over(result) => {
                    // What cannot be stopped or read any more because it has ended is no failure of stopping or reading.
                    let ended = self.init().is_none();
                    let result = result.map_err(|failure| match failure.kind {
                        ErrorKind::Cancelled if !self.ended_under_checkpoint => failure,
                        ErrorKind::Freeze | ErrorKind::Capture if !ended => failure,
                        ErrorKind::Cancelled | ErrorKind::Freeze | ErrorKind::Capture => Failure {
                            kind: ErrorKind::NotRunning,
                            message: format!("container {} ended during its checkpoint", self.spec.container_id),
                        },
                        _ => failure,
                    });
                    self.send(id, &Reply::Checkpointed(result));
                    self.checkpoint = None;
                    self.ended_under_checkpoint = false;
                    daemon::trim_heap();
                    // The thread may not be gone yet, so what it still holds is reaped with the signal of its end, or below.
                    self.reap()?;
                }
            }
        }
        Ok(())
    }

    /// Brings a container whose first process has ended to its end.
    pub(super) fn advance_end(&mut self) -> io::Result<()> {
        let Stage::Ending { init, exit, since } = &self.stage else {
            if let (Stage::Running { .. }, Some(_)) = (&self.stage, self.shutdown) {
                self.kill_everything()?;
            }
            return Ok(());
        };
        let (init, mut exit, since) = (*init, exit.clone(), *since);
        self.kill_everything()?;
        self.reap()?;
        let left = family::children(self.me.pid)?;
        if !left.is_empty() && since.elapsed() < ENDING {
            // What a tracer holds stays a zombie until it lets go.
            if self.checkpoint.is_some() && left.iter().any(|kin| family::tracer(kin.id.pid) != 0) {
                self.ended_under_checkpoint = true;
                self.shared.cancel();
            }
            return Ok(());
        }
        if !left.is_empty() {
            exit.message = format!("{} of its processes could not be killed", left.len());
            eprintln!("{} of {init:?}", exit.message);
        }
        self.input = None;
        for output in self.outputs.drain(..) {
            output.drain(&mut self.log);
        }
        match folder::write(&self.spec.dir, folder::EXIT, &exit) {
            // A full disk may have room again.
            Err(error) if since.elapsed() < ENDING => return Err(error),
            Err(error) => eprintln!("record the container's end: {error}"),
            Ok(()) => {}
        }
        let waiting: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, it)| it.waits)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.send(id, &Reply::Exited(exit.clone()));
        }
        self.stage = Stage::Over {
            exit,
            since: Instant::now(),
        };
        Ok(())
    }

    /// The container's processes now.
    pub(super) fn members(&self) -> io::Result<members::Members> {
        let marks: Vec<_> = self.execs.iter().map(|exec| exec.mark.clone()).collect();
        members::look(self.me.pid, self.init(), self.keeper, &marks)
    }
}

/// The container's environment with its mark, and `more` on top.
pub(super) fn environment(spec: &LaunchSpec, more: &[(String, String)]) -> Result<Vec<CString>, Refusal> {
    let marker = (MARKER.to_owned(), spec.container_id.clone());
    let mut all: Vec<&(String, String)> = spec.env.iter().filter(|(name, _)| name != MARKER).collect();
    for variable in more.iter().chain([&marker]) {
        all.retain(|(name, _)| *name != variable.0);
        all.push(variable);
    }
    all.into_iter()
        .map(|(name, value)| text(format!("{name}={value}").as_bytes()))
        .collect()
}

/// Bytes as the kernel takes them.
pub(super) fn text(bytes: &[u8]) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| {
        Refusal::Exec(format!(
            "{:?}: invalid argument: it holds a NUL byte",
            String::from_utf8_lossy(bytes)
        ))
    })
}

/// Now, in nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The file to run and the folder to run it in.
fn prepare(spec: &LaunchSpec) -> Result<(std::path::PathBuf, std::path::PathBuf), String> {
    let root = Path::new("/");
    let cwd = spec
        .cwd
        .as_deref()
        .filter(|cwd| !cwd.as_os_str().is_empty())
        .unwrap_or(root);
    let name = spec.argv.first().ok_or("no command specified")?;
    match &spec.program {
        Program::Host | Program::Restored { .. } => Ok((command::find(name, &spec.env, cwd)?, cwd.to_owned())),
        Program::StandIn(options) => {
            let cwd = if cwd.is_dir() { cwd } else { root };
            let file = stand_in(&spec.dir, options).map_err(|error| format!("prepare the stand-in: {error}"))?;
            Ok((file, cwd.to_owned()))
        }
    }
}

/// A name for this very executable that makes it play the stand-in, with its options beside it. The container's argv and
/// environment stay what they are.
fn stand_in(dir: &Path, options: &stand_in::Options) -> io::Result<std::path::PathBuf> {
    folder::write(dir, stand_in::OPTIONS_FILE, options)?;
    let file = dir.join(stand_in::NAME);
    match std::os::unix::fs::symlink("/proc/self/exe", &file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(file),
    }
}
