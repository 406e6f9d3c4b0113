//! Containers of which no snapshot is possible: the checkpoint uses a full freeze, `dump.log` has the reason, and the
//! archive is complete.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint::{self, Report};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, descendants, job},
    workload::{PAGE_BYTES, Shape, Sleeper, Workload, filter},
};

/// Checkpoints a process that must continue unchanged; returns the report and the archive.
fn checkpoint_archive(pid: i32) -> (Report, ArchiveContents) {
    let dir = tempfile::tempdir().unwrap();
    let job = job(pid, dir.path());
    let before: Vec<_> = descendants(pid);
    let report = checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    assert_running_untraced(pid);
    assert_eq!(descendants(pid), before, "no snapshot remains");
    assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    (report, ArchiveContents::read(&job.location))
}

/// Asserts a full freeze for this reason.
#[track_caller]
fn assert_full_freeze(report: &Report, contents: &ArchiveContents, reason: &str) {
    let log = contents.log();
    let line = log
        .lines()
        .find(|line| line.contains("full freeze: "))
        .unwrap_or_else(|| panic!("no reason is logged: {log}"));
    assert!(!report.used_snapshot && line.contains(reason), "{line}");
}

/// Memory that a fork does not preserve is buffered up to a limit. The archive has the memory in both cases.
#[rstest]
#[case::below_the_limit(2000, true)]
#[case::beyond_the_limit(2049, false)]
fn large_not_forked_memory(#[case] pages: u64, #[case] snapshot_expected: bool) {
    let workload = Workload::start(&Shape {
        not_forked_pages: pages,
        spinning: 1,
        ..Shape::default()
    });
    let (report, contents) = checkpoint_archive(workload.pid());
    if snapshot_expected {
        assert!(report.used_snapshot, "{}", contents.log());
    } else {
        assert_full_freeze(&report, &contents, "of private memory (MADV_DONTFORK");
    }
    let dumped_pages = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    for name in ["dontfork", "wipeonfork"] {
        let (start, length) = workload.layout.mappings[name];
        assert_eq!(length, pages * PAGE_BYTES);
        for page in 0..pages {
            let content = &dumped_pages[&(start + page * PAGE_BYTES)];
            assert!(
                content.iter().all(|byte| *byte == page as u8 | 0x40),
                "{name}, page {page}"
            );
        }
    }
    workload.count();
}

#[rstest]
#[case::few(224, true)]
#[case::many(225, false)]
fn many_shared_mappings(#[case] shared_mappings: usize, #[case] snapshot_expected: bool) {
    let workload = Workload::start(&Shape {
        shared_mappings,
        ..Shape::default()
    });
    let (report, contents) = checkpoint_archive(workload.pid());
    if snapshot_expected {
        assert!(report.used_snapshot, "{}", contents.log());
    } else {
        let reason = format!("process {} has {shared_mappings} shared mappings", workload.pid());
        assert_full_freeze(&report, &contents, &reason);
    }
    // Each mapping is a separate object with one page.
    let vmas = contents.mm(workload.pid()).vmas;
    let shared: Vec<_> = vmas.iter().filter(|vma| vma.status & (1 << 8) != 0).collect();
    assert_eq!(shared.len(), shared_mappings);
    let mut first_bytes: Vec<_> = shared
        .iter()
        .map(|vma| contents.pages(&format!("pagemap-shmem-{}.img", vma.shmid))[&0][0])
        .collect();
    first_bytes.sort_unstable();
    let mut expected: Vec<_> = (0..shared_mappings).map(|number| number as u8 | 1).collect();
    expected.sort_unstable();
    assert_eq!(first_bytes, expected);
    workload.count();
}

/// A `sleep` process. Dropping it kills and reaps the process.
struct SleepProcess(Child);

