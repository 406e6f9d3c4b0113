//! `status.dump`: the CRI's ContainerStatus in JSON.
//!
//! The field names are the `.proto` file's, except for the two id mappings of a mount, which it spells in camelCase.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::go::is_empty;
use crate::runtime::v1;

/// A struct for a message of the CRI: the same fields, Go's `omitempty` on each, and the conversion.
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

/// From a field of the message to the field of the document.
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
    /// `status.dump`: what ContainerStatus answered for the container, without the verbose part.
    StatusDump from ContainerStatus {
        /// The container's full id.
        id: String,
        /// Its name in the pod.
        metadata: Option<Metadata>,
        /// The number of its `ContainerState`; 0, created, is left out.
        state: i32,
        /// When it was created, in nanoseconds since the epoch.
        created_at: i64,
        /// When it was started; 0 for not yet.
        started_at: i64,
        /// When it ended; 0 for not yet.
        finished_at: i64,
        /// Its exit code.
        exit_code: i32,
        /// Its image.
        image: Option<Image>,
        /// The image as the runtime resolved it.
        image_ref: String,
        /// Why it is in its state, in CamelCase.
        reason: String,
        /// The same for people.
        message: String,
        /// Labels as they were sent.
        labels: BTreeMap<String, String>,
        /// Annotations as they were sent.
        annotations: BTreeMap<String, String>,
        /// Its mounts.
        mounts: Vec<Mount>,
        /// The file of its log, absolute.
        log_path: String,
        /// Its limits.
        resources: Option<Resources>,
        /// The image's id.
        image_id: String,
        /// The user its first process was started as.
        user: Option<User>,
        /// The number of the signal that stops it.
        stop_signal: i32,
    }

    /// A container's name in its pod.
    Metadata from ContainerMetadata {
        /// The name.
        name: String,
        /// How often it was made before, from 0.
        attempt: u32,
    }

    /// An image as the caller named it.
    Image from ImageSpec {
        /// Reference or id.
        image: String,
        /// Annotations of the image.
        annotations: BTreeMap<String, String>,
        /// What stands in the pod.
        user_specified_image: String,
        /// The runtime handler it was pulled for.
        runtime_handler: String,
        /// The reference to pull it by.
        image_ref: String,
    }

    /// A mount of the container.
    Mount from Mount {
        /// Path in the container.
        container_path: String,
        /// Path on the host.
        host_path: String,
        /// Whether it is read-only.
        readonly: bool,
        /// Whether SELinux labels are set anew.
        selinux_relabel: bool,
        /// The number of its `MountPropagation`.
        propagation: i32,
        /// Uids of the mount in the container.
        #[serde(rename = "uidMappings")]
        uid_mappings: Vec<IdMapping>,
        /// Gids of the mount in the container.
        #[serde(rename = "gidMappings")]
        gid_mappings: Vec<IdMapping>,
        /// Whether what is mounted below it is read-only too.
        recursive_read_only: bool,
        /// The image that is mounted, instead of a path.
        image: Option<Image>,
        /// The folder of that image.
        image_sub_path: String,
        /// Options of the mount.
        mount_options: Vec<String>,
    }

    /// A range of ids.
    IdMapping from IdMapping {
        /// The first on the host.
        host_id: u32,
        /// The first in the container.
        container_id: u32,
        /// How many.
        length: u32,
    }

    /// A container's limits.
    Resources from ContainerResources {
        /// Those of Linux.
        linux: Option<LinuxResources>,
        /// Those of Windows.
        windows: Option<WindowsResources>,
    }

    /// Limits of Linux.
    LinuxResources from LinuxContainerResources {
        /// Period of the CPU quota, in microseconds.
        cpu_period: i64,
        /// CPU time in a period, in microseconds.
        cpu_quota: i64,
        /// Weight against others.
        cpu_shares: i64,
        /// Memory, in bytes.
        memory_limit_in_bytes: i64,
        /// What makes the kernel kill it rather than others.
        oom_score_adj: i64,
        /// CPUs it may run on.
        cpuset_cpus: String,
        /// Memory nodes it may use.
        cpuset_mems: String,
        /// Huge pages, by size.
        hugepage_limits: Vec<HugepageLimit>,
        /// Files of cgroup v2 and what is written to them.
        unified: BTreeMap<String, String>,
        /// Memory and swap, in bytes.
        memory_swap_limit_in_bytes: i64,
    }

    /// A limit of huge pages.
    HugepageLimit from HugepageLimit {
        /// Size of a page: `2MB`.
        page_size: String,
        /// Bytes.
        limit: u64,
    }

    /// Limits of Windows.
    WindowsResources from WindowsContainerResources {
        /// Weight against others.
        cpu_shares: i64,
        /// CPUs.
        cpu_count: i64,
        /// Share of the CPU time, in hundredths of a percent.
        cpu_maximum: i64,
        /// Memory, in bytes.
        memory_limit_in_bytes: i64,
        /// The root filesystem, in bytes.
        rootfs_size_in_bytes: i64,
        /// Processors it may run on.
        affinity_cpus: Vec<CpuGroupAffinity>,
    }

    /// Processors of one group.
    CpuGroupAffinity from WindowsCpuGroupAffinity {
        /// The processors, a bit each.
        cpu_mask: u64,
        /// The group.
        cpu_group: u32,
    }

    /// The user of a container's first process.
    User from ContainerUser {
        /// That of Linux.
        linux: Option<LinuxUser>,
    }

    /// Uid and gids.
    LinuxUser from LinuxContainerUser {
        /// The uid.
        uid: i64,
        /// The primary gid.
        gid: i64,
        /// The others.
        supplemental_groups: Vec<i64>,
    }
}
