//! The flags of `fake-cri serve` and their default paths.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    checkpoint::{DelayPhase, Freeze, Layout},
    fault::RuleList,
    runtime::{CgroupDriver, Config, DelayMemoryArg, DelayModel, ExecMode, parse_fraction, parse_rate},
    service::parse_endpoint,
};

/// The flags of `fake-cri serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// The socket of the CRI [default: /run/fake-cri/fake-cri.sock for root, $XDG_RUNTIME_DIR/fake-cri/fake-cri.sock
    /// otherwise]
    #[arg(long, value_name = "unix:///PATH", value_parser = parse_endpoint)]
    pub listen: Option<PathBuf>,
    /// The socket of the control API [default: control.sock in the state directory]
    #[arg(long, value_name = "unix:///PATH", value_parser = parse_endpoint)]
    pub control: Option<PathBuf>,
    /// The directory of pods, containers and images [default: /var/lib/fake-cri for root, $XDG_STATE_HOME/fake-cri
    /// otherwise]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Stop and remove all pods and containers at shutdown
    #[arg(long)]
    pub ephemeral: bool,
    /// Shut down on EOF of standard input, which the parent process keeps open
    #[arg(long, hide = true)]
    pub exit_on_stdin_eof: bool,
    /// The program that containers run
    #[arg(long, value_enum, default_value_t)]
    pub exec: ExecMode,
    /// A file that replaces the built-in image catalogue
    #[arg(long, value_name = "FILE")]
    pub images: Option<PathBuf>,
    /// Fail to pull an image that is not in the catalogue
    #[arg(long)]
    pub strict_images: bool,
    /// Log config fields that fake-cri cannot apply (another user without root, sysctls) instead of rejecting the pod
    /// or container
    #[arg(long)]
    pub allow_unapplied_fields: bool,
    /// The cgroup driver that RuntimeConfig returns to the kubelet
    #[arg(long, value_enum, default_value_t)]
    pub cgroup_driver: CgroupDriver,
    /// A fault rule, such as 'CheckpointContainer(container=app):before=error(Internal,"disk on fire")' or preset:hang
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<RuleList>,
    /// A TOML file of fault rules
    #[arg(long = "fault-file", value_name = "FILE")]
    pub fault_files: Vec<PathBuf>,
    /// The runtime whose archive layout is written
    #[arg(long, value_enum, default_value_t)]
    pub archive_layout: Layout,
    /// Flush an archive to disk before the rename to its location
    #[arg(long)]
    pub fsync: bool,
    /// Fail a checkpoint if the container has unsupported state, and list that state (dump.log lists it in any case)
    #[arg(long)]
    pub strict_capture: bool,
    /// How long a checkpoint freezes the container: until a fork-like snapshot exists, or until all memory is read
    #[arg(long, value_enum, default_value_t)]
    pub freeze: Freeze,
    /// Maximum time of a freeze; then the container is thawed, and the checkpoint fails and names the thread that did
    /// not stop
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "2s")]
    pub freeze_timeout: Duration,
    /// Minimum time of the checkpoint of an empty container
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub checkpoint_base: Duration,
    /// Maximum rate at which memory is checkpointed, such as 1GiB/s [default: unlimited]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub checkpoint_rate: Option<u64>,
    /// Maximum random variation of the checkpoint time, such as 10%
    #[arg(long, value_name = "PART", value_parser = parse_fraction, default_value = "0%")]
    pub checkpoint_jitter: f64,
    /// The seed of jitter and of rules with a probability
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The memory that counts for --checkpoint-rate
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint_memory: DelayMemoryArg,
    /// Whether the container is frozen during the modelled delay
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint_delay_phase: DelayPhase,
    /// The filter of log lines on standard error, such as info or fake_cri=debug
    #[arg(long, value_name = "FILTER", env = "FAKE_CRI_LOG", default_value = "info")]
    pub log: String,
    /// The format of log lines
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A path has no default for this user, and its flag is missing.
#[derive(Debug, thiserror::Error)]
#[error("{flag} is required: {variable} is not set")]
pub struct MissingDefault {
    flag: &'static str,
    variable: &'static str,
}

impl ServeOptions {
    /// The socket of the CRI.
    ///
    /// # Errors
    ///
    /// An unprivileged user has neither `--listen` nor an absolute `$XDG_RUNTIME_DIR`.
    pub fn socket(&self) -> Result<PathBuf, MissingDefault> {
        if let Some(path) = &self.listen {
            return Ok(path.clone());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(PathBuf::from("/run/fake-cri/fake-cri.sock"));
        }
        let runtime_dir = absolute_path(std::env::var_os("XDG_RUNTIME_DIR")).ok_or(MissingDefault {
            flag: "--listen",
            variable: "$XDG_RUNTIME_DIR",
        })?;
        Ok(runtime_dir.join("fake-cri/fake-cri.sock"))
    }

    /// The socket of the control API.
    ///
    /// # Errors
    ///
    /// As [`ServeOptions::state_dir`].
    pub fn control_socket(&self) -> Result<PathBuf, MissingDefault> {
        resolve_control_socket(self.control.as_deref(), self.state_dir.as_deref())
    }

    /// The state directory.
    ///
    /// # Errors
    ///
    /// An unprivileged user has neither `--state-dir` nor an absolute `$XDG_STATE_HOME` or `$HOME`.
    pub fn state_dir(&self) -> Result<PathBuf, MissingDefault> {
        resolve_state_dir(self.state_dir.as_deref())
    }

    /// The configuration of the runtime.
    ///
    /// # Errors
    ///
    /// As [`ServeOptions::state_dir`].
    pub fn config(&self, executable: PathBuf) -> Result<Config, MissingDefault> {
        let has_delay = !self.checkpoint_base.is_zero() || self.checkpoint_rate.is_some();
        Ok(Config {
            state_dir: self.state_dir()?,
            executable,
            exec: self.exec,
            images: self.images.clone(),
            strict_images: self.strict_images,
            archive_layout: self.archive_layout,
            fsync: self.fsync,
            strict_capture: self.strict_capture,
            freeze: self.freeze,
            freeze_timeout: self.freeze_timeout,
            delay: has_delay.then_some(DelayModel {
                base: self.checkpoint_base,
                rate: self.checkpoint_rate,
                jitter: self.checkpoint_jitter,
                seed: self.seed,
                memory: self.checkpoint_memory,
                phase: self.checkpoint_delay_phase,
            }),
            allow_unapplied_fields: self.allow_unapplied_fields,
            cgroup_driver: self.cgroup_driver,
        })
    }
}

/// Without the flag, the control API listens in the state directory.
pub(super) fn resolve_control_socket(control: Option<&Path>, state: Option<&Path>) -> Result<PathBuf, MissingDefault> {
    match control {
        Some(path) => Ok(path.to_owned()),
        None => Ok(resolve_state_dir(state)?.join("control.sock")),
    }
}

fn resolve_state_dir(state_dir_flag: Option<&Path>) -> Result<PathBuf, MissingDefault> {
    if let Some(path) = state_dir_flag {
        return Ok(path.to_owned());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/fake-cri"));
    }
    let state = absolute_path(std::env::var_os("XDG_STATE_HOME"))
        .or_else(|| absolute_path(std::env::var_os("HOME")).map(|home| home.join(".local/state")))
        .ok_or(MissingDefault {
            flag: "--state-dir",
            variable: "$XDG_STATE_HOME",
        })?;
    Ok(state.join("fake-cri"))
}

/// The XDG base directory specification requires absolute paths and ignores others.
fn absolute_path(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}
