//! The flags of `fake-cri serve`, and the places they default to.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    checkpoint::{Freeze, Layout},
    fault::RuleList,
    runtime::{CgroupDriver, Config, DelayMemoryArg, DelayModel, DelayPhaseArg, ExecMode, parse_fraction, parse_rate},
    service::parse_endpoint,
};

/// What `fake-cri serve` is told.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// Where to listen [default: /run/fake-cri/fake-cri.sock for root, $XDG_RUNTIME_DIR/fake-cri/fake-cri.sock otherwise]
    #[arg(long, value_name = "unix:///PATH", value_parser = parse_endpoint)]
    pub listen: Option<PathBuf>,
    /// Where the control API listens [default: control.sock below the state folder]
    #[arg(long, value_name = "unix:///PATH", value_parser = parse_endpoint)]
    pub control: Option<PathBuf>,
    /// Where pods, containers and images are kept [default: /var/lib/fake-cri for root, $XDG_STATE_HOME/fake-cri otherwise]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Stop and remove every pod and container at the end
    #[arg(long)]
    pub ephemeral: bool,
    /// End when standard input does, which whoever started this holds open
    #[arg(long, hide = true)]
    pub exit_on_stdin_eof: bool,
    /// What runs as a container's process
    #[arg(long, value_enum, default_value_t)]
    pub exec: ExecMode,
    /// A catalogue of images in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub images: Option<PathBuf>,
    /// Fail the pull of an image that the catalogue does not know
    #[arg(long)]
    pub strict_images: bool,
    /// Log what a pod or container asks for and fake-cri cannot apply (another user without root, sysctls) instead of refusing it
    #[arg(long)]
    pub allow_unapplied_fields: bool,
    /// The cgroup driver that a kubelet is told
    #[arg(long, value_enum, default_value_t)]
    pub cgroup_driver: CgroupDriver,
    /// A fault rule, such as 'CheckpointContainer(container=app):before=error(Internal,"disk on fire")' or preset:hang
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<RuleList>,
    /// A TOML file of fault rules
    #[arg(long = "fault-file", value_name = "FILE")]
    pub fault_files: Vec<PathBuf>,
    /// Which engine's layout archives have
    #[arg(long, value_enum, default_value_t)]
    pub archive_layout: Layout,
    /// Flush an archive to disk before it appears
    #[arg(long)]
    pub fsync: bool,
    /// Fail a checkpoint, and name why, when some of the container's state is unsupported; it is in dump.log anyway
    #[arg(long)]
    pub strict_capture: bool,
    /// How long a checkpoint freezes the container: until it is copied, as by a fork, or until all its memory is read
    #[arg(long, value_enum, default_value_t)]
    pub freeze: Freeze,
    /// How long a freeze may take before everything runs on and the thread that would not stop is named
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "2s")]
    pub freeze_timeout: Duration,
    /// What the checkpoint of an empty container takes at least
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub checkpoint_base: Duration,
    /// How fast memory is checkpointed at most, such as 1GiB/s [default: without limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub checkpoint_rate: Option<u64>,
    /// By which part a checkpoint's time varies, such as 10%
    #[arg(long, value_name = "PART", value_parser = parse_fraction, default_value = "0%")]
    pub checkpoint_jitter: f64,
    /// Where the draws of jitter and probabilities begin
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Which memory counts for --checkpoint-rate
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint_memory: DelayMemoryArg,
    /// Whether the container stands still while the modelled time passes
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint_delay_phase: DelayPhaseArg,
    /// What is logged to standard error, as a filter such as info or fake_cri=debug
    #[arg(long, value_name = "FILTER", env = "FAKE_CRI_LOG", default_value = "info")]
    pub log: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A place has no default here.
#[derive(Debug, thiserror::Error)]
#[error("{flag} is needed: {variable} is not set")]
pub struct MissingDefault {
    flag: &'static str,
    variable: &'static str,
}

impl ServeOptions {
    /// The socket to listen on.
    ///
    /// # Errors
    ///
    /// For an ordinary user without `$XDG_RUNTIME_DIR`.
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

    /// The control API's socket.
    ///
    /// # Errors
    ///
    /// As [`ServeOptions::state_dir`].
    pub fn control_socket(&self) -> Result<PathBuf, MissingDefault> {
        resolve_control_socket(self.control.as_deref(), self.state_dir.as_deref())
    }

    /// The state folder.
    ///
    /// # Errors
    ///
    /// For an ordinary user with neither `$XDG_STATE_HOME` nor `$HOME`.
    pub fn state_dir(&self) -> Result<PathBuf, MissingDefault> {
        resolve_state_dir(self.state_dir.as_deref())
    }

    /// What the runtime is told.
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

/// Where the control API listens: where it was said, or below the state folder.
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

/// The XDG rules take only absolute paths.
fn absolute_path(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}
