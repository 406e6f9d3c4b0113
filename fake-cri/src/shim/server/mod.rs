//! The shim itself: one thread, one loop, no runtime.
//!
//! ```text
//!            Start                    first process ends           all are gone, log is complete
//!  Created ---------> Running -------------------------> Ending ---------------------------------> Over
//!     | Shutdown         | SIGTERM, Shutdown: all are     | what is left is killed, until            exit.json is there,
//!     v                  v killed                         | nothing is                               the shim ends
//!  the shim ends       Ending                             v
//! ```
//!
//! Ways to fail: a start that fails leaves `Created`; a process that cannot be killed (uninterruptible) holds `Ending` for
//! `ENDING` at most, and the exit says so; an exit that cannot be recorded is tried as long, and then known only to those
//! who wait for it; a log that cannot be written loses entries, never the container; a client that goes away loses its
//! answer, and ends the checkpoint or the command that it had asked for.

mod command;
mod container;
mod endpoint;
mod exec;
mod execs;
mod log;
mod members;
mod requests;
mod restored;
mod stats;
mod streams;
mod tracing;

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

use super::{Exit, LaunchSpec, State, folder, message::Reply};
use crate::process::{ProcessId, daemon};

/// How long processes that will not die hold back a container's end.
const ENDING: Duration = Duration::from_secs(10);

/// How often killing is repeated: processes may be born while others are killed.
const AGAIN: Duration = Duration::from_millis(10);

/// How long a client that reads nothing holds back the shim's end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The container's state, and what belongs to it.
enum Stage {
    Created,
    Running {
        init: ProcessId,
        started_at_ns: i64,
    },
    Ending {
        init: ProcessId,
        exit: Exit,
        since: Instant,
    },
    Over {
        exit: Exit,
        since: Instant,
    },
}

/// Everything a shim has.
pub(super) struct Server {
    spec: LaunchSpec,
    me: ProcessId,
    listener: UnixListener,
    signals: SignalFd,
    woken: OwnedFd,
    shared: Arc<tracing::Shared>,
    connections: BTreeMap<u64, endpoint::Connection>,
    last: u64,
    log: log::Log,
    outputs: Vec<streams::Output>,
    /// The shim's end of the container's standard input.
    input: Option<OwnedFd>,
    stage: Stage,
    /// Holds the pid namespace of a restored container.
    keeper: Option<ProcessId>,
    execs: Vec<exec::Exec>,
    /// The connection whose checkpoint is under way.
    checkpoint: Option<u64>,
    /// The container ended under the checkpoint, which was cancelled for that.
    ended_under_checkpoint: bool,
    spent: stats::Spent,
    /// End even though no container has ended.
    shutdown: Option<Instant>,
}

/// What became ready.
#[derive(Clone, Copy)]
enum Ready {
    Listener,
    Signals,
    Woken,
    Output(usize),
    Exec(usize, usize),
    Connection(u64),
}

