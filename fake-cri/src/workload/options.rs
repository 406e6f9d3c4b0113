//! Options of the test workload, from the command line and from annotations.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ANNOTATION_PREFIX, OptionRow, option_table};

/// The options of a test workload; `None` selects the default. See [`option_table()`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadOptions {
    /// Memory of each process in bytes, written once and kept.
    pub memory: Option<u64>,
    /// The content of that memory.
    pub memory_pattern: Option<MemoryPattern>,
    /// Threads of each process, including the main thread.
    pub threads: Option<u32>,
    /// Child processes that the first process forks.
    pub children: Option<u32>,
    /// Open files of each process beside its standard streams.
    pub open_files: Option<u32>,
    /// Time from the start to the exit.
    pub exit_after: Option<Duration>,
    /// The exit code after `exit_after`.
    pub exit_code: Option<i32>,
    /// Whether the first process holds canaries at several places, see [`super::CanaryLocation`].
    pub canaries: Option<bool>,
    /// The interval of `heartbeat` lines.
    pub heartbeat_interval: Option<Duration>,
    /// The effect of SIGTERM.
    pub on_sigterm: Option<OnSigterm>,
    /// The working directory that the workload changes to.
    pub cwd: Option<PathBuf>,
    /// The standard output of an ExecSync response. fake-cri answers; the process is not involved.
    pub exec_stdout: Option<String>,
    /// The standard error of an ExecSync response.
    pub exec_stderr: Option<String>,
    /// The exit code of an ExecSync response.
    pub exec_exit_code: Option<i32>,
    /// The delay of an ExecSync response.
    pub exec_delay: Option<Duration>,
}

/// The content of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPattern {
    /// Random bytes: no two pages are equal, and nothing is compressible.
    #[default]
    Random,
    /// Zeros, written so that the pages exist.
    Zero,
    /// Text, which compresses well.
    Text,
}

/// The effect of SIGTERM on a test workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSigterm {
    /// The workload exits with code 0.
    #[default]
    Exit,
    /// None: only SIGKILL ends the workload.
    Ignore,
}

/// An unknown option, or an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?} is not allowed: expected {allowed}")]
pub struct WorkloadOptionsError {
    /// The annotation or command line option as written.
    pub name: String,
    /// The value as written.
    pub value: String,
    /// The allowed values.
    pub allowed: String,
}

impl WorkloadOptions {
    /// Reads the options for the container called `name` from annotations. The container's annotations override the
    /// Pod's, and within each `fake-cri.dev/OPTION.NAME` overrides `fake-cri.dev/OPTION`. Other annotations are
    /// ignored.
    pub fn from_annotations<'a>(
        pod: impl IntoIterator<Item = (&'a String, &'a String)>,
        container: impl IntoIterator<Item = (&'a String, &'a String)>,
        name: &str,
    ) -> Result<Self, WorkloadOptionsError> {
        let mut options = Self::default();
        let pod: HashMap<&str, &str> = pod
            .into_iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let container: HashMap<&str, &str> = container
            .into_iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        for row in option_table() {
            let general_key = format!("{ANNOTATION_PREFIX}{}", row.name);
            let container_key = format!("{general_key}.{name}");
            let annotation = [
                (&container, &container_key),
                (&container, &general_key),
                (&pod, &container_key),
                (&pod, &general_key),
            ]
            .into_iter()
            .find_map(|(annotations, key)| Some((key, annotations.get(key.as_str())?)));
            if let Some((key, value)) = annotation {
                options.set_option(row, key, value)?;
            }
        }
        Ok(options)
    }

    /// Reads the options of a command line, without the program name: `--memory 256Mi` or `--memory=256Mi`.
    pub fn from_arguments(arguments: impl IntoIterator<Item = String>) -> Result<Self, WorkloadOptionsError> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument.clone(), None),
            };
            let Some(row) = name
                .strip_prefix("--")
                .and_then(|name| option_table().iter().find(|row| row.name == name))
            else {
                let names: Vec<_> = option_table().iter().map(|row| format!("--{}", row.name)).collect();
                return Err(WorkloadOptionsError {
                    name: "option".into(),
                    value: argument,
                    allowed: names.join(", "),
                });
            };
            let value = value.or_else(|| arguments.next()).unwrap_or_default();
            options.set_option(row, &name, &value)?;
        }
        Ok(options)
    }

    /// Returns these options, with `defaults` for those that are `None`.
    pub fn or_defaults(self, defaults: Self) -> Self {
        Self {
            memory: self.memory.or(defaults.memory),
            memory_pattern: self.memory_pattern.or(defaults.memory_pattern),
            threads: self.threads.or(defaults.threads),
            children: self.children.or(defaults.children),
            open_files: self.open_files.or(defaults.open_files),
            exit_after: self.exit_after.or(defaults.exit_after),
            exit_code: self.exit_code.or(defaults.exit_code),
            canaries: self.canaries.or(defaults.canaries),
            heartbeat_interval: self.heartbeat_interval.or(defaults.heartbeat_interval),
            on_sigterm: self.on_sigterm.or(defaults.on_sigterm),
            cwd: self.cwd.or(defaults.cwd),
            exec_stdout: self.exec_stdout.or(defaults.exec_stdout),
            exec_stderr: self.exec_stderr.or(defaults.exec_stderr),
            exec_exit_code: self.exec_exit_code.or(defaults.exec_exit_code),
            exec_delay: self.exec_delay.or(defaults.exec_delay),
        }
    }

    fn set_option(&mut self, row: &OptionRow, name: &str, value: &str) -> Result<(), WorkloadOptionsError> {
        (row.set)(self, value).ok_or_else(|| WorkloadOptionsError {
            name: name.to_owned(),
            value: value.to_owned(),
            allowed: row.value_help.replace('`', ""),
        })
    }
}
