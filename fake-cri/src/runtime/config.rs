//! What a runtime is told at its start.

use std::{path::PathBuf, time::Duration};

use super::delay::DelayModel;
use crate::checkpoint::Layout;

/// The options of a runtime; each is a flag of `fake-cri serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state folder.
    pub state_dir: PathBuf,
    /// A program that calls [`crate::entry_point`] first: shims are started from it.
    pub executable: PathBuf,
    /// What runs as a container's process.
    pub exec: ExecMode,
    /// A catalogue in place of the built-in one.
    pub images: Option<PathBuf>,
    /// Whether an image that the catalogue does not know cannot be pulled.
    pub strict_images: bool,
    /// Which engine's layout archives have.
    pub archive_layout: Layout,
    /// Whether an archive is flushed to disk before it appears.
    pub fsync: bool,
    /// Whether a checkpoint fails when something of a container's state cannot be carried.
    pub strict_capture: bool,
    /// How long a checkpoint freezes a container.
    pub freeze: crate::checkpoint::Freeze,
    /// How long a freeze may take before all is thawed and the thread that would not stop is named.
    pub freeze_timeout: Duration,
    /// How long a checkpoint takes at least.
    pub delay: Option<DelayModel>,
    /// Whether what a config asks for and fake-cri may not or cannot apply is logged instead of refused.
    pub allow_unapplied_fields: bool,
    /// What RuntimeConfig answers.
    pub cgroup_driver: CgroupDriver,
}

/// What runs as a container's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExecMode {
    /// fake-cri's own workload, under the container's argv.
    #[default]
    TestWorkload,
    /// The container's command on this host, as it is.
    Host,
}

/// The cgroup driver that a kubelet is told. fake-cri puts no process into a cgroup of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupDriver {
    /// cgroupfs.
    #[default]
    Cgroupfs,
    /// systemd.
    Systemd,
}
