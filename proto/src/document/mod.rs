//! The JSON documents of a checkpoint archive, as containerd and CRI-O write them and checkpointctl reads them.
//!
//! | member | type | who writes it |
//! |---|---|---|
//! | `config.dump` | [`ConfigDump`] | both |
//! | `spec.dump` | [`SpecDump`] | both |
//! | `status.dump` | [`StatusDump`] | containerd |
//! | `status` | [`Status`] | containerd |
//! | `checkpoint/descriptors.json` | [`Descriptors`] | runc |
//! | `deleted.files` | [`DeletedFiles`] | CRI-O, when files were deleted |
//! | `bind.mounts` | [`BindMount`], an array | CRI-O, when a bind mount has to be made again |
//!
//! Reading takes what the engines write: fields that are not known are passed over, as Go does. Writing is byte for
//! byte what Go's `encoding/json` makes of the same values: empty fields left out, numbers for enums, keys of maps in
//! order, `<`, `>` and `&` escaped (see [`to_json`]).
//!
//! Source: checkpointctl `lib/metadata.go` (1.6), containerd `internal/cri/store/container/status.go` (2.4), cri-api
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

/// `spec.dump`: the OCI runtime's `config.json` with the engine's annotations.
pub type SpecDump = oci_spec::runtime::Spec;

/// `checkpoint/descriptors.json`: what descriptors 0, 1 and 2 point at, as `/proc/PID/fd` shows it.
pub type Descriptors = Vec<String>;

/// `deleted.files`: paths of the root filesystem that the container deleted.
pub type DeletedFiles = Vec<String>;

/// An element of `bind.mounts`: what a restore has to make before it can mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// `file` or `directory`.
    pub file_type: String,
    /// Mode bits of the source.
    pub permissions: u32,
}
