//! The programs in the containers: the test workload of the harness's own image, or a loop in the shell of any image.
//!
//! Both write `canary HEX` and `heartbeat N pid=P start=S`, which [`crate::targets::parse_log`] parses. Only the test
//! workload has options for memory, threads and children.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cri_proto::document::BindMount;

use super::{ContainerHandle, PodHandle};

/// The path of the test workload in the image that `checkpoint-conformance image` writes.
pub const WORKLOAD_PATH: &str = "/test-workload";

/// The workload for a shell. Uses no programs but `sh` and `sleep`, so any busybox image can run it.
const SHELL_WORKLOAD: &str = r#"
identity() { read -r s < /proc/$$/stat; s=${s##*) }; set -- $s; echo "pid=$$ start=${20}"; }
half() { read -r u < /proc/sys/kernel/random/uuid; IFS=-; set -- $u; unset IFS; echo "$1$2$3$4$5"; }
me=$(identity); canary=$(half)$(half); n=0
echo "shell ready $me"
echo "canary $canary"
trap 'exit 0' TERM
while :; do n=$((n+1)); echo "heartbeat $n $me"; sleep 0.1 2>/dev/null || sleep 1; done
"#;

/// The program that an image can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadProgram {
    /// The test workload, configured by its command line.
    TestWorkload,
    /// A shell loop with heartbeats and a canary in memory.
    Shell,
}

impl WorkloadProgram {
    pub(super) fn command(self, options: &[(&'static str, String)]) -> Vec<String> {
        match self {
            WorkloadProgram::TestWorkload => {
                let options = options
                    .iter()
                    .flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
                std::iter::once(WORKLOAD_PATH.to_owned()).chain(options).collect()
            }
            WorkloadProgram::Shell => ["/bin/sh", "-c", SHELL_WORKLOAD].map(str::to_owned).to_vec(),
        }
    }

    /// A command for ExecSync that runs for `time`. It first writes `exec ready`, or the test workload's `ready` line.
    pub fn exec_command(self, time: Duration) -> Vec<String> {
        match self {
            WorkloadProgram::TestWorkload => vec![
                WORKLOAD_PATH.to_owned(),
                "--memory".to_owned(),
                "4096".to_owned(),
                "--exit-after".to_owned(),
                format!("{}ms", time.as_millis()),
            ],
            WorkloadProgram::Shell => {
                let script = format!("echo exec ready; sleep {:.3}; echo exec done", time.as_secs_f64());
                vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
            }
        }
    }
}

/// The options of a container. Default: one process of the test workload with 1 MiB of memory, or the shell workload.
#[derive(Clone, Debug, Default)]
pub struct ContainerOptions {
    pub(super) workload_args: Vec<(&'static str, String)>,
    pub(super) env: Vec<(String, String)>,
    pub(super) separate_pod: bool,
    pub(super) exec_delay: Option<Duration>,
    pub(super) pod: Option<Arc<PodHandle>>,
    pub(super) freeze_delay: Option<Duration>,
    pub(super) archive: Option<PathBuf>,
    pub(super) mounts: Vec<BindMount>,
}

impl ContainerOptions {
    /// The default options, in the Pod that containers share.
    pub fn new() -> ContainerOptions {
        ContainerOptions::default()
    }

    /// Adds an option of the test workload, without the dashes: `threads`, `children`. The container then needs the
    /// test workload's image.
    pub fn workload_arg(mut self, name: &'static str, value: impl ToString) -> Self {
        self.workload_args.push((name, value.to_string()));
        self
    }

    /// Sets the memory of each process, in bytes.
    pub fn memory(self, bytes: u64) -> Self {
        self.workload_arg("memory", bytes)
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Creates the container in a separate Pod.
    pub fn separate_pod(mut self) -> Self {
        self.separate_pod = true;
        self
    }

    /// Creates the container in the Pod of another container.
    pub fn in_pod_of(mut self, other: &ContainerHandle) -> Self {
        self.pod = Some(Arc::clone(other.pod()));
        self
    }

    /// Creates the container in a separate Pod whose annotation makes a fake-cri's first checkpoint stay frozen for
    /// `time`. Other runtimes ignore the annotation; there only the container's memory makes a checkpoint slow.
    pub fn fake_cri_freeze_delay(mut self, time: Duration) -> Self {
        self.freeze_delay = Some(time);
        self.separate_pod()
    }

    /// Restores this archive: its path is the image name. Adds these mounts to the request.
    pub(super) fn restored_from(mut self, archive: &Path, mounts: &[BindMount]) -> Self {
        self.archive = Some(archive.to_owned());
        self.mounts = mounts.to_vec();
        self
    }

    /// Sets how long ExecSync takes in a fake-cri, which executes no command in a test workload.
    pub fn exec_delay(mut self, delay: Duration) -> Self {
        self.exec_delay = Some(delay);
        self
    }

    /// Whether the options need the test workload's program.
    pub fn needs_test_workload(&self) -> bool {
        !self.workload_args.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_output_of_the_shell_workload() {
        use std::io::{BufRead as _, BufReader};
        let command = WorkloadProgram::Shell.command(&[]);
        let mut child = std::process::Command::new(&command[0])
            .args(&command[1..])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let log: Vec<_> = lines.take(4).map(Result::unwrap).collect();
        let pid = child.id();
        child.kill().unwrap();
        child.wait().unwrap();
        let workload = crate::targets::parse_log(&log.join("\n"));
        assert_eq!((workload.pid, workload.heartbeat), (Some(pid), 2), "{log:?}");
        assert!(workload.start_time.is_some() && workload.canary.is_some(), "{log:?}");
    }

    #[test]
    fn passes_options_on_the_command_line() {
        let options = ContainerOptions::new().memory(4096).workload_arg("threads", 3);
        assert!(options.needs_test_workload());
        let command = WorkloadProgram::TestWorkload.command(&options.workload_args);
        assert_eq!(command, ["/test-workload", "--memory", "4096", "--threads", "3"]);
    }
}
