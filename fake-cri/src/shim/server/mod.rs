//! The shim process: one thread, one poll loop, no async runtime.
//!
//! ```text
//!            Start                 first process ends              no process is left, log is complete
//!  Created ---------> Running -------------------------> Exiting --------------------------------> Exited
//!     | Shutdown         | SIGTERM, Shutdown: kill all      kills the remaining processes,       writes exit.json;
//!     v                  v                                  until none is left                   the shim ends
//!  the shim ends      Exiting
//! ```
//!
//! Ways to fail: a failed start leaves `Created`. A process that cannot be killed (uninterruptible) delays `Exited` by
//! at most `KILL_TIMEOUT`, and the exit says so. An exit that cannot be recorded is retried as long, and then reaches
//! only the waiting clients. A log that cannot be written loses entries, and the container is not affected. If a client
//! disconnects, its checkpoint is cancelled and its exec is killed.

mod checkpoint_thread;
mod client_connection;
mod command;
mod container;
mod exec;
mod execs;
mod log;
mod members;
mod requests;
mod restore;
mod stats;
mod streams;

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd},
};

use super::{ExitRecord, LaunchSpec, ShimState, message::ShimReply, state_dir};
use crate::process::{ProcessId, daemon};

/// How long processes that cannot be killed delay the container's exit.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval between rounds of killing: processes may be forked meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How long a client that does not read delays the end of the shim.
const CLIENT_LINGER: Duration = Duration::from_secs(1);

/// The state of the container.
enum ShimStage {
    Created,
    Running {
        init: ProcessId,
        started_at_ns: i64,
    },
    Exiting {
        init: ProcessId,
        exit: ExitRecord,
        since: Instant,
    },
    Exited {
        exit: ExitRecord,
        since: Instant,
    },
}

pub(super) struct ShimServer {
    spec: LaunchSpec,
    shim_process: ProcessId,
    listener: UnixListener,
    signals: SignalFd,
    wake_pipe: OwnedFd,
    shared: Arc<checkpoint_thread::SharedState>,
    connections: BTreeMap<u64, client_connection::ClientConnection>,
    last_connection_id: u64,
    log: log::LogWriter,
    outputs: Vec<streams::OutputStream>,
    /// The shim's end of the container's standard input.
    stdin: Option<OwnedFd>,
    stage: ShimStage,
    /// The init of the pid namespace of a restored container.
    ns_init: Option<ProcessId>,
    execs: Vec<exec::RunningExec>,
    /// The connection of the running checkpoint.
    checkpoint_connection: Option<u64>,
    /// The container ended during the checkpoint, which was cancelled for that reason.
    exited_during_checkpoint: bool,
    reaped_cpu: stats::ReapedCpu,
    /// Set when the shim must end although no container has ended.
    shutdown_since: Option<Instant>,
}

#[derive(Clone, Copy)]
enum ReadySource {
    Listener,
    Signals,
    WakePipe,
    Output(usize),
    Exec(usize, usize),
    Connection(u64),
}

