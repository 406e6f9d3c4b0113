//! The member names of an archive.

/// The directory of CRIU's images. The archive must have an entry for it: checkpointctl rejects an archive without the
/// entry.
pub const CHECKPOINT_DIRECTORY: &str = "checkpoint/";
/// The checkpointed container, the time, and the runtime.
pub const CONFIG_DUMP: &str = "config.dump";
/// The OCI runtime specification.
pub const SPEC_DUMP: &str = "spec.dump";
/// The ContainerStatus of the CRI.
pub const STATUS_DUMP: &str = "status.dump";
/// containerd's internal container status.
pub const STATUS: &str = "status";
/// The container log in containerd's archives.
pub const CONTAINER_LOG: &str = "container.log";
/// The container log in CRI-O's archives.
pub const CRIO_LOG: &str = "io.kubernetes.cri-o.LogPath";
/// The container log in Podman's archives.
pub const PODMAN_LOG: &str = "ctr.log";
/// The network addresses of the container in Podman's archives.
pub const NETWORK_STATUS: &str = "network.status";
/// Changed files of the root filesystem.
pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// Deleted files of the root filesystem.
pub const DELETED_FILES: &str = "deleted.files";
/// Bind mount sources that a restore must create.
pub const BIND_MOUNTS: &str = "bind.mounts";
/// CRIU's log.
pub const DUMP_LOG: &str = "dump.log";
/// The targets of fds 0, 1 and 2.
pub const DESCRIPTORS: &str = "checkpoint/descriptors.json";
