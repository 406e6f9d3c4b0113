//! How fake-cri learns of a shim's end: one task and one descriptor a shim, however many wait.
//!
//! ```text
//!  connection with Request::Wait ----> exit told, or the connection ends ----> pidfd, only from here on
//!                                         |                                       |
//!                                         v                                       v
//!                                   Monitor::exit                       reaped, Monitor::gone
//! ```

use std::{future, path::PathBuf, process::Child, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{ExitRecord, client, state_dir};
use crate::process::{ProcessId, pidfd::PidFd};

/// How long to wait before what failed for want of a descriptor is tried again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is known of a shim's end.
#[derive(Debug, Default)]
struct ShimEnd {
    exit: Option<ExitRecord>,
    gone: bool,
}

/// News of a shim's end. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ExitMonitor(watch::Receiver<ShimEnd>);

impl ExitMonitor {
    /// Starts the task. `child` is the shim where this process is its parent: it is reaped then.
    pub(super) fn start(dir: PathBuf, process: ProcessId, child: Option<Child>) -> Self {
        let (sender, receiver) = watch::channel(ShimEnd::default());
        tokio::spawn(async move {
            let exit = fetch_exit(&dir, process).await;
            sender.send_modify(|end| end.exit = Some(exit));
            while wait_process_exit(process).await.is_err() {
                sleep(POLL_INTERVAL).await;
            }
            if let Some(mut child) = child {
                // It has ended, so this does not wait.
                let _ = child.wait();
            }
            sender.send_modify(|end| end.gone = true);
        });
        Self(receiver)
    }

    /// How the container ended, once it has.
    pub(super) async fn wait_exit(&self) -> ExitRecord {
        let mut receiver = self.0.clone();
        let exit = receiver.wait_for(|end| end.exit.is_some()).await;
        match exit.ok().and_then(|end| end.exit.clone()) {
            Some(exit) => exit,
            // The task ends before it knows only with the async runtime, and so does this wait.
            None => future::pending().await,
        }
    }

    /// Comes when the shim's process is gone.
    pub(super) async fn wait_gone(&self) {
        if self.0.clone().wait_for(|end| end.gone).await.is_err() {
            future::pending::<()>().await;
        }
    }
}

/// The exit as the shim tells it, or as its record says after its end.
async fn fetch_exit(dir: &std::path::Path, process: ProcessId) -> ExitRecord {
    loop {
        if let Ok(exit) = client::fetch_exit(dir).await {
            return exit;
        }
        let gone = wait_process_exit(process).await;
        match state_dir::read_json(dir, state_dir::EXIT_FILE) {
            Ok(Some(exit)) => return exit,
            Ok(None) if gone.is_ok() => return client::lost_exit(),
            // Nothing is known for certain (no descriptor left, a folder that cannot be read): ask again.
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Comes when a process has ended; it may not be reaped yet.
async fn wait_process_exit(process: ProcessId) -> std::io::Result<()> {
    match PidFd::open(process) {
        Ok(pidfd) => pidfd.wait_exit().await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