impl SleepProcess {
    /// Runs a command that execs `sleep`, and waits for the exec.
    fn sleeping(command: &[&str]) -> io::Result<Self> {
        let child = Command::new(command[0])
            .args(&command[1..])
            .args(["sleep", "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Self)?;
        let until = Instant::now() + Duration::from_secs(20);
        while fs::read_to_string(format!("/proc/{}/comm", child.pid()))? != "sleep\n" {
            assert!(Instant::now() < until, "{command:?} does not exec sleep");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for SleepProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn small_nproc_limit() {
    // RLIMIT_NPROC does not apply to root, so root tests with another user.
    let as_other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let as_other_user = if nix::unistd::geteuid().is_root() {
        &as_other_user[..]
    } else {
        &[]
    };
    let command = [as_other_user, &["prlimit", "--nproc=1000"]].concat();
    let sleeper = match SleepProcess::sleeping(&command) {
        Ok(sleeper) => sleeper,
        Err(error) => return eprintln!("skipped: cannot run {command:?} from util-linux: {error}"),
    };
    let (report, contents) = checkpoint_archive(sleeper.pid());
    let reason = format!("process {} has a limit of 1000 processes (RLIMIT_NPROC)", sleeper.pid());
    assert_full_freeze(&report, &contents, &reason);

    if nix::unistd::geteuid().is_root() {
        let sleeper = SleepProcess::sleeping(&["prlimit", "--nproc=1000"]).unwrap();
        let (report, contents) = checkpoint_archive(sleeper.pid());
        assert!(
            report.used_snapshot,
            "the limit does not apply to root: {}",
            contents.log()
        );
    }
}

/// A cgroup for one test, below the cgroup of this process.
struct LimitedCgroup(PathBuf);

impl LimitedCgroup {
    /// Creates a cgroup that has this file; `None` if that is not possible.
    fn create(controller: &str, file: &str) -> Option<Self> {
        let self_cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let parent = self_cgroups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let root = match controllers {
                "" => Path::new("/sys/fs/cgroup").to_owned(),
                controllers if controllers.split(',').any(|name| name == controller) => {
                    Path::new("/sys/fs/cgroup").join(controller)
                }
                _ => return None,
            };
            Some(root.join(path.trim_start_matches('/')))
        });
        let name = format!("checkpoint-test-{}-{controller}", std::process::id());
        let made = parent
            .map(|parent| parent.join(name))
            .map(|path| fs::create_dir(&path).map(|()| Self(path)));
        match made {
            Some(Ok(cgroup)) if cgroup.0.join(file).exists() => Some(cgroup),
            other => {
                eprintln!(
                    "skipped: cannot create a cgroup with {file}: {:?}",
                    other.map(|made| made.err())
                );
                None
            }
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

impl Drop for LimitedCgroup {
    fn drop(&mut self) {
        // Killed processes leave the cgroup with a delay.
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn cgroup_at_its_pids_limit() {
    let Some(cgroup) = LimitedCgroup::create("pids", "pids.max") else {
        return;
    };
    let sleeper = Sleeper::start();
    cgroup.write("cgroup.procs", &sleeper.pid().to_string());
    cgroup.write("pids.max", "100");
    let (report, contents) = checkpoint_archive(sleeper.pid());
    assert!(report.used_snapshot, "the limit is high enough: {}", contents.log());
    cgroup.write("pids.max", "20");
    let (report, contents) = checkpoint_archive(sleeper.pid());
    let reason = format!(
        "its cgroup {} has no room for 1 processes more (pids.max)",
        cgroup.0.display()
    );
    assert_full_freeze(&report, &contents, &reason);
    drop(sleeper);
}

#[test]
fn cgroup_at_its_memory_limit() {
    let (Some(cgroup), limit) = ["memory.limit_in_bytes", "memory.max"]
        .into_iter()
        .find(|file| Path::new("/sys/fs/cgroup/memory").exists() == (*file == "memory.limit_in_bytes"))
        .map_or((None, ""), |file| (LimitedCgroup::create("memory", file), file))
    else {
        return;
    };
    let filled_pages = (32 << 20) / PAGE_BYTES;
    let workload = Workload::start(&Shape {
        filled_pages,
        ..Shape::default()
    });
    cgroup.write("cgroup.procs", &workload.pid().to_string());
    // Memory that the process allocated before the move is not charged to this cgroup.
    cgroup.write(limit, &(256 << 20).to_string());
    let (report, contents) = checkpoint_archive(workload.pid());
    assert!(report.used_snapshot, "the limit is high enough: {}", contents.log());
    cgroup.write(limit, &(24 << 20).to_string());
    let (report, contents) = checkpoint_archive(workload.pid());
    assert_full_freeze(
        &report,
        &contents,
        &format!("its cgroup {} has no room for", cgroup.0.display()),
    );
    let (start, _) = workload.layout.mappings["dense"];
    let dumped_pages = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    assert_eq!(
        dumped_pages.range(start..start + filled_pages * PAGE_BYTES).count() as u64,
        filled_pages
    );
    workload.count();
    drop(workload);
}

/// The seccomp filter kills every process that calls clone. Making a snapshot must not kill the process: the filter is
/// suspended if the tracer may do so.
#[test]
fn seccomp_filter_kills_clone() {
    let workload = Workload::start(&Shape {
        spinning: 1,
        kills_clone: true,
        ..Shape::default()
    });
    let pid = workload.pid();
    let (report, contents) = checkpoint_archive(pid);
    if nix::unistd::geteuid().is_root() {
        assert!(report.used_snapshot, "{}", contents.log());
    } else {
        assert_full_freeze(&report, &contents, "its seccomp filter cannot be suspended");
    }
    let before = workload.count();
    let until = Instant::now() + Duration::from_secs(10);
    while workload.count() <= before + 1 {
        assert!(Instant::now() < until, "the workload does not continue");
    }
    // A tracer that has a seccomp filter itself may not suspend filters.
    let (report, contents) = thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            assert!(filter::install(false, false), "seccomp filters are available");
            checkpoint_archive(pid)
        });
        filtered.join().unwrap()
    });
    assert_full_freeze(&report, &contents, "its seccomp filter cannot be suspended");
    workload.count();
}
