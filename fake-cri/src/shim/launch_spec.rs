//! What a shim is told about its container before it starts it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{checkpoint::RestoreOptions, process::identity::Identity, workload};

/// Everything a shim must know to run one container.
///
/// It travels through a pipe and is kept in the shim's memory alone: the environment may hold secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The container's id. Its processes carry it in the environment variable [`super::CONTAINER_ID_ENV`].
    pub container_id: String,
    /// The shim's own folder: its socket, its record and the container's exit record. Absolute, of any length; made with
    /// mode 0700 when it is missing. It belongs to this container alone.
    pub dir: PathBuf,
    /// The container's command with its arguments. Not empty but for [`LaunchProgram::Restore`].
    pub argv: Vec<String>,
    /// The container's environment, in its order. The marker is added to it, nothing else.
    pub env: Vec<(String, String)>,
    /// The working directory; `/` when there is none. For [`LaunchProgram::Workload`] a folder that this host lacks is passed
    /// over, for [`LaunchProgram::Host`] it fails the start.
    pub cwd: Option<PathBuf>,
    /// The container's log, in the CRI log format; its folder is made when it is missing. `None`: output is dropped.
    pub log: Option<PathBuf>,
    /// Keep standard input open (nobody writes to it yet); otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Standard input ends with the first client that attached to it. Kept for later: there is no Attach yet.
    pub stdin_once: bool,
    /// Give the container a terminal: one stream, logged as stdout.
    pub tty: bool,
    /// As whom its processes run, commands beside it included; as fake-cri where there is none. Of a restored container the
    /// archive says it.
    pub identity: Option<Identity>,
    /// What really runs.
    pub program: LaunchProgram,
}

/// What runs as the container's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LaunchProgram {
    /// fake-cri's own workload under the container's argv, environment and working directory.
    Workload(workload::WorkloadOptions),
    /// The container's command on this host, as it is.
    Host,
    /// What the checkpoint archive at this path holds, going on where it was. Command, environment and working directory are the
    /// archive's; those given are for commands beside the container.
    Restore {
        /// The archive, or a checkpoint image.
        archive: PathBuf,
        /// What of it may be lost.
        options: RestoreOptions,
    },
}
