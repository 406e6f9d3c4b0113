//! Starts the container, and handles its exit and its remaining processes.

use std::{ffi::CString, io, os::fd::AsFd, os::unix::ffi::OsStrExt, path::Path, time::Instant};

use super::{
    super::{ExitReason, ExitRecord, LaunchProgram, LaunchSpec, message::Refusal, message::ShimReply, state_dir},
    KILL_TIMEOUT, ShimServer, ShimStage,
    checkpoint_thread::CheckpointEvent,
    command, members, streams,
};
use crate::{
    checkpoint::{ErrorKind, Failure},
    environment::CONTAINER_ID_ENV,
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
    /// Starts the container. Returns its first process and the start time in nanoseconds since the epoch.
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
                Some(dir_fd.map_err(|error| Refusal::Other(format!("open the shim's directory: {error}")))?)
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

    /// The credentials of new processes, or `None` if they are the shim's. An exec in a restored container gets those
    /// of its first process.
    pub(super) fn identity(&self) -> Result<Option<Identity>, Refusal> {
        let failed = |error: io::Error| Refusal::Other(format!("read the container's user: {error}"));
        let container_identity = match (&self.spec.program, self.init()) {
            (LaunchProgram::Restore { .. }, Some(init)) => Some(Identity::of_process(init.pid).map_err(failed)?),
            _ => self.spec.identity.clone(),
        };
        let shim_identity = Identity::current().map_err(failed)?;
        Ok(container_identity.filter(|identity| *identity != shim_identity))
    }

    /// Describes why a process could not be started, in the words of runc.
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
                    format!("set user {uid}, group {gid} and groups {groups:?}: {}", error.source)
                }
                None => error.to_string(),
            },
            SpawnStep::Fork | SpawnStep::Streams => format!("start {}: {error}", file.display()),
        }
    }

    /// Opens the container's standard streams.
    pub(super) fn open_streams(&self) -> Result<streams::ContainerStreams, Refusal> {
        let streams = if self.spec.tty {
            streams::open_terminal()
        } else {
            streams::open_pipes(self.spec.stdin)
        };
        streams.map_err(|error| Refusal::Other(format!("create the container's streams: {error}")))
    }

    /// Records the running container and the shim's ends of its streams.
    pub(super) fn set_running(&mut self, init: ProcessId, started_at_ns: i64, streams: streams::ContainerStreams) {
        self.outputs = streams.outputs;
        self.stdin = streams.stdin;
        self.stage = ShimStage::Running { init, started_at_ns };
        self.publish_members();
    }

    /// Updates the members that the checkpoint thread sees.
    pub(super) fn publish_members(&self) {
        let execs = self.execs.iter().map(|exec| exec.key.clone()).collect();
        self.shared.set_members(self.init(), self.ns_init, execs);
    }

    /// The container's first process until it is reaped.
    pub(super) fn init(&self) -> Option<ProcessId> {
        match self.stage {
            ShimStage::Running { init, .. } => Some(init),
            _ => None,
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.stage {
            ShimStage::Created => "created",
            ShimStage::Running { .. } => "running",
            ShimStage::Exiting { .. } => "ending",
            ShimStage::Exited { .. } => "exited",
        }
    }

    /// Sends SIGKILL to every descendant, including execs.
    pub(super) fn kill_descendants(&self) -> io::Result<()> {
        for stat in pstree::descendants(self.shim_process.pid)? {
            if !stat.is_dead() {
                pidfd::signal(stat.id, libc::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// Ends the shim, after killing the container if it runs.
    pub(super) fn begin_shutdown(&mut self) {
        self.shutdown_since.get_or_insert_with(Instant::now);
        if self.checkpoint_connection.is_some() {
            self.shared.cancel();
        }
        if let Err(error) = self.kill_descendants() {
            eprintln!("kill the container: {error}");
        }
    }

    /// Reaps ended children. During a checkpoint only children without a tracer are reaped (see
    /// [`wait::reap_untraced`]), and while the container is frozen only the first processes of execs: the checkpoint
    /// has recorded the container's zombies.
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
            // While the first process is traced, its exit is not reported to the shim's wait until the tracer detaches.
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
                // The system clock may have been set back.
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

    /// Handles the events of the checkpoint thread.
    pub(super) fn checkpoint_events(&mut self) -> io::Result<()> {
        for event in self.shared.take_events() {
            let Some(id) = self.checkpoint_connection else { continue };
            match event {
                CheckpointEvent::Phase(phase) => self.send(id, &ShimReply::Phase(phase)),
                CheckpointEvent::Exited { pid, status } => self.on_reaped(Reaped {
                    pid,
                    status,
                    cpu_time: None,
                }),
                CheckpointEvent::Finished(result) => {
                    // A freeze or capture that failed because the container had ended is reported as `NotRunning`.
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
                    // The thread may still exist. Children that it still traces are reaped at the SIGCHLD of its end,
                    // or by `advance_exit`.
                    self.reap_children()?;
                }
            }
        }
        Ok(())
    }

    /// Completes the exit of a container whose first process has ended.
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
            // A traced child stays a zombie until the tracer detaches.
            let is_traced = |stat: &pstree::ProcStat| pstree::tracer_tid(stat.id.pid.main_thread()).is_some();
            if self.checkpoint_connection.is_some() && children.iter().any(is_traced) {
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
            // The disk may be full for a while.
            Err(error) if since.elapsed() < KILL_TIMEOUT => return Err(error),
            Err(error) => eprintln!("record the container's exit: {error}"),
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

    pub(super) fn members(&self) -> io::Result<members::Members> {
        let exec_keys: Vec<_> = self.execs.iter().map(|exec| exec.key.clone()).collect();
        members::find_members(self.shim_process.pid, self.init(), self.ns_init, &exec_keys)
    }
}

/// The container's environment with [`CONTAINER_ID_ENV`], overridden by `exec_env`.
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

pub(super) fn to_c_string(bytes: &[u8]) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| {
        Refusal::Exec(format!(
            "{:?}: invalid argument: it holds a NUL byte",
            String::from_utf8_lossy(bytes)
        ))
    })
}

pub(super) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Returns the file to execute and its working directory.
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

/// Creates a symbolic link to this executable whose name selects the test workload, and writes the options next to it.
/// The container's argv and environment stay unchanged.
fn install_workload(dir: &Path, options: &workload::WorkloadOptions) -> io::Result<std::path::PathBuf> {
    state_dir::write_json(dir, workload::OPTIONS_FILE, options)?;
    let file = dir.join(workload::WORKLOAD_NAME);
    match std::os::unix::fs::symlink("/proc/self/exe", &file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(file),
    }
}
