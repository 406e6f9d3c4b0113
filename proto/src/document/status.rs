use serde::{Deserialize, Serialize};

use super::status_dump::Resources;
use crate::runtime::v1;

/// The only version that containerd defines.
pub const STATUS_VERSION: &str = "v1";

/// `status`: containerd's internal container status. Times are nanoseconds since the Unix epoch; 0 means not yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Status {
    /// Always [`STATUS_VERSION`].
    pub version: String,
    /// The pid of the init process in the pid namespace of the host; 0 if the container is not running.
    pub pid: u32,
    /// The creation time.
    pub created_at: i64,
    /// The start time.
    pub started_at: i64,
    /// The exit time.
    pub finished_at: i64,
    /// The exit code.
    pub exit_code: i32,
    /// The reason of the state, in CamelCase.
    pub reason: String,
    /// The reason of the state, as text.
    pub message: String,
    /// The resource limits; null if there are none.
    pub resources: Option<Resources>,
}

impl Status {
    /// Builds the document from a ContainerStatus and the pid, which ContainerStatus does not have.
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
