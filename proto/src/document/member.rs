//! The names of an archive's members.

/// The directory of CRIU's images. Its entry has to be in the archive: checkpointctl refuses one without.
pub const CHECKPOINT_DIRECTORY: &str = "checkpoint/";
/// What was checkpointed, when, by which runtime.
pub const CONFIG_DUMP: &str = "config.dump";
/// The OCI runtime specification.
pub const SPEC_DUMP: &str = "spec.dump";
/// The CRI's view of the container.
pub const STATUS_DUMP: &str = "status.dump";
/// containerd's own view of it.
pub const STATUS: &str = "status";
/// The container's log, in containerd's archives.
pub const CONTAINER_LOG: &str = "container.log";
/// The container's log, in CRI-O's archives.
pub const CRIO_LOG: &str = "io.kubernetes.cri-o.LogPath";
/// The container's log, in Podman's archives.
pub const PODMAN_LOG: &str = "ctr.log";
/// The addresses of the container, in Podman's archives.
pub const NETWORK_STATUS: &str = "network.status";
/// Files of the root filesystem that changed.
pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// Files of the root filesystem that are gone.
pub const DELETED_FILES: &str = "deleted.files";
/// Bind mounts that a restore makes again.
pub const BIND_MOUNTS: &str = "bind.mounts";
/// CRIU's log.
pub const DUMP_LOG: &str = "dump.log";
/// What the standard descriptors point at.
pub const DESCRIPTORS: &str = "checkpoint/descriptors.json";
