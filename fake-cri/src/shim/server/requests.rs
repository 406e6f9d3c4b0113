//! What the shim does when it is asked.

use std::io;

use super::{
    super::message::{Refusal, Reply, Request},
    Server, Stage, tracing,
};
use crate::{
    checkpoint::{ErrorKind, Failure, Job},
    process::pidfd,
};

impl Server {
    pub(super) fn answer(&mut self, id: u64, request: Request) -> io::Result<()> {
        let reply = match request {
            Request::State => match &self.stage {
                Stage::Over { exit, .. } => Reply::Exited(exit.clone()),
                _ => Reply::State(self.state()),
            },
            Request::Start => match self.start() {
                Ok((init, started_at_ns)) => Reply::Started { init, started_at_ns },
                Err(refusal) => Reply::Refused(refusal),
            },
            Request::Wait => {
                if let Stage::Over { exit, .. } = &self.stage {
                    Reply::Exited(exit.clone())
                } else {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.waits = true;
                    }
                    return Ok(());
                }
            }
            Request::Signal(signal) => match self.init() {
                Some(init) => match pidfd::signal(init, signal) {
                    Ok(true) => Reply::Done,
                    Ok(false) => self.not_running("signalled"),
                    Err(error) => Reply::Refused(Refusal::Other(format!("send signal {signal}: {error}"))),
                },
                None => self.not_running("signalled"),
            },
            Request::KillAll => {
                self.kill_everything()?;
                Reply::Done
            }
            Request::Stats => match self.stats()? {
                Some(stats) => Reply::Stats(stats),
                None => self.not_running("measured"),
            },
            Request::Exec { argv, env, timeout } => match self.exec(id, &argv, env, timeout) {
                // It is answered when the command has ended.
                Ok(()) => return Ok(()),
                Err(refusal) => Reply::Refused(refusal),
            },
            Request::ReopenLog => match self.log.reopen() {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(Refusal::Other(error.to_string())),
            },
            Request::Checkpoint(job) => match self.begin_checkpoint(id, *job) {
                Ok(()) => return Ok(()),
                Err(failure) => Reply::Checkpointed(Err(failure)),
            },
            Request::PhaseHeard => {
                if self.checkpoint == Some(id) {
                    self.shared.heard();
                }
                return Ok(());
            }
            Request::Shutdown => {
                self.shut_down();
                Reply::Done
            }
        };
        self.send(id, &reply);
        Ok(())
    }

    pub(super) fn not_running(&self, asked: &str) -> Reply {
        Reply::Refused(self.refuse(asked))
    }

    /// The container would have to run.
    pub(super) fn refuse(&self, asked: &str) -> Refusal {
        let id = &self.spec.container_id;
        Refusal::State(format!(
            "container {id} is {}: it can only be {asked} while it is running",
            self.word()
        ))
    }

    fn begin_checkpoint(&mut self, id: u64, job: Job) -> Result<(), Failure> {
        let Some(_) = self.init() else {
            let message = format!("container {} is {}, not running", self.spec.container_id, self.word());
            return Err(Failure {
                kind: ErrorKind::NotRunning,
                message,
            });
        };
        if self.checkpoint.is_some() {
            let message = format!(
                "another checkpoint of container {} is under way",
                self.spec.container_id
            );
            return Err(Failure {
                kind: ErrorKind::Busy,
                message,
            });
        }
        let peer = self.connections.get(&id).and_then(super::endpoint::Connection::peer);
        self.ended_under_checkpoint = false;
        // Before the thread is there: from now on only what no tracer holds is reaped.
        self.checkpoint = Some(id);
        tracing::start(&self.shared, job, peer).map_err(|error| {
            self.checkpoint = None;
            Failure {
                kind: ErrorKind::Capture,
                message: format!("start the checkpoint's thread: {error}"),
            }
        })
    }
}