impl ShimServer {
    /// Prepares everything that can fail, so that a failed launch has a reason.
    pub(super) fn new(spec: LaunchSpec) -> io::Result<Self> {
        let shim_process = ProcessId::current()?;
        let signals = daemon::block_to_signalfd(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
        let (shared, wake_pipe) = checkpoint_thread::SharedState::new(shim_process.pid)?;
        let log = log::LogWriter::open(spec.log.as_deref())?;
        state_dir::write_json(&spec.dir, state_dir::SHIM_FILE, &shim_process)?;
        let (_dir_fd, path) = state_dir::socket_path(&spec.dir)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            spec,
            shim_process,
            listener,
            signals,
            wake_pipe,
            shared,
            connections: BTreeMap::new(),
            last_connection_id: 0,
            log,
            outputs: Vec::new(),
            stdin: None,
            stage: ShimStage::Created,
            ns_init: None,
            execs: Vec::new(),
            checkpoint_connection: None,
            exited_during_checkpoint: false,
            reaped_cpu: stats::ReapedCpu::default(),
            shutdown_since: None,
        })
    }

    pub(super) fn process(&self) -> ProcessId {
        self.shim_process
    }

    /// Runs until the container has exited. An error never ends the shim of a running container: it is reported once,
    /// and the step is tried again.
    pub(super) fn serve(mut self) {
        let mut last_error = String::new();
        while !self.is_finished() {
            if let Err(error) = self.run_once() {
                let error = error.to_string();
                if error != last_error {
                    eprintln!("{error}");
                    last_error = error;
                }
                thread::sleep(RETRY_INTERVAL);
                // A SIGCHLD may have been read without its children being reaped.
                let _ = self.reap_children();
            }
        }
    }

    fn run_once(&mut self) -> io::Result<()> {
        for source in self.wait_ready()? {
            self.handle(source)?;
        }
        self.drop_closed();
        self.advance_execs()?;
        self.advance_exit()
    }

    fn state(&self) -> ShimState {
        match &self.stage {
            ShimStage::Created => ShimState::Created,
            ShimStage::Running { init, started_at_ns } => ShimState::Running {
                init: *init,
                started_at_ns: *started_at_ns,
            },
            ShimStage::Exiting { init, exit, .. } => ShimState::Running {
                init: *init,
                started_at_ns: exit.started_at_ns,
            },
            // The client reads the exit record next.
            ShimStage::Exited { .. } => ShimState::Created,
        }
    }

    fn is_finished(&self) -> bool {
        let since = match (&self.stage, self.shutdown_since) {
            (ShimStage::Exited { since, .. }, _) => *since,
            (ShimStage::Created, Some(since)) => since,
            _ => return false,
        };
        let unsent = self
            .connections
            .values()
            .any(client_connection::ClientConnection::has_unsent);
        self.checkpoint_connection.is_none() && self.execs.is_empty() && (!unsent || since.elapsed() > CLIENT_LINGER)
    }

    /// Waits until a descriptor is ready or a deadline has passed.
    fn wait_ready(&self) -> io::Result<Vec<ReadySource>> {
        let mut fds = Vec::new();
        let mut sources = Vec::new();
        let mut add_source = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        add_source(ReadySource::Listener, self.listener.as_fd(), PollFlags::POLLIN);
        add_source(ReadySource::Signals, self.signals.as_fd(), PollFlags::POLLIN);
        add_source(ReadySource::WakePipe, self.wake_pipe.as_fd(), PollFlags::POLLIN);
        for (index, output) in self.outputs.iter().enumerate() {
            add_source(ReadySource::Output(index), output.fd.as_fd(), PollFlags::POLLIN);
        }
        for (index, exec) in self.execs.iter().enumerate() {
            // A client that does not read blocks the command, as a full pipe would.
            if self
                .connections
                .get(&exec.connection)
                .is_some_and(client_connection::ClientConnection::is_full)
            {
                continue;
            }
            for (stream, fd) in exec.streams.iter().enumerate() {
                if let Some(fd) = fd {
                    add_source(ReadySource::Exec(index, stream), fd.as_fd(), PollFlags::POLLIN);
                }
            }
        }
        for (id, connection) in &self.connections {
            let flags = if connection.has_unsent() {
                PollFlags::POLLIN | PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            add_source(ReadySource::Connection(*id), connection.as_fd(), flags);
        }
        let timeout = match self.next_deadline() {
            // Rounded up: a poll that ends just before the deadline would be followed by one with a timeout of zero.
            Some(deadline) => {
                let remaining = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(remaining).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = fds
            .iter()
            .zip(sources)
            .filter(|(fd, _)| fd.any().unwrap_or(true))
            .map(|(_, source)| source);
        Ok(ready.collect())
    }

    /// The time of the next step that no descriptor triggers.
    fn next_deadline(&self) -> Option<Instant> {
        let retry_at = Instant::now() + RETRY_INTERVAL;
        let is_exiting =
            matches!(self.stage, ShimStage::Exiting { .. } | ShimStage::Exited { .. }) || self.shutdown_since.is_some();
        let has_exec_to_finish = self
            .execs
            .iter()
            .any(|exec| exec.kill_since.is_some() || exec.exit_code.is_some());
        let exec_deadline = self.execs.iter().filter_map(|exec| exec.deadline).min();
        [(is_exiting || has_exec_to_finish).then_some(retry_at), exec_deadline]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle(&mut self, source: ReadySource) -> io::Result<()> {
        match source {
            ReadySource::Listener => loop {
                match self.listener.accept() {
                    Ok((socket, _)) => {
                        self.last_connection_id += 1;
                        self.connections.insert(
                            self.last_connection_id,
                            client_connection::ClientConnection::new(socket)?,
                        );
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    // The client has disconnected, or no descriptor is free: the next connection is accepted later.
                    Err(error) => {
                        eprintln!("accept a connection: {error}");
                        return Ok(());
                    }
                }
            },
            ReadySource::Signals => {
                while let Some(info) = self.signals.read_signal()? {
                    if info.ssi_signo != Signal::SIGCHLD as u32 && info.ssi_signo != Signal::SIGHUP as u32 {
                        self.begin_shutdown();
                    }
                }
                self.reap_children()
            }
            ReadySource::WakePipe => {
                streams::read_available(self.wake_pipe.as_fd(), |_| {})?;
                self.checkpoint_events()
            }
            ReadySource::Output(index) => {
                let Some(output) = self.outputs.get_mut(index) else {
                    return Ok(());
                };
                if output.pump(&mut self.log)? {
                    // Removal shifts the later outputs, which may be ready too. They are ready again in the next round.
                    self.outputs.remove(index).drain(&mut self.log);
                }
                Ok(())
            }
            ReadySource::Exec(index, stream) => {
                let Some(exec) = self.execs.get_mut(index) else {
                    return Ok(());
                };
                let connection = self.connections.get_mut(&exec.connection);
                exec.pump(stream, connection)
            }
            ReadySource::Connection(id) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return Ok(());
                };
                connection.flush();
                for request in connection.receive() {
                    self.handle_request(id, request)?;
                }
                Ok(())
            }
        }
    }

    /// Removes closed connections, and ends their checkpoint and execs.
    fn drop_closed(&mut self) {
        let closed: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.closed)
            .map(|(id, _)| *id)
            .collect();
        for id in closed {
            self.connections.remove(&id);
            if self.checkpoint_connection == Some(id) {
                self.shared.cancel();
            }
            for exec in self.execs.iter_mut().filter(|exec| exec.connection == id) {
                exec.kill_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn send(&mut self, id: u64, reply: &ShimReply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(reply);
        }
    }
}
