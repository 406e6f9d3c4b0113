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

use super::{Exit, client, folder};
use crate::process::{ProcessId, pidfd::PidFd};

/// How long to wait before what failed for want of a descriptor is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// What is known of a shim's end.
#[derive(Debug, Default)]
struct Ending {
    exit: Option<Exit>,
    gone: bool,
}

/// News of a shim's end. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Monitor(watch::Receiver<Ending>);

impl Monitor {
    /// Starts the task. `child` is the shim where this process is its parent: it is reaped then.
    pub(super) fn start(dir: PathBuf, process: ProcessId, child: Option<Child>) -> Self {
        let (told, news) = watch::channel(Ending::default());
        tokio::spawn(async move {
            let exit = exit(&dir, process).await;
            told.send_modify(|ending| ending.exit = Some(exit));
            while ended(process).await.is_err() {
                sleep(AGAIN).await;
            }
            if let Some(mut child) = child {
                // It has ended, so this does not wait.
                let _ = child.wait();
            }
            told.send_modify(|ending| ending.gone = true);
        });
        Self(news)
    }

    /// How the container ended, once it has.
    pub(super) async fn exit(&self) -> Exit {
        let mut news = self.0.clone();
        let exit = news.wait_for(|ending| ending.exit.is_some()).await;
        match exit.ok().and_then(|ending| ending.exit.clone()) {
            Some(exit) => exit,
            // The task ends before it knows only with the async runtime, and so does this wait.
            None => future::pending().await,
        }
    }

    /// Comes when the shim's process is gone.
    pub(super) async fn gone(&self) {
        if self.0.clone().wait_for(|ending| ending.gone).await.is_err() {
            future::pending::<()>().await;
        }
    }
}

/// The exit as the shim tells it, or as its record says after its end.
async fn exit(dir: &std::path::Path, process: ProcessId) -> Exit {
    loop {
        if let Ok(exit) = client::told_exit(dir).await {
            return exit;
        }
        let gone = ended(process).await;
        match folder::read(dir, folder::EXIT) {
            Ok(Some(exit)) => return exit,
            Ok(None) if gone.is_ok() => return client::lost(),
            // Nothing is known for certain (no descriptor left, a folder that cannot be read): ask again.
            _ => sleep(AGAIN).await,
        }
    }
}

/// Comes when a process has ended; it may not be reaped yet.
async fn ended(process: ProcessId) -> std::io::Result<()> {
    match PidFd::open(process) {
        Ok(handle) => handle.ended().await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
