//! The host of the dump engine in tests, and the jobs of tests.

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
    fault::{CheckpointFaults, CheckpointHooks, Effect, Injection},
    process::{Pid, ProcessId},
};

/// Called when a phase begins, in the thread of the tracer, so the hook may use ptrace.
type PhaseHook<'a> = Box<dyn Fn(Phase) + Sync + 'a>;

/// The host of one container.
pub(crate) struct TestHost<'a> {
    pub(crate) init: i32,
    pub(crate) phase_hook: PhaseHook<'a>,
    pub(crate) phases: Mutex<Vec<Phase>>,
    pub(crate) exits: Mutex<Vec<(i32, i32)>>,
    pub(crate) cancelled: AtomicBool,
}

impl<'a> TestHost<'a> {
    pub(crate) fn new(init: i32) -> Self {
        Self::with_phase_hook(init, |_| {})
    }

    pub(crate) fn with_phase_hook(init: i32, phase_hook: impl Fn(Phase) + Sync + 'a) -> Self {
        Self {
            init,
            phase_hook: Box::new(phase_hook),
            phases: Mutex::default(),
            exits: Mutex::default(),
            cancelled: AtomicBool::new(false),
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

    fn on_phase(&self, phase: Phase) {
        self.phases.lock().unwrap().push(phase);
        (self.phase_hook)(phase);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn on_exited(&self, pid: Pid, status: i32) {
        self.exits.lock().unwrap().push((pid.as_raw(), status));
    }
}

/// Fields 3 (state), 4 (parent) and 22 (start time) of `/proc/PID/stat`.
pub(crate) fn stat(pid: i32) -> Option<(char, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<_> = rest.split_whitespace().collect();
    Some((
        fields[0].chars().next()?,
        fields[1].parse().ok()?,
        fields[19].parse().ok()?,
    ))
}

/// A process and all its descendants.
pub(crate) fn descendants(init: i32) -> Vec<ProcessId> {
    let all: Vec<(i32, i32, u64)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat(pid).map(|(_, parent, start)| (pid, parent, start)))
        .collect();
    let mut members = BTreeSet::from([init]);
    while let Some((pid, ..)) = all
        .iter()
        .find(|(pid, parent, _)| members.contains(parent) && !members.contains(pid))
    {
        members.insert(*pid);
    }
    all.iter()
        .filter(|(pid, ..)| members.contains(pid))
        .map(|(pid, _, start_time)| ProcessId {
            pid: Pid::from_raw(*pid),
            start_time: *start_time,
        })
        .collect()
}

/// Hooks with one fault.
pub(crate) fn fault(phase: Phase, effect: Effect) -> CheckpointHooks<'static> {
    let injections = vec![Injection { phase, effect }];
    faults(CheckpointFaults {
        injections,
        defects: Vec::new(),
    })
}

/// Hooks with these faults.
pub(crate) fn faults(faults: CheckpointFaults) -> CheckpointHooks<'static> {
    CheckpointHooks::new(faults, || panic!("no crash is injected"))
}

/// A job that writes `checkpoint.tar` in this directory, with the four documents of an engine.
pub(crate) fn job(init: i32, dir: &Path) -> Job {
    let document = |name: &str, content: &str| Document {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    Job {
        container_id: "c".repeat(64),
        init: ProcessId {
            pid: Pid::from_raw(init),
            start_time: stat(init).expect("the workload is running").2,
        },
        location: dir.join("checkpoint.tar"),
        temporary: dir.join(".checkpoint.tar.part"),
        documents: vec![
            document("config.dump", CONFIG_DUMP),
            document("spec.dump", SPEC_DUMP),
            document("status.dump", "{}"),
            document("status", "{}"),
        ],
        layout: fake_cri::checkpoint::Layout::default(),
        log: None,
        freeze: Freeze::Snapshot,
        freeze_timeout: Duration::from_secs(5),
        deadline: None,
        fsync: false,
        strict: false,
        delay: None,
    }
}

const CONFIG_DUMP: &str = r#"{"id":"c","name":"app","rootfsImageName":"busybox:latest","runtime":"fake-cri","createdTime":"2026-01-02T03:04:05Z","checkpointedTime":"2026-01-02T03:04:06Z","restoredTime":"0001-01-01T00:00:00Z","restored":false}"#;
const SPEC_DUMP: &str = r#"{"ociVersion":"1.1.0","process":{"args":["app"],"cwd":"/"},"root":{"path":"rootfs"},"hostname":"h","annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"pod","io.kubernetes.cri.sandbox-namespace":"ns"},"linux":{}}"#;

/// Asserts that no thread of the container is stopped or traced.
pub(crate) fn assert_running_untraced(init: i32) {
    for process in descendants(init) {
        // Processes and threads may exit meanwhile.
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

/// Asserts that the directory contains exactly these names.
pub(crate) fn assert_dir_entries(dir: &Path, names: &[&str]) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    entries.sort();
    assert_eq!(entries, names);
}

/// Copies an archive to the directory in `KEEP_ARCHIVES`, if set.
pub(crate) fn keep_archive(archive: &Path) {
    if let Some(dir) = std::env::var_os("KEEP_ARCHIVES") {
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        fs::copy(archive, Path::new(&dir).join(test + ".tar")).unwrap();
    }
}
