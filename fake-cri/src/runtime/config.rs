//! The options of the runtime.

use std::{path::PathBuf, time::Duration};

use super::delay::DelayModel;
use crate::checkpoint::Layout;

/// The options of a runtime. Most are flags of `fake-cri serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The executable of the shims: a program that calls [`crate::entry_point`] first in its `main`.
    pub executable: PathBuf,
    /// What a container executes.
    pub exec: ExecMode,
    /// The image catalogue that replaces the built-in one.
    pub images: Option<PathBuf>,
    /// Whether a pull of an image that is not in the catalogue fails.
    pub strict_images: bool,
    /// Whether archives have the layout of containerd or of CRI-O.
    pub archive_layout: Layout,
    /// Whether an archive is synced to disk before it is renamed to its location.
    pub fsync: bool,
    /// Whether a checkpoint fails if the container has unsupported state.
    pub strict_capture: bool,
    /// Which part of a checkpoint the container is frozen for.
    pub freeze: crate::checkpoint::Freeze,
    /// How long a freeze may take. After that the container is thawed and the error names the task that did not stop.
    pub freeze_timeout: Duration,
    /// The minimum duration of a checkpoint.
    pub delay: Option<DelayModel>,
    /// Whether fields of a config that fake-cri cannot apply are logged instead of refused.
    pub allow_unapplied_fields: bool,
    /// The cgroup driver in the response of RuntimeConfig.
    pub cgroup_driver: CgroupDriver,
}

/// What a container executes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExecMode {
    /// The test workload, with the container's argv.
    #[default]
    TestWorkload,
    /// The container's command, on this host.
    Host,
}

/// The cgroup driver that RuntimeConfig reports to the kubelet. fake-cri creates no cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupDriver {
    /// cgroupfs.
    #[default]
    Cgroupfs,
    /// systemd.
    Systemd,
}
