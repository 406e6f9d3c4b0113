//! A container for one test: its directory, its shim, and a guard that removes everything.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fake_cri::{
    environment::CONTAINER_ID_ENV,
    process::{ProcessId, pidfd, pstree},
    shim::{LaunchProgram, LaunchSpec, Shim, kill_orphans},
    workload::WorkloadOptions,
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// The executable of this build.
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_fake-cri");

/// The timeout of everything that is expected to happen.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A directory and a unique container id. Dropping it kills all processes of the container.
pub(crate) struct ShimHarness {
    temp_dir: TempDir,
    id: String,
}

impl ShimHarness {
    pub(crate) fn new() -> Self {
        let temp_dir = tempfile::tempdir().expect("a temporary directory");
        // Unique on this machine, so that tests do not see the processes of others.
        let id = format!(
            "test-{}",
            temp_dir.path().file_name().expect("a file name").to_string_lossy()
        );
        Self { temp_dir, id }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shim_dir(&self) -> PathBuf {
        self.temp_dir.path().join("shim")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.temp_dir.path().join("logs/app/0.log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp_dir.path().join(name)
    }

    /// A command on the host.
    pub(crate) fn host_spec(&self, argv: &[&str]) -> LaunchSpec {
        LaunchSpec {
            container_id: self.id.clone(),
            dir: self.shim_dir(),
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            env: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("COLOUR".into(), "blue".into()),
            ],
            cwd: None,
            log: Some(self.log_path()),
            stdin: false,
            stdin_once: false,
            tty: false,
            identity: None,
            program: LaunchProgram::Host,
        }
    }

    /// A shell script on the host.
    pub(crate) fn shell_spec(&self, script: &str) -> LaunchSpec {
        self.host_spec(&["sh", "-c", script])
    }

    /// The test workload.
    pub(crate) fn workload_spec(&self, options: WorkloadOptions) -> LaunchSpec {
        LaunchSpec {
            program: LaunchProgram::Workload(options),
            ..self.host_spec(&["/app/server", "--port", "80"])
        }
    }

    /// Launches and starts a container.
    pub(crate) async fn run(&self, spec: &LaunchSpec) -> (Shim, ProcessId) {
        let shim = Shim::launch(Path::new(EXECUTABLE), spec)
            .await
            .expect("the shim launches");
        let init = shim.start().await.expect("the container starts");
        (shim, init)
    }

    /// The log entries so far: stream, tag and content.
    pub(crate) fn log_entries(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        // The last entry may be incomplete: the kernel makes a write visible page by page.
        let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let entries = text.split_terminator('\n').map(|line| {
            let mut parts = line.splitn(4, ' ').skip(1).map(str::to_owned);
            let mut part = || parts.next().expect("an entry has four parts");
            (part(), part(), part())
        });
        entries.collect()
    }

    /// The lines of one stream so far.
    pub(crate) fn log_lines(&self, stream: &str) -> Vec<String> {
        self.log_entries()
            .into_iter()
            .filter(|entry| entry.0 == stream)
            .map(|entry| entry.2)
            .collect()
    }

    /// Waits for a line on standard output with this prefix, and returns the line.
    pub(crate) async fn wait_line(&self, prefix: &str) -> String {
        wait_for(&format!("a line {prefix:?}"), || {
            self.log_lines("stdout")
                .into_iter()
                .find(|line| line.starts_with(prefix))
        })
        .await
    }

    /// The processes with the container's id in their environment, without zombies.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let all = pstree::all_processes().expect("/proc is there");
        let own_processes = all
            .into_iter()
            .filter(|stat| !stat.is_dead() && pstree::environ_has(stat.id.pid, CONTAINER_ID_ENV, &self.id));
        own_processes.map(|stat| stat.id).collect()
    }
}

impl Drop for ShimHarness {
    fn drop(&mut self) {
        let shim = fs::read(self.shim_dir().join("shim.json")).ok();
        let shim = shim.and_then(|text| serde_json::from_slice::<ProcessId>(&text).ok());
        let deadline = Instant::now() + WAIT_TIMEOUT;
        // On SIGTERM the shim kills its container. Orphans of a killed shim would be counted by other tests.
        while let Some(shim) = shim
            && shim.is_alive()
        {
            let signal = if Instant::now() < deadline {
                libc::SIGTERM
            } else {
                libc::SIGKILL
            };
            let _ = pidfd::signal(shim, signal);
            thread::sleep(Duration::from_millis(5));
        }
        while Instant::now() < deadline {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for process in left {
                let _ = pidfd::signal(process, libc::SIGKILL);
            }
        }
    }
}

/// Polls until there is a result. Used where there is no event: files that grow, processes that are not children.
pub(crate) async fn wait_for<T>(condition: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {condition}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Serializes tests that kill shims: all orphans of dead shims count as leftovers of this process, so two parallel
/// tests would count each other's.
pub(crate) async fn lock_orphan_tests() -> MutexGuard<'static, ()> {
    static ORPHAN_TEST_LOCK: Mutex<()> = Mutex::const_new(());
    ORPHAN_TEST_LOCK.lock().await
}

/// Kills a shim, unless it is dead, and its orphans; returns the number of orphans. Requires [`lock_orphan_tests`].
pub(crate) async fn kill_shim_and_orphans(harness: &ShimHarness, shim: &Shim, init: ProcessId) -> usize {
    pidfd::signal(shim.process(), libc::SIGKILL).expect("the process can be killed");
    assert!(shim.wait_exit().await.shim_lost);
    let killed = kill_orphans(harness.id(), &[init])
        .await
        .expect("the processes can be killed");
    assert_eq!(kill_orphans(harness.id(), &[init]).await.expect("nothing is left"), 0);
    killed
}
