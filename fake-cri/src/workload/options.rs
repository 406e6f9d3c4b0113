//! What a test workload is told: from its command line, from annotations, or both.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ANNOTATION_PREFIX, OptionRow, option_table};

/// What is chosen about a test workload; what is `None` takes its default. See [`option_table()`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadOptions {
    /// Bytes of memory that each of its processes fills and keeps.
    pub memory: Option<u64>,
    /// What the memory is filled with.
    pub memory_pattern: Option<MemoryPattern>,
    /// Threads of each process, the first one counted.
    pub threads: Option<u32>,
    /// Forked processes beside the first one.
    pub children: Option<u32>,
    /// Files that each process holds open beside its standard streams.
    pub open_files: Option<u32>,
    /// How long after its start it ends by itself.
    pub exit_after: Option<Duration>,
    /// The code it then ends with.
    pub exit_code: Option<i32>,
    /// Whether its first process holds canaries in several places, see [`super::CanaryLocation`].
    pub canaries: Option<bool>,
    /// The time between two `heartbeat` lines.
    pub heartbeat_interval: Option<Duration>,
    /// What SIGTERM does.
    pub on_sigterm: Option<OnSigterm>,
    /// The working directory it changes to.
    pub cwd: Option<PathBuf>,
    /// What ExecSync answers on standard output. Answered by fake-cri; the process knows nothing of it.
    pub exec_stdout: Option<String>,
    /// What ExecSync answers on standard error.
    pub exec_stderr: Option<String>,
    /// The exit code that ExecSync answers.
    pub exec_exit_code: Option<i32>,
    /// How long ExecSync takes to answer.
    pub exec_delay: Option<Duration>,
}

/// What memory is filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPattern {
    /// Randomness, of which no two pages are equal: nothing can be saved on it.
    #[default]
    Random,
    /// Zeros, written, so that the pages are there.
    Zero,
    /// Readable text, which compresses well.
    Text,
}

/// What SIGTERM does to a test workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSigterm {
    /// It ends with code 0.
    #[default]
    Exit,
    /// Nothing: only SIGKILL ends it.
    Ignore,
}

/// An option that is none, or a value that it does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?} is not allowed: expected {allowed}")]
pub struct WorkloadOptionsError {
    /// The annotation or command line option, as the user wrote it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What it takes.
    pub allowed: String,
}

impl WorkloadOptions {
    /// The options that annotations choose for the container called `name`: the container's own win over the Pod's, and of
    /// either `fake-cri.dev/OPTION.NAME` wins over `fake-cri.dev/OPTION`. Other annotations are passed over.
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

    /// The options of a command line, without the program's name: `--memory 256Mi` or `--memory=256Mi`.
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

    /// These options, and those of `below` where these say nothing.
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
