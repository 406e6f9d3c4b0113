//! What a stand-in is told: from its command line, from annotations, or both.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{PREFIX, Row, table};

/// What is chosen about a stand-in; what is `None` takes its default. See [`table()`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of memory that each of its processes fills and keeps.
    pub memory: Option<u64>,
    /// What the memory is filled with.
    pub pattern: Option<Pattern>,
    /// Threads of each process, the first one counted.
    pub threads: Option<u32>,
    /// Forked processes beside the first one.
    pub children: Option<u32>,
    /// Files that each process holds open beside its standard streams.
    pub files: Option<u32>,
    /// How long after its start it ends by itself.
    pub exit_after: Option<Duration>,
    /// The code it then ends with.
    pub exit_code: Option<i32>,
    /// Whether its first process holds canaries in several places, see [`super::Place`].
    pub canaries: Option<bool>,
    /// The time between two `tick` lines.
    pub tick: Option<Duration>,
    /// What SIGTERM does.
    pub on_term: Option<OnTerm>,
    /// The working directory it changes to.
    pub cwd: Option<PathBuf>,
    /// What ExecSync answers on standard output. Answered by fake-cri; the process knows nothing of it.
    pub exec_stdout: Option<String>,
    /// What ExecSync answers on standard error.
    pub exec_stderr: Option<String>,
    /// The exit code that ExecSync answers.
    pub exec_code: Option<i32>,
    /// How long ExecSync takes to answer.
    pub exec_delay: Option<Duration>,
}

/// What memory is filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Randomness, of which no two pages are equal: nothing can be saved on it.
    #[default]
    Random,
    /// Zeros, written, so that the pages are there.
    Zero,
    /// Readable text, which compresses well.
    Text,
}

/// What SIGTERM does to a stand-in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTerm {
    /// It ends with code 0.
    #[default]
    Exit,
    /// Nothing: only SIGKILL ends it.
    Ignore,
}

/// An option that is none, or a value that it does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?} is not allowed: expected {allowed}")]
pub struct OptionsError {
    /// The annotation or command line option, as the user wrote it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What it takes.
    pub allowed: String,
}

impl Options {
    /// The options that annotations choose for the container called `name`: the container's own win over the Pod's, and of
    /// either `fake-cri.dev/OPTION.NAME` wins over `fake-cri.dev/OPTION`. Other annotations are passed over.
    pub fn from_annotations<'a>(
        pod: impl IntoIterator<Item = (&'a String, &'a String)>,
        container: impl IntoIterator<Item = (&'a String, &'a String)>,
        name: &str,
    ) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let pod: HashMap<&str, &str> = pod
            .into_iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let container: HashMap<&str, &str> = container
            .into_iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        for row in table() {
            let general = format!("{PREFIX}{}", row.name);
            let special = format!("{general}.{name}");
            let found = [
                (&container, &special),
                (&container, &general),
                (&pod, &special),
                (&pod, &general),
            ]
            .into_iter()
            .find_map(|(annotations, key)| Some((key, annotations.get(key.as_str())?)));
            if let Some((key, value)) = found {
                options.take(row, key, value)?;
            }
        }
        Ok(options)
    }

    /// The options of a command line, without the program's name: `--memory 256Mi` or `--memory=256Mi`.
    pub fn from_arguments(arguments: impl IntoIterator<Item = String>) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument.clone(), None),
            };
            let Some(row) = name
                .strip_prefix("--")
                .and_then(|name| table().iter().find(|row| row.name == name))
            else {
                let names: Vec<_> = table().iter().map(|row| format!("--{}", row.name)).collect();
                return Err(OptionsError {
                    name: "option".into(),
                    value: argument,
                    allowed: names.join(", "),
                });
            };
            let value = value.or_else(|| arguments.next()).unwrap_or_default();
            options.take(row, &name, &value)?;
        }
        Ok(options)
    }

    /// These options, and those of `below` where these say nothing.
    pub fn over(self, below: Self) -> Self {
        Self {
            memory: self.memory.or(below.memory),
            pattern: self.pattern.or(below.pattern),
            threads: self.threads.or(below.threads),
            children: self.children.or(below.children),
            files: self.files.or(below.files),
            exit_after: self.exit_after.or(below.exit_after),
            exit_code: self.exit_code.or(below.exit_code),
            canaries: self.canaries.or(below.canaries),
            tick: self.tick.or(below.tick),
            on_term: self.on_term.or(below.on_term),
            cwd: self.cwd.or(below.cwd),
            exec_stdout: self.exec_stdout.or(below.exec_stdout),
            exec_stderr: self.exec_stderr.or(below.exec_stderr),
            exec_code: self.exec_code.or(below.exec_code),
            exec_delay: self.exec_delay.or(below.exec_delay),
        }
    }

    fn take(&mut self, row: &Row, name: &str, value: &str) -> Result<(), OptionsError> {
        (row.set)(self, value).ok_or_else(|| OptionsError {
            name: name.to_owned(),
            value: value.to_owned(),
            allowed: row.takes.replace('`', ""),
        })
    }
}
