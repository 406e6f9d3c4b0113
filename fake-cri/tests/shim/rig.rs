//! A container of one test: its folder, its shim, and a guard that leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fake_cri::{
    process::{ProcessId, family, pidfd},
    shim::{LaunchSpec, MARKER, Program, Shim, kill_leftovers},
    stand_in::Options,
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// The real executable.
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_fake-cri");

/// How long anything may take that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder and a container id of its own; when it goes, all its processes are killed.
pub(crate) struct Rig {
    folder: TempDir,
    id: String,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Unique on this machine, and no test meets another one's processes.
        let id = format!(
            "test-{}",
            folder.path().file_name().expect("it has a name").to_string_lossy()
        );
        Self { folder, id }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("shim")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("logs/app/0.log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command on the host.
    pub(crate) fn host(&self, argv: &[&str]) -> LaunchSpec {
        LaunchSpec {
            container_id: self.id.clone(),
            dir: self.dir(),
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            env: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("COLOUR".into(), "blue".into()),
            ],
            cwd: None,
            log: Some(self.log()),
            stdin: false,
            stdin_once: false,
            tty: false,
            identity: None,
            program: Program::Host,
        }
    }

    /// A shell script on the host.
    pub(crate) fn shell(&self, script: &str) -> LaunchSpec {
        self.host(&["sh", "-c", script])
    }

    /// A stand-in.
    pub(crate) fn stand_in(&self, options: Options) -> LaunchSpec {
        LaunchSpec {
            program: Program::StandIn(options),
            ..self.host(&["/app/server", "--port", "80"])
        }
    }

    /// Launches and starts.
    pub(crate) async fn run(&self, spec: &LaunchSpec) -> (Shim, ProcessId) {
        let shim = Shim::launch(Path::new(EXECUTABLE), spec).await.expect("it launches");
        let init = shim.start().await.expect("it starts");
        (shim, init)
    }

    /// The log's entries so far: stream, tag and content.
    pub(crate) fn entries(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        // The last one may be half there: the kernel shows a write page by page.
        let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let entries = text.split_terminator('\n').map(|line| {
            let mut parts = line.splitn(4, ' ').skip(1).map(str::to_owned);
            let mut part = || parts.next().expect("an entry has four parts");
            (part(), part(), part())
        });
        entries.collect()
    }

    /// What was written to one stream so far, line by line.
    pub(crate) fn lines(&self, stream: &str) -> Vec<String> {
        self.entries()
            .into_iter()
            .filter(|entry| entry.0 == stream)
            .map(|entry| entry.2)
            .collect()
    }

    /// Waits for a line on standard output that begins like this, and gives it.
    pub(crate) async fn line(&self, beginning: &str) -> String {
        eventually(&format!("a line {beginning:?}"), || {
            self.lines("stdout")
                .into_iter()
                .find(|line| line.starts_with(beginning))
        })
        .await
    }

    /// The container's processes, by their mark, that are not just waiting to be reaped.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let all = family::everyone().expect("/proc is there");
        let ours = all
            .into_iter()
            .filter(|kin| !kin.ended() && family::started_with(kin.id.pid, MARKER, &self.id));
        ours.map(|kin| kin.id).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let shim = fs::read(self.dir().join("shim.json")).ok();
        let shim = shim.and_then(|text| serde_json::from_slice::<ProcessId>(&text).ok());
        let until = Instant::now() + PATIENCE;
        // Asked kindly it ends its container itself; what a killed one leaves would be seen by tests that count such things.
        while let Some(shim) = shim
            && shim.alive()
        {
            let signal = if Instant::now() < until {
                libc::SIGTERM
            } else {
                libc::SIGKILL
            };
            let _ = pidfd::signal(shim, signal);
            thread::sleep(Duration::from_millis(5));
        }
        while Instant::now() < until {
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

/// Asks until there is an answer. For what no event tells: files that grow, processes that are not ours.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// For tests that kill shims: whatever a dead shim has left to this process counts as left over, so two at once would count
/// each other's.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Kills a shim, unless it is dead, and what it leaves; says how many processes that were. For those who are [`alone`].
pub(crate) async fn kill(rig: &Rig, shim: &Shim, init: ProcessId) -> usize {
    pidfd::signal(shim.process(), libc::SIGKILL).expect("it may be killed");
    assert!(shim.wait().await.lost);
    let killed = kill_leftovers(rig.id(), &[init]).await.expect("nothing resists");
    assert_eq!(kill_leftovers(rig.id(), &[init]).await.expect("nothing is left"), 0);
    killed
}
