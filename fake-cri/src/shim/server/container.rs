//! The container's processes: their start, their end, and everything they leave.

use std::{ffi::CString, io, os::fd::AsFd, os::unix::ffi::OsStrExt, path::Path, time::Instant};

use super::{
    super::{
        CONTAINER_ID_ENV, ExitReason, ExitRecord, LaunchProgram, LaunchSpec, message::Refusal, message::ShimReply,
        state_dir,
    },
    KILL_TIMEOUT, ShimServer, ShimStage,
    checkpoint_thread::CheckpointEvent,
    command, members, streams,
};
use crate::{
    checkpoint::{ErrorKind, Failure},
    process::{
        ProcessId, daemon,
        identity::Identity,
        pidfd, pstree,
        spawn::{self, SpawnError, SpawnStep},
        wait::{self, Reaped, WaitOutcome},
    },
    workload,
};

impl ShimServer {
    /// Starts the container's first process, and says when, in nanoseconds since the epoch.
    pub(super) fn start(&mut self) -> Result<(ProcessId, i64), Refusal> {
        if !matches!(self.stage, ShimStage::Created) || self.shutdown_since.is_some() {
            return Err(Refusal::State(format!(
                "container {} is not created but {}",
                self.spec.container_id,
                self.state_name()
            )));
        }
        if let LaunchProgram::Restore { archive, options } = &self.spec.program {
            let (archive, options) = (archive.clone(), *options);
            return self.restore(&archive, options);
        }
        let (mut program_file, cwd) = resolve_program(&self.spec).map_err(Refusal::Exec)?;
        let streams = self.open_streams()?;
        let identity = self.identity()?;
        let dir_fd = match (&self.spec.program, &identity) {
            (LaunchProgram::Workload(_), Some(identity)) if identity.uid != nix::unistd::geteuid().as_raw() => {
                program_file = workload::WORKLOAD_NAME.into();
                let dir_fd = state_dir::open_to_users(&self.spec.dir, &[workload::OPTIONS_FILE]);
                Some(dir_fd.map_err(|error| Refusal::Other(format!("open the shim's folder: {error}")))?)
            }
            _ => None,
        };
        let program = spawn::SpawnCommand {
            file: to_c_string(program_file.as_os_str().as_bytes())?,
            argv: self
                .spec
                .argv
                .iter()
                .map(|argument| to_c_string(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: build_env(&self.spec, &[])?,
            cwd: Some(to_c_string(cwd.as_os_str().as_bytes())?),
            stdio: streams.container_fds.each_ref().map(|fd| fd.as_fd()),
            controlling_tty: self.spec.tty,
            identity: identity.as_ref(),
            exec_dir: dir_fd.as_ref().map(|fd| fd.as_fd()),
        };
        let started_at_ns = now_ns();
        let init = spawn::spawn(&program)
            .map_err(|error| Refusal::Exec(self.explain_spawn_error(&error, &program_file, &cwd)))?;
        self.set_running(init, started_at_ns, streams);
        Ok((init, started_at_ns))
    }

    /// As whom the container's processes are started, where that is not as this shim. Beside a restored container it is as its
    /// first process.
    pub(super) fn identity(&self) -> Result<Option<Identity>, Refusal> {
        let failed = |error: io::Error| Refusal::Other(format!("read the container's user: {error}"));
        let container_identity = match (&self.spec.program, self.init()) {
            (LaunchProgram::Restore { .. }, Some(init)) => Some(Identity::of_process(init.pid).map_err(failed)?),
            _ => self.spec.identity.clone(),
        };
        let shim_identity = Identity::current().map_err(failed)?;
        Ok(container_identity.filter(|identity| *identity != shim_identity))
    }

    /// Why a process could not be started, in runc's words.
    pub(super) fn explain_spawn_error(&self, error: &SpawnError, file: &Path, cwd: &Path) -> String {
        match error.step {
            SpawnStep::Directory => command::chdir_error(cwd, &error.source),
            SpawnStep::Exec => match (&self.spec.program, &self.spec.identity) {
                (LaunchProgram::Workload(_), Some(Identity { uid, .. })) => format!(
                    "{}; user {uid} must be able to execute the file of fake-cri itself",
                    command::exec_error(file, &error.source)
                ),
                _ => command::exec_error(file, &error.source),
            },
            SpawnStep::Identity => match &self.spec.identity {
                Some(Identity { uid, gid, groups, .. }) => {
                    format!(
                        "become user {uid} of group {gid} with groups {groups:?}: {}",
                        error.source
                    )
                }
                None => error.to_string(),
            },
            SpawnStep::Fork | SpawnStep::Streams => format!("start {}: {error}", file.display()),
        }
    }

    /// The container's streams, as it is to have them.
    pub(super) fn open_streams(&self) -> Result<streams::ContainerStreams, Refusal> {
        let streams = if self.spec.tty {
            streams::open_terminal()
        } else {
            streams::open_pipes(self.spec.stdin)
        };
        streams.map_err(|error| Refusal::Other(format!("make the container's streams: {error}")))
    }

    /// The container runs, with our ends of these streams.
    pub(super) fn set_running(&mut self, init: ProcessId, started_at_ns: i64, streams: streams::ContainerStreams) {
        self.outputs = streams.outputs;
        self.stdin = streams.stdin;
        self.stage = ShimStage::Running { init, started_at_ns };
        self.publish_members();
    }

    /// Keeps the checkpoint's view of who the container is up to date.
    pub(super) fn publish_members(&self) {
        let execs = self.execs.iter().map(|exec| exec.key.clone()).collect();
        self.shared.set_members(self.init(), self.ns_init, execs);
    }

    /// The container's first process, as long as it was not reaped.
    pub(super) fn init(&self) -> Option<ProcessId> {
        match self.stage {
            ShimStage::Running { init, .. } => Some(init),
            _ => None,
        }
    }

    /// The state in one word.
    pub(super) fn state_name(&self) -> &'static str {
        match self.stage {
            ShimStage::Created => "created",
            ShimStage::Running { .. } => "running",
            ShimStage::Exiting { .. } => "ending",
            ShimStage::Exited { .. } => "exited",
        }
    }

    /// SIGKILL to every descendant, commands beside the container included.
    pub(super) fn kill_descendants(&self) -> io::Result<()> {
        for stat in pstree::descendants(self.shim_process.pid)? {
            if !stat.is_dead() {
                pidfd::signal(stat.id, libc::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// Ends the shim, and before it the container if one runs.
    pub(super) fn begin_shutdown(&mut self) {
        self.shutdown_since.get_or_insert_with(Instant::now);
        if self.checkpoint_connection.is_some() {
            self.shared.cancel();
        }
        if let Err(error) = self.kill_descendants() {
            eprintln!("kill the container: {error}");
        }
    }

    /// Reaps what has ended. While a checkpoint may be tracing, only what no tracer holds (see [`reap_children`]); and while the
    /// container stands still, nothing of it: its zombies are part of what the checkpoint has seen.
    pub(super) fn reap_children(&mut self) -> io::Result<()> {
        if self.checkpoint_connection.is_some() {
            let reaped_children = {
                let _membership_guard = self.shared.lock_membership();
                let frozen = self.init().is_some_and(|init| pstree::is_traced(init.pid));
                let execs = &self.execs;
                let is_exec_root = |pid| !frozen || execs.iter().any(|exec| exec.key.root.pid == pid);
                wait::reap_untraced(self.shim_process.pid, is_exec_root)?
            };
            for reaped in reaped_children {
                self.on_reaped(reaped);
            }
            // A first process that ended under the tracer is not reported to anybody until the tracer lets go.
            let init_is_zombie = self
                .init()
                .is_some_and(|init| pstree::ProcStat::read(init.pid).is_ok_and(|stat| stat.is_dead()));
            if init_is_zombie {
                self.exited_during_checkpoint = true;
                self.shared.cancel();
            }
            return Ok(());
        }
        while let WaitOutcome::Exited(reaped) = wait::try_wait_any()? {
            self.on_reaped(reaped);
        }
        Ok(())
    }

    fn on_reaped(&mut self, reaped: Reaped) {
        self.reaped_cpu.add(reaped.cpu_time);
        if let Some(exec) = self
            .execs
            .iter_mut()
            .find(|exec| exec.key.root.pid == reaped.pid && exec.exit_code.is_none())
        {
            exec.exit_code = Some(reaped.exit_code().0);
            return;
        }
        if let ShimStage::Running { init, started_at_ns } = self.stage
            && init.pid == reaped.pid
        {
            let (code, signal) = reaped.exit_code();
            let reason = if code == 0 {
                ExitReason::Completed
            } else {
                ExitReason::Error
            };
            let exit = ExitRecord {
                code,
                signal,
                started_at_ns,
                // The clock may have been set back meanwhile.
                finished_at_ns: now_ns().max(started_at_ns),
                reason,
                message: String::new(),
                shim_lost: false,
            };
            self.stage = ShimStage::Exiting {
                init,
                exit,
                since: Instant::now(),
            };
            self.publish_members();
        }
    }

    /// What the checkpoint's thread has told.
    pub(super) fn checkpoint_events(&mut self) -> io::Result<()> {
        for event in self.shared.take_events() {
            let Some(id) = self.checkpoint_connection else { continue };
            match event {
                CheckpointEvent::Phase(phase) => self.send(id, &ShimReply::Phase(phase)),
                CheckpointEvent::Exited(pid, status) => self.on_reaped(Reaped {
                    pid,
                    status,
                    cpu_time: None,
                }),
                CheckpointEvent::Finished(result) => {
                    // What cannot be stopped or read any more because it has ended is no failure of stopping or reading.
                    let init_exited = self.init().is_none();
                    let result = result.map_err(|failure| match failure.kind {
                        ErrorKind::Cancelled if !self.exited_during_checkpoint => failure,
                        ErrorKind::Freeze | ErrorKind::Capture if !init_exited => failure,
                        ErrorKind::Cancelled | ErrorKind::Freeze | ErrorKind::Capture => Failure {
                            kind: ErrorKind::NotRunning,
                            message: format!("container {} ended during its checkpoint", self.spec.container_id),
                        },
                        _ => failure,
                    });
                    self.send(id, &ShimReply::CheckpointResult(result));
                    self.checkpoint_connection = None;
                    self.exited_during_checkpoint = false;
                    daemon::trim_heap();
                    // The thread may not be gone yet, so what it still holds is reaped with the signal of its end, or below.
                    self.reap_children()?;
                }
            }
        }
        Ok(())
    }

    /// Brings a container whose first process has ended to its end.
    pub(super) fn advance_exit(&mut self) -> io::Result<()> {
        let ShimStage::Exiting { init, exit, since } = &self.stage else {
            if let (ShimStage::Running { .. }, Some(_)) = (&self.stage, self.shutdown_since) {
                self.kill_descendants()?;
            }
            return Ok(());
        };
        let (init, mut exit, since) = (*init, exit.clone(), *since);
        self.kill_descendants()?;
        self.reap_children()?;
        let children = pstree::children(self.shim_process.pid)?;
        if !children.is_empty() && since.elapsed() < KILL_TIMEOUT {
            // What a tracer holds stays a zombie until it lets go.
            if self.checkpoint_connection.is_some() && children.iter().any(|stat| pstree::tracer_tid(stat.id.pid) != 0)
            {
                self.exited_during_checkpoint = true;
                self.shared.cancel();
            }
            return Ok(());
        }
        if !children.is_empty() {
            exit.message = format!("{} of its processes could not be killed", children.len());
            eprintln!("{} of {init:?}", exit.message);
        }
        self.stdin = None;
        for output in self.outputs.drain(..) {
            output.drain(&mut self.log);
        }
        match state_dir::write_json(&self.spec.dir, state_dir::EXIT_FILE, &exit) {
            // A full disk may have room again.
            Err(error) if since.elapsed() < KILL_TIMEOUT => return Err(error),
            Err(error) => eprintln!("record the container's end: {error}"),
            Ok(()) => {}
        }
        let waiting_connections: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.waits_for_exit)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting_connections {
            self.send(id, &ShimReply::Exited(exit.clone()));
        }
        self.stage = ShimStage::Exited {
            exit,
            since: Instant::now(),
        };
        Ok(())
    }

    /// The container's processes now.
    pub(super) fn members(&self) -> io::Result<members::Members> {
        let exec_keys: Vec<_> = self.execs.iter().map(|exec| exec.key.clone()).collect();
        members::find_members(self.shim_process.pid, self.init(), self.ns_init, &exec_keys)
    }
}

/// The container's environment with its mark, and `more` on top.
pub(super) fn build_env(spec: &LaunchSpec, exec_env: &[(String, String)]) -> Result<Vec<CString>, Refusal> {
    let container_id_var = (CONTAINER_ID_ENV.to_owned(), spec.container_id.clone());
    let mut variables: Vec<&(String, String)> = spec.env.iter().filter(|(name, _)| name != CONTAINER_ID_ENV).collect();
    for variable in exec_env.iter().chain([&container_id_var]) {
        variables.retain(|(name, _)| *name != variable.0);
        variables.push(variable);
    }
    variables
        .into_iter()
        .map(|(name, value)| to_c_string(format!("{name}={value}").as_bytes()))
        .collect()
}

/// Bytes as the kernel takes them.
pub(super) fn to_c_string(bytes: &[u8]) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| {
        Refusal::Exec(format!(
            "{:?}: invalid argument: it holds a NUL byte",
            String::from_utf8_lossy(bytes)
        ))
    })
}

/// Now, in nanoseconds since the epoch.
pub(super) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The file to run and the folder to run it in.
fn resolve_program(spec: &LaunchSpec) -> Result<(std::path::PathBuf, std::path::PathBuf), String> {
    let root = Path::new("/");
    let cwd = spec
        .cwd
        .as_deref()
        .filter(|cwd| !cwd.as_os_str().is_empty())
        .unwrap_or(root);
    let name = spec.argv.first().ok_or("no command specified")?;
    match &spec.program {
        LaunchProgram::Host | LaunchProgram::Restore { .. } => {
            Ok((command::find_executable(name, &spec.env, cwd)?, cwd.to_owned()))
        }
        LaunchProgram::Workload(options) => {
            let cwd = if cwd.is_dir() { cwd } else { root };
            let file =
                install_workload(&spec.dir, options).map_err(|error| format!("prepare the test workload: {error}"))?;
            Ok((file, cwd.to_owned()))
        }
    }
}

/// A name for this very executable that makes it play the test workload, with its options beside it. The container's argv and
/// environment stay what they are.
fn install_workload(dir: &Path, options: &workload::WorkloadOptions) -> io::Result<std::path::PathBuf> {
    state_dir::write_json(dir, workload::OPTIONS_FILE, options)?;
    let file = dir.join(workload::WORKLOAD_NAME);
    match std::os::unix::fs::symlink("/proc/self/exe", &file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(file),
    }
}
