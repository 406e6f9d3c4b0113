//! Handles the requests of clients.

use std::io;

use super::{
    super::message::{Refusal, ShimReply, ShimRequest},
    ShimServer, ShimStage, checkpoint_thread,
};
use crate::{
    checkpoint::{ErrorKind, Failure, Job},
    fault::CheckpointFaults,
    process::pidfd,
};

impl ShimServer {
    pub(super) fn handle_request(&mut self, id: u64, request: ShimRequest) -> io::Result<()> {
        let reply = match request {
            ShimRequest::State => match &self.stage {
                ShimStage::Exited { exit, .. } => ShimReply::Exited(exit.clone()),
                _ => ShimReply::State(self.state()),
            },
            ShimRequest::Start => match self.start() {
                Ok((init, started_at_ns)) => ShimReply::Started { init, started_at_ns },
                Err(refusal) => ShimReply::Refused(refusal),
            },
            ShimRequest::Wait => {
                if let ShimStage::Exited { exit, .. } = &self.stage {
                    ShimReply::Exited(exit.clone())
                } else {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.waits_for_exit = true;
                    }
                    return Ok(());
                }
            }
            ShimRequest::Signal(signal) => match self.init() {
                Some(init) => match pidfd::signal(init, signal) {
                    Ok(true) => ShimReply::Done,
                    Ok(false) => self.not_running_reply("signalled"),
                    Err(error) => ShimReply::Refused(Refusal::Other(format!("send signal {signal}: {error}"))),
                },
                None => self.not_running_reply("signalled"),
            },
            ShimRequest::KillAll => {
                self.kill_descendants()?;
                ShimReply::Done
            }
            ShimRequest::Stats => match self.stats()? {
                Some(stats) => ShimReply::Stats(stats),
                None => self.not_running_reply("measured"),
            },
            ShimRequest::Exec { argv, env, timeout } => match self.start_exec(id, &argv, env, timeout) {
                // The reply is sent when the command has ended.
                Ok(()) => return Ok(()),
                Err(refusal) => ShimReply::Refused(refusal),
            },
            ShimRequest::ReopenLog => match self.log.reopen() {
                Ok(()) => ShimReply::Done,
                Err(error) => ShimReply::Refused(Refusal::Other(error.to_string())),
            },
            ShimRequest::Checkpoint(job, faults) => match self.begin_checkpoint(id, *job, faults) {
                Ok(()) => return Ok(()),
                Err(failure) => ShimReply::CheckpointResult(Err(failure)),
            },
            ShimRequest::PhaseAck => {
                if self.checkpoint_connection == Some(id) {
                    self.shared.ack_phase();
                }
                return Ok(());
            }
            ShimRequest::Shutdown => {
                self.begin_shutdown();
                ShimReply::Done
            }
        };
        self.send(id, &reply);
        Ok(())
    }

    pub(super) fn not_running_reply(&self, action: &str) -> ShimReply {
        ShimReply::Refused(self.not_running_refusal(action))
    }

    pub(super) fn not_running_refusal(&self, action: &str) -> Refusal {
        let id = &self.spec.container_id;
        Refusal::State(format!(
            "container {id} is {}: it can only be {action} while it is running",
            self.state_name()
        ))
    }

    fn begin_checkpoint(&mut self, id: u64, job: Job, faults: CheckpointFaults) -> Result<(), Failure> {
        let Some(_) = self.init() else {
            let message = format!(
                "container {} is {}, not running",
                self.spec.container_id,
                self.state_name()
            );
            return Err(Failure {
                kind: ErrorKind::NotRunning,
                message,
            });
        };
        if self.checkpoint_connection.is_some() {
            let message = format!(
                "another checkpoint of container {} is under way",
                self.spec.container_id
            );
            return Err(Failure {
                kind: ErrorKind::Busy,
                message,
            });
        }
        let peer = self
            .connections
            .get(&id)
            .and_then(super::client_connection::ClientConnection::peer);
        self.exited_during_checkpoint = false;
        // Set before the thread starts: from now on only untraced children are reaped.
        self.checkpoint_connection = Some(id);
        checkpoint_thread::start(&self.shared, job, faults, peer).map_err(|error| {
            self.checkpoint_connection = None;
            Failure {
                kind: ErrorKind::Capture,
                message: format!("start the checkpoint thread: {error}"),
            }
        })
    }
}
