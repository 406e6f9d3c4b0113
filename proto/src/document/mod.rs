//! The JSON documents of a checkpoint archive: containerd and CRI-O write them, checkpointctl reads them.
//!
//! | member | type | written by |
//! |---|---|---|
//! | `config.dump` | [`ConfigDump`] | both |
//! | `spec.dump` | [`SpecDump`] | both |
//! | `status.dump` | [`StatusDump`] | containerd |
//! | `status` | [`Status`] | containerd |
//! | `checkpoint/descriptors.json` | [`Descriptors`] | runc |
//! | `deleted.files` | [`DeletedFiles`] | CRI-O, when files were deleted |
//! | `bind.mounts` | [`BindMount`], an array | CRI-O, when a restore must create bind mount sources |
//!
//! Reading ignores unknown fields, as Go does. Writing gives the same bytes as Go's `encoding/json`: no empty fields,
//! numbers for enums, sorted map keys, and `<`, `>` and `&` escaped (see [`to_json`]).
//!
//! Sources: checkpointctl `lib/metadata.go` (1.6), containerd `internal/cri/store/container/status.go` (2.4), cri-api
//! `api.pb.go`.

mod config;
mod go;
mod member;
mod status;
mod status_dump;

use serde::{Deserialize, Serialize};

pub use config::{ConfigDump, zero_time};
pub use go::to_json;
pub use member::{
    BIND_MOUNTS, CHECKPOINT_DIRECTORY, CONFIG_DUMP, CONTAINER_LOG, CRIO_LOG, DELETED_FILES, DESCRIPTORS, DUMP_LOG,
    NETWORK_STATUS, PODMAN_LOG, ROOTFS_DIFF, SPEC_DUMP, STATUS, STATUS_DUMP,
};
pub use status::{STATUS_VERSION, Status};
pub use status_dump::{
    CpuGroupAffinity, HugepageLimit, IdMapping, Image, LinuxResources, LinuxUser, Metadata, Mount, Resources,
    StatusDump, User, WindowsResources,
};

/// The parts of a [`SpecDump`].
pub use oci_spec::runtime as spec;

/// `spec.dump`: the `config.json` of the OCI runtime, with annotations of the engine.
pub type SpecDump = oci_spec::runtime::Spec;

/// `checkpoint/descriptors.json`: the targets of fds 0, 1 and 2 as shown by `/proc/PID/fd`.
pub type Descriptors = Vec<String>;

/// `deleted.files`: paths of the root filesystem that the container deleted.
pub type DeletedFiles = Vec<String>;

/// An element of `bind.mounts`: a mount source that a restore must create.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// The path on the host.
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// `file` or `directory`.
    pub file_type: String,
    /// The mode bits of the source.
    pub permissions: u32,
}
