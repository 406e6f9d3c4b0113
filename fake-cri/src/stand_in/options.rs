//! What a stand-in is told: from its command line, from annotations, or both.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// What is chosen about a stand-in; what is `None` takes its default. See [`super`] for the table.
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

/// A value that an option does not take.
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
        let (_, _, _) = (
            pod.into_iter().collect::<BTreeMap<_, _>>(),
            container.into_iter().count(),
            name,
        );
        todo!()
    }
}
