//! `status`.

use serde::{Deserialize, Serialize};

use super::status_dump::Resources;
use crate::runtime::v1;

/// The only version of the document that containerd has.
pub const STATUS_VERSION: &str = "v1";

/// `status`: the state that containerd keeps of a container. All times in nanoseconds since the epoch, 0 for not yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Status {
    /// [`STATUS_VERSION`].
    pub version: String,
    /// Pid of the container's first process in the host's namespace; 0 when it does not run.
    pub pid: u32,
    /// When the container was created.
    pub created_at: i64,
    /// When it was started.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// Its exit code.
    pub exit_code: i32,
    /// Why it is in its state, in CamelCase.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// Its limits; null when none were given.
    pub resources: Option<Resources>,
}

impl Status {
    /// The document for what ContainerStatus answers, and the pid, which the answer does not have.
    pub fn new(status: &v1::ContainerStatus, pid: u32) -> Self {
        Self {
            version: STATUS_VERSION.to_owned(),
            pid,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            resources: status.resources.clone().map(Resources::from),
        }
    }
}
