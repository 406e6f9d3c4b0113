//! What a shim must know to run its container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{checkpoint::RestoreOptions, process::identity::Identity, workload};

/// The configuration of one container.
///
/// It is sent through a pipe and kept only in the shim's memory, because the environment may hold secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The container's id. Its processes have it in the environment variable [`crate::environment::CONTAINER_ID_ENV`].
    pub container_id: String,
    /// The shim's directory: socket, shim record and exit record. Absolute, of any length; created with mode 0700 if
    /// missing. Must not be shared with another container.
    pub dir: PathBuf,
    /// The command with its arguments. May be empty only for [`LaunchProgram::Restore`].
    pub argv: Vec<String>,
    /// The environment, in order. The shim adds only [`crate::environment::CONTAINER_ID_ENV`].
    pub env: Vec<(String, String)>,
    /// The working directory; default `/`. If this host has no such directory, [`LaunchProgram::Workload`] runs in `/`
    /// and [`LaunchProgram::Host`] fails the start.
    pub cwd: Option<PathBuf>,
    /// The log file in the CRI format; its directory is created if missing. `None` discards the output.
    pub log: Option<PathBuf>,
    /// Keeps standard input open without a writer; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Standard input ends with the first attached client. Not used yet: there is no Attach.
    pub stdin_once: bool,
    /// Allocates a terminal: one stream, logged as stdout.
    pub tty: bool,
    /// The credentials of the container and of execs; fake-cri's if `None`. A restored container has those of its
    /// archive.
    pub identity: Option<Identity>,
    /// The program that runs.
    pub program: LaunchProgram,
}

/// The program that runs as the container's first process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LaunchProgram {
    /// The test workload, with the container's argv, environment and working directory.
    Workload(workload::WorkloadOptions),
    /// The container's command, executed on this host.
    Host,
    /// The processes of a checkpoint archive. Command, environment and working directory are those of the archive; the
    /// given ones are for execs.
    Restore {
        /// The path of the archive or checkpoint image.
        archive: PathBuf,
        /// The state that the restore may lose.
        options: RestoreOptions,
    },
}
