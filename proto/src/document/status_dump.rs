//! `status.dump`: the ContainerStatus of the CRI as JSON.
//!
//! The field names are those of the `.proto` file, where only the two id mappings of a mount are in camelCase.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::go::is_empty;
use crate::runtime::v1;

/// Defines a struct for a CRI message: the same fields with Go's `omitempty`, and the conversion from the message.
macro_rules! document {
    ($($(#[$doc:meta])* $name:ident from $message:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$attribute])* #[serde(skip_serializing_if = "is_empty")] pub $field: $type,)*
        }

        impl From<v1::$message> for $name {
            fn from(message: v1::$message) -> Self {
                Self { $($field: Convert::convert(message.$field),)* }
            }
        }

        impl Convert<v1::$message> for $name {
            fn convert(message: v1::$message) -> Self {
                message.into()
            }
        }
    )*};
}

/// Converts a field of the message to a field of the document.
trait Convert<T> {
    fn convert(value: T) -> Self;
}

macro_rules! identity_conversions {
    ($($type:ty),*) => {$(
        impl Convert<$type> for $type {
            fn convert(value: $type) -> Self {
                value
            }
        }
    )*};
}

identity_conversions!(bool, i32, i64, u32, u64, String);

impl<T, U: Convert<T>> Convert<Option<T>> for Option<U> {
    fn convert(value: Option<T>) -> Self {
        value.map(U::convert)
    }
}

impl<T, U: Convert<T>> Convert<Vec<T>> for Vec<U> {
    fn convert(value: Vec<T>) -> Self {
        value.into_iter().map(U::convert).collect()
    }
}

impl<S> Convert<std::collections::HashMap<String, String, S>> for BTreeMap<String, String> {
    fn convert(value: std::collections::HashMap<String, String, S>) -> Self {
        value.into_iter().collect()
    }
}

document! {
    /// `status.dump`: the status from ContainerStatus, without the verbose information.
    StatusDump from ContainerStatus {
        /// The full id of the container.
        id: String,
        /// The name of the container in the Pod.
        metadata: Option<Metadata>,
        /// The value of `ContainerState`; 0 (created) is omitted.
        state: i32,
        /// The creation time, in nanoseconds since the Unix epoch.
        created_at: i64,
        /// The start time; 0 if not started.
        started_at: i64,
        /// The exit time; 0 if not exited.
        finished_at: i64,
        /// The exit code.
        exit_code: i32,
        /// The image as the caller named it.
        image: Option<Image>,
        /// The image reference as the runtime resolved it.
        image_ref: String,
        /// The reason of the state, in CamelCase.
        reason: String,
        /// The reason of the state, as text.
        message: String,
        /// The labels of the request.
        labels: BTreeMap<String, String>,
        /// The annotations of the request.
        annotations: BTreeMap<String, String>,
        /// The mounts of the container.
        mounts: Vec<Mount>,
        /// The absolute path of the log.
        log_path: String,
        /// The resource limits.
        resources: Option<Resources>,
        /// The id of the image.
        image_id: String,
        /// The user of the init process.
        user: Option<User>,
        /// The value of `Signal` that stops the container.
        stop_signal: i32,
    }

    /// The name of a container in its Pod.
    Metadata from ContainerMetadata {
        /// The name of the container.
        name: String,
        /// The number of earlier instances of the container.
        attempt: u32,
    }

    /// An image as the caller named it.
    Image from ImageSpec {
        /// A reference or an id.
        image: String,
        /// The annotations of the image.
        annotations: BTreeMap<String, String>,
        /// The image in the Pod spec.
        user_specified_image: String,
        /// The runtime handler for which the image was pulled.
        runtime_handler: String,
        /// The reference used for the pull.
        image_ref: String,
    }

    /// A mount of the container.
    Mount from Mount {
        /// The path in the container.
        container_path: String,
        /// The path on the host.
        host_path: String,
        /// Whether the mount is read-only.
        readonly: bool,
        /// Whether the mount is relabelled for SELinux.
        selinux_relabel: bool,
        /// The value of `MountPropagation`.
        propagation: i32,
        /// The uid mappings of the mount.
        #[serde(rename = "uidMappings")]
        uid_mappings: Vec<IdMapping>,
        /// The gid mappings of the mount.
        #[serde(rename = "gidMappings")]
        gid_mappings: Vec<IdMapping>,
        /// Whether submounts are read-only too.
        recursive_read_only: bool,
        /// The image that is mounted instead of a path.
        image: Option<Image>,
        /// The directory of the image that is mounted.
        image_sub_path: String,
        /// Mount options.
        mount_options: Vec<String>,
    }

    /// A mapping of a range of ids.
    IdMapping from IdMapping {
        /// The first id on the host.
        host_id: u32,
        /// The first id in the container.
        container_id: u32,
        /// The number of ids.
        length: u32,
    }

    /// The resource limits of a container.
    Resources from ContainerResources {
        /// Limits on Linux.
        linux: Option<LinuxResources>,
        /// Limits on Windows.
        windows: Option<WindowsResources>,
    }

    /// Resource limits on Linux.
    LinuxResources from LinuxContainerResources {
        /// The period of the CPU quota, in microseconds.
        cpu_period: i64,
        /// The CPU time per period, in microseconds.
        cpu_quota: i64,
        /// The relative CPU weight.
        cpu_shares: i64,
        /// The memory limit in bytes.
        memory_limit_in_bytes: i64,
        /// The OOM score adjustment.
        oom_score_adj: i64,
        /// The CPUs of the cpuset.
        cpuset_cpus: String,
        /// The memory nodes of the cpuset.
        cpuset_mems: String,
        /// Limits of huge pages, by page size.
        hugepage_limits: Vec<HugepageLimit>,
        /// Values of cgroup v2 files, by file name.
        unified: BTreeMap<String, String>,
        /// The limit of memory plus swap in bytes.
        memory_swap_limit_in_bytes: i64,
    }

    /// A limit of huge pages.
    HugepageLimit from HugepageLimit {
        /// The page size, such as `2MB`.
        page_size: String,
        /// The limit in bytes.
        limit: u64,
    }

    /// Resource limits on Windows.
    WindowsResources from WindowsContainerResources {
        /// The relative CPU weight.
        cpu_shares: i64,
        /// The number of CPUs.
        cpu_count: i64,
        /// The maximum share of CPU time, in hundredths of a percent.
        cpu_maximum: i64,
        /// The memory limit in bytes.
        memory_limit_in_bytes: i64,
        /// The size of the root filesystem in bytes.
        rootfs_size_in_bytes: i64,
        /// The CPUs that the container may use.
        affinity_cpus: Vec<CpuGroupAffinity>,
    }

    /// The CPUs of one processor group.
    CpuGroupAffinity from WindowsCpuGroupAffinity {
        /// The bit mask of the CPUs.
        cpu_mask: u64,
        /// The processor group.
        cpu_group: u32,
    }

    /// The user of the init process.
    User from ContainerUser {
        /// The user on Linux.
        linux: Option<LinuxUser>,
    }

    /// The uid and gids of the init process.
    LinuxUser from LinuxContainerUser {
        /// The uid.
        uid: i64,
        /// The primary gid.
        gid: i64,
        /// The supplementary gids.
        supplemental_groups: Vec<i64>,
    }
}
