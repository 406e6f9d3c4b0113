//! The engine's host as a test plays it, and the job it is given.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fake_cri::{
    checkpoint::{Document, Freeze, Host, Job, Phase},
    process::ProcessId,
};

/// What a test does when a phase begins; it runs in the tracer's thread, so it may use ptrace.
type OnPhase<'a> = Box<dyn Fn(Phase) + Sync + 'a>;

/// The host of one container.
pub(crate) struct TestHost<'a> {
    pub(crate) init: i32,
    pub(crate) on_phase: OnPhase<'a>,
    pub(crate) phases: Mutex<Vec<Phase>>,
    pub(crate) exits: Mutex<Vec<(i32, i32)>>,
    pub(crate) cancelled: AtomicBool,
    pub(crate) crashed: AtomicBool,
}

impl<'a> TestHost<'a> {
    pub(crate) fn new(init: i32) -> Self {
        Self::with(init, |_| {})
    }

    pub(crate) fn with(init: i32, on_phase: impl Fn(Phase) + Sync + 'a) -> Self {
        Self {
            init,
            on_phase: Box::new(on_phase),
            phases: Mutex::default(),
            exits: Mutex::default(),
            cancelled: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
        }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }
}

impl Host for TestHost<'_> {
    fn members(&self) -> io::Result<Vec<ProcessId>> {
        Ok(descendants(self.init))
    }

    fn phase(&self, phase: Phase) {
        self.phases.lock().unwrap().push(phase);
        (self.on_phase)(phase);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn exited(&self, pid: i32, status: i32) {
        self.exits.lock().unwrap().push((pid, status));
    }

    fn crash_runtime(&self) {
        self.crashed.store(true, Ordering::SeqCst);
        self.cancel();
    }
}

/// Fields 3 (state), 4 (parent) and 22 (start time) of `/proc/PID/stat`.
pub(crate) fn stat(pid: i32) -> Option<(char, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    let words: Vec<_> = rest.split_whitespace().collect();
    Some((
        words[0].chars().next()?,
        words[1].parse().ok()?,
        words[19].parse().ok()?,
    ))
}

/// A process and all below it.
pub(crate) fn descendants(init: i32) -> Vec<ProcessId> {
    let all: Vec<(i32, i32, u64)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat(pid).map(|(_, parent, start)| (pid, parent, start)))
        .collect();
    let mut known = BTreeSet::from([init]);
    while let Some((pid, ..)) = all
        .iter()
        .find(|(pid, parent, _)| known.contains(parent) && !known.contains(pid))
    {
        known.insert(*pid);
    }
    all.iter()
        .filter(|(pid, ..)| known.contains(pid))
        .map(|(pid, _, start_time)| ProcessId {
            pid: *pid,
            start_time: *start_time,
        })
        .collect()
}

/// A job that writes to `checkpoint.tar` of a folder, with the four documents that an engine adds.
pub(crate) fn job(init: i32, folder: &Path) -> Job {
    let document = |name: &str, content: &str| Document {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    Job {
        container_id: "c".repeat(64),
        init: ProcessId {
            pid: init,
            start_time: stat(init).expect("the workload runs").2,
        },
        location: folder.join("checkpoint.tar"),
        temporary: folder.join(".checkpoint.tar.part"),
        documents: vec![
            document("config.dump", CONFIG),
            document("spec.dump", SPEC),
            document("status.dump", "{}"),
            document("status", "{}"),
        ],
        layout: fake_cri::checkpoint::Layout::default(),
        log: None,
        freeze: Freeze::Copy,
        freeze_bound: Duration::from_secs(5),
        deadline: None,
        fsync: false,
        strict: false,
        delay: None,
        injections: Vec::new(),
    }
}

const CONFIG: &str = r#"{"id":"c","name":"app","rootfsImageName":"busybox:latest","runtime":"fake-cri","createdTime":"2026-01-02T03:04:05Z","checkpointedTime":"2026-01-02T03:04:06Z","restoredTime":"0001-01-01T00:00:00Z","restored":false}"#;
const SPEC: &str = r#"{"ociVersion":"1.1.0","process":{"args":["app"],"cwd":"/"},"root":{"path":"rootfs"},"hostname":"h","annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"pod","io.kubernetes.cri.sandbox-namespace":"ns"},"linux":{}}"#;

/// Every thread of the container runs free: none stopped, none traced.
pub(crate) fn assert_runs_free(init: i32) {
    for process in descendants(init) {
        // Processes and threads may end while they are looked at.
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.pid)) else {
            continue;
        };
        for path in threads.filter_map(|entry| Some(entry.ok()?.path())) {
            let Ok(status) = fs::read_to_string(path.join("status")) else {
                continue;
            };
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().to_owned()
            };
            assert_eq!(field("TracerPid:"), "0", "{}", path.display());
            assert!(!matches!(&*field("State:"), "T" | "t"), "{}", path.display());
        }
    }
}

/// The folder holds nothing but these.
pub(crate) fn assert_holds(folder: &Path, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names);
}

/// Copies an archive into the folder that `KEEP_ARCHIVES` names, for whoever wants to look at it.
pub(crate) fn keep(archive: &Path) {
    if let Some(folder) = std::env::var_os("KEEP_ARCHIVES") {
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        fs::copy(archive, Path::new(&folder).join(test + ".tar")).unwrap();
    }
}
