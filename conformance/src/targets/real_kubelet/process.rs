//! A kubelet process that does not outlive the harness.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal, unistd::Pid};

use super::TargetError;

/// How long a kubelet may take to exit before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LOG_TAIL_LINES: usize = 4;

/// Runs its arguments, and terminates them at the end of standard input: when the harness closes it or exits in any
/// way.
const LIFELINE_SCRIPT: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
kubelet=$!
{ cat <&3 >/dev/null; kill -TERM "$kubelet"; } 2>/dev/null &
exec 3<&-
wait "$kubelet"
"#;

/// A running kubelet. The drop stops it.
#[derive(Debug)]
pub(super) struct KubeletProcess {
    child: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl KubeletProcess {
    /// Starts the kubelet in its own process group, so that Ctrl-C reaches only the harness, with these paths in its
    /// environment. Appends to the log.
    pub(super) fn start(
        binary: &Path,
        args: &[OsString],
        environment: &[(&str, PathBuf)],
        log: &Path,
    ) -> Result<KubeletProcess, TargetError> {
        let open = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(log)
                .map_err(TargetError::file(log))
        };
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(LIFELINE_SCRIPT)
            .arg("kubelet-lifeline")
            .arg(binary)
            .args(args);
        command
            .envs(environment.iter().map(|(name, path)| (name, path)))
            .stdin(Stdio::piped())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0);
        let mut child = command.spawn().map_err(TargetError::file("/bin/sh"))?;
        let lifeline = child.stdin.take();
        Ok(KubeletProcess {
            child,
            lifeline,
            log: log.to_owned(),
        })
    }

    /// Waits until the kubelet exits and returns the end of its log.
    pub(super) async fn wait_for_exit(&mut self) -> String {
        while let Ok(None) = self.child.try_wait() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(LOG_TAIL_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Stops the kubelet: SIGTERM, and SIGKILL after a timeout.
    pub(super) async fn stop(self) {
        // The drop blocks, which an async worker thread must not.
        let result = tokio::task::spawn_blocking(move || drop(self)).await;
        debug_assert!(result.is_ok(), "stopping a process does not panic");
    }
}

impl Drop for KubeletProcess {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let started_at = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if started_at.elapsed() > STOP_TIMEOUT {
                // The process group consists of the shell, the kubelet and the kubelet's children.
                if let Ok(group) = i32::try_from(self.child.id()) {
                    let _ = signal::killpg(Pid::from_raw(group), signal::Signal::SIGKILL);
                }
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(directory: &Path, script: &str) -> KubeletProcess {
        let args = ["-c", script].map(OsString::from);
        let environment = [("TMPDIR", directory.to_owned())];
        KubeletProcess::start(Path::new("/bin/sh"), &args, &environment, &directory.join("log")).unwrap()
    }

    #[tokio::test]
    async fn exit_returns_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = start(directory.path(), "echo one; echo \"$TMPDIR\" >&2; exit 3");
        let log_tail = process.wait_for_exit().await;
        assert!(
            log_tail.contains("one") && log_tail.contains(directory.path().to_str().unwrap()),
            "{log_tail}"
        );
    }

    #[tokio::test]
    async fn terminates_when_the_lifeline_closes() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("mark");
        let script = format!(
            "trap 'echo ended > {}; exit 0' TERM; echo up; while :; do sleep 0.05; done",
            marker.display()
        );
        let process = start(directory.path(), &script);
        while !fs::read_to_string(directory.path().join("log"))
            .unwrap_or_default()
            .contains("up")
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let group = Pid::from_raw(i32::try_from(process.child.id()).unwrap());
        process.stop().await;
        assert_eq!(fs::read_to_string(marker).unwrap(), "ended\n");
        // The last process of the group may be a zombie for a moment.
        let started_at = Instant::now();
        while signal::killpg(group, None).is_ok() {
            assert!(started_at.elapsed() < STOP_TIMEOUT, "a process of the group is left");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