impl Server {
    /// Prepares all that can fail, so that a launch fails with a reason.
    pub(super) fn new(spec: LaunchSpec) -> io::Result<Self> {
        let me = ProcessId::current()?;
        let signals =
            daemon::signals_as_descriptor(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
        let (shared, woken) = tracing::Shared::new(me.pid)?;
        let log = log::Log::open(spec.log.as_deref())?;
        folder::write(&spec.dir, folder::SHIM, &me)?;
        let (_held, path) = folder::socket(&spec.dir)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            spec,
            me,
            listener,
            signals,
            woken,
            shared,
            connections: BTreeMap::new(),
            last: 0,
            log,
            outputs: Vec::new(),
            input: None,
            stage: Stage::Created,
            keeper: None,
            execs: Vec::new(),
            checkpoint: None,
            ended_under_checkpoint: false,
            spent: stats::Spent::default(),
            shutdown: None,
        })
    }

    /// Who this shim is.
    pub(super) fn process(&self) -> ProcessId {
        self.me
    }

    /// Works until the container is over. Nothing that fails on the way ends a shim whose container lives: it is told once,
    /// and tried again.
    pub(super) fn serve(mut self) {
        let mut told = String::new();
        while !self.finished() {
            if let Err(error) = self.turn() {
                let error = error.to_string();
                if error != told {
                    eprintln!("{error}");
                    told = error;
                }
                thread::sleep(AGAIN);
                // What a signal told may not have been done.
                let _ = self.reap();
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        for what in self.wait()? {
            self.handle(what)?;
        }
        self.drop_closed();
        self.advance_execs()?;
        self.advance_end()
    }

    fn state(&self) -> State {
        match &self.stage {
            Stage::Created => State::Created,
            Stage::Running { init, started_at_ns } => State::Running {
                init: *init,
                started_at_ns: *started_at_ns,
            },
            Stage::Ending { init, exit, .. } => State::Running {
                init: *init,
                started_at_ns: exit.started_at_ns,
            },
            // A client that asks now reads the exit record next.
            Stage::Over { .. } => State::Created,
        }
    }

    fn finished(&self) -> bool {
        let since = match (&self.stage, self.shutdown) {
            (Stage::Over { since, .. }, _) => *since,
            (Stage::Created, Some(since)) => since,
            _ => return false,
        };
        let unsent = self.connections.values().any(endpoint::Connection::has_unsent);
        self.checkpoint.is_none() && self.execs.is_empty() && (!unsent || since.elapsed() > FAREWELL)
    }

    /// Sleeps until something is ready or due.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut fds = Vec::new();
        let mut whats = Vec::new();
        let mut watch = |what, fd, flags| {
            whats.push(what);
            fds.push(PollFd::new(fd, flags));
        };
        watch(Ready::Listener, self.listener.as_fd(), PollFlags::POLLIN);
        watch(Ready::Signals, self.signals.as_fd(), PollFlags::POLLIN);
        watch(Ready::Woken, self.woken.as_fd(), PollFlags::POLLIN);
        for (index, output) in self.outputs.iter().enumerate() {
            watch(Ready::Output(index), output.fd.as_fd(), PollFlags::POLLIN);
        }
        for (index, exec) in self.execs.iter().enumerate() {
            // A client that does not read holds the command back, as a pipe would.
            if self
                .connections
                .get(&exec.connection)
                .is_some_and(endpoint::Connection::is_full)
            {
                continue;
            }
            for (stream, fd) in exec.streams.iter().enumerate() {
                if let Some(fd) = fd {
                    watch(Ready::Exec(index, stream), fd.as_fd(), PollFlags::POLLIN);
                }
            }
        }
        for (id, connection) in &self.connections {
            let flags = if connection.has_unsent() {
                PollFlags::POLLIN | PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            watch(Ready::Connection(*id), connection.as_fd(), flags);
        }
        let timeout = match self.due() {
            // Rounded up: a timeout that ends just before the time would be followed by another one of zero.
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
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
            .zip(whats)
            .filter(|(fd, _)| fd.any().unwrap_or(true))
            .map(|(_, what)| what);
        Ok(ready.collect())
    }

    /// When something is to be done though nothing happens.
    fn due(&self) -> Option<Instant> {
        let again = Instant::now() + AGAIN;
        let ending = matches!(self.stage, Stage::Ending { .. } | Stage::Over { .. }) || self.shutdown.is_some();
        let killing = self
            .execs
            .iter()
            .any(|exec| exec.killing.is_some() || exec.code.is_some());
        let deadline = self.execs.iter().filter_map(|exec| exec.deadline).min();
        [(ending || killing).then_some(again), deadline]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle(&mut self, what: Ready) -> io::Result<()> {
        match what {
            Ready::Listener => loop {
                match self.listener.accept() {
                    Ok((socket, _)) => {
                        self.last += 1;
                        self.connections.insert(self.last, endpoint::Connection::new(socket)?);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    // One that was closed meanwhile, or no descriptor left for it: the next one is tried.
                    Err(error) => {
                        eprintln!("take a connection: {error}");
                        return Ok(());
                    }
                }
            },
            Ready::Signals => {
                while let Some(info) = self.signals.read_signal()? {
                    if info.ssi_signo != Signal::SIGCHLD as u32 && info.ssi_signo != Signal::SIGHUP as u32 {
                        self.shut_down();
                    }
                }
                self.reap()
            }
            Ready::Woken => {
                streams::read(self.woken.as_fd(), |_| {})?;
                self.checkpoint_events()
            }
            Ready::Output(index) => {
                let Some(output) = self.outputs.get_mut(index) else {
                    return Ok(());
                };
                if output.pump(&mut self.log)? {
                    // Removal would move those behind it, which may be ready too; one turn later they are ready again.
                    self.outputs.remove(index).drain(&mut self.log);
                }
                Ok(())
            }
            Ready::Exec(index, stream) => {
                let Some(exec) = self.execs.get_mut(index) else {
                    return Ok(());
                };
                let connection = self.connections.get_mut(&exec.connection);
                exec.pump(stream, connection)
            }
            Ready::Connection(id) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return Ok(());
                };
                connection.flush();
                for request in connection.receive() {
                    self.answer(id, request)?;
                }
                Ok(())
            }
        }
    }

    /// Forgets connections whose other side has gone, and ends what was done for it alone.
    fn drop_closed(&mut self) {
        let closed: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.closed)
            .map(|(id, _)| *id)
            .collect();
        for id in closed {
            self.connections.remove(&id);
            if self.checkpoint == Some(id) {
                self.shared.cancel();
            }
            for exec in self.execs.iter_mut().filter(|exec| exec.connection == id) {
                exec.killing.get_or_insert_with(Instant::now);
            }
        }
    }

    fn send(&mut self, id: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(reply);
        }
    }
}
