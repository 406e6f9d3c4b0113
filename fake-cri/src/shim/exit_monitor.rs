//! Notices the end of a shim: one task and one descriptor for each shim, however many callers wait.
//!
//! ```text
//!  connection with ShimRequest::Wait --> exit received, or the connection ends --> pidfd, only from here on
//!                                         |                                       |
//!                                         v                                       v
//!                                   ExitMonitor::wait_exit              reaped, ExitMonitor::wait_gone
//! ```

use std::{
    future,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::{
    ExitReason, ExitRecord, ShimError,
    connection::{connect, receive, send, unexpected_reply},
    message::{ShimReply, ShimRequest},
    state_dir,
};
use crate::process::{ProcessId, pidfd::PidFd};

/// Interval between attempts after a failure, for example for want of a descriptor.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct ShimEnd {
    exit: Option<ExitRecord>,
    gone: bool,
}

/// Reports the end of a shim. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ExitMonitor(watch::Receiver<ShimEnd>);

impl ExitMonitor {
    /// Starts the task. `child` is the shim process if this process is its parent, and is reaped by the task.
    pub(super) fn start(dir: PathBuf, process: ProcessId, child: Option<Child>) -> Self {
        let (sender, receiver) = watch::channel(ShimEnd::default());
        tokio::spawn(async move {
            let exit = fetch_exit(&dir, process).await;
            sender.send_modify(|end| end.exit = Some(exit));
            while wait_process_exit(process).await.is_err() {
                sleep(POLL_INTERVAL).await;
            }
            if let Some(mut child) = child {
                // The child has ended, so the call does not block.
                let _ = child.wait();
            }
            sender.send_modify(|end| end.gone = true);
        });
        Self(receiver)
    }

    pub(super) async fn wait_exit(&self) -> ExitRecord {
        let mut receiver = self.0.clone();
        let exit = receiver.wait_for(|end| end.exit.is_some()).await;
        match exit.ok().and_then(|end| end.exit.clone()) {
            Some(exit) => exit,
            // The task ends early only with the async runtime, and then this future ends too.
            None => future::pending().await,
        }
    }

    /// Returns when the shim process is gone.
    pub(super) async fn wait_gone(&self) {
        if self.0.clone().wait_for(|end| end.gone).await.is_err() {
            future::pending::<()>().await;
        }
    }
}

/// Returns the exit from the shim, or from its record after the shim has ended.
async fn fetch_exit(dir: &Path, process: ProcessId) -> ExitRecord {
    loop {
        if let Ok(exit) = request_exit(dir).await {
            return exit;
        }
        let gone = wait_process_exit(process).await;
        match state_dir::read_json(dir, state_dir::EXIT_FILE) {
            Ok(Some(exit)) => return exit,
            Ok(None) if gone.is_ok() => return lost_exit(),
            // Temporary failure, such as no free descriptor or an unreadable directory: try again.
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Waits for the exit on a connection to the shim.
async fn request_exit(dir: &Path) -> Result<ExitRecord, ShimError> {
    let mut socket = connect(dir).await?;
    send(&mut socket, &ShimRequest::Wait).await?;
    match receive(&mut socket).await? {
        ShimReply::Exited(exit) => Ok(exit),
        reply => Err(unexpected_reply(&reply)),
    }
}

/// Returns when a process has ended; the process may still be a zombie.
async fn wait_process_exit(process: ProcessId) -> std::io::Result<()> {
    match PidFd::open(process) {
        Ok(pidfd) => pidfd.wait_exit().await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The exit of a container whose shim ended without a record.
fn lost_exit() -> ExitRecord {
    ExitRecord {
        code: 255,
        signal: None,
        started_at_ns: 0,
        finished_at_ns: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        reason: ExitReason::Error,
        message: "the container's shim ended before it could record an exit".into(),
        shim_lost: true,
    }
}
