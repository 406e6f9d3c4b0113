//! Containers that are not copied: each stands still until all is read, says why in `dump.log`, and is as whole in its archive.

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
    archive::Contents,
    host::{TestHost, assert_holds, assert_runs_free, descendants, job},
    workload::{PAGE, Shape, Sleeper, Workload, filter},
};

/// Checkpoints a process that should run on as it is; the report, and the archive.
fn checkpoint(pid: i32) -> (Report, Contents) {
    let folder = tempfile::tempdir().unwrap();
    let job = job(pid, folder.path());
    let before: Vec<_> = descendants(pid);
    let report = checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
    assert_runs_free(pid);
    assert_eq!(descendants(pid), before, "no copy is left");
    assert_holds(folder.path(), &["checkpoint.tar"]);
    (report, Contents::read(&job.location))
}

/// Panics unless it stood still for this reason.
#[track_caller]
fn assert_stood(report: &Report, contents: &Contents, reason: &str) {
    let log = contents.log();
    let line = log
        .lines()
        .find(|line| line.contains("stands still until all is read: "))
        .unwrap_or_else(|| panic!("no reason is said: {log}"));
    assert!(!report.copied && line.contains(reason), "{line}");
}

/// Megabytes that a fork does not carry are held in between up to a limit, and both ways the archive has them.
#[rstest]
#[case::below_the_limit(2000, true)]
#[case::beyond_the_limit(2049, false)]
fn much_memory_that_is_not_for_forks(#[case] pages: u64, #[case] copied: bool) {
    let workload = Workload::start(&Shape {
        unforked_pages: pages,
        spinning: 1,
        ..Shape::default()
    });
    let (report, contents) = checkpoint(workload.pid());
    if copied {
        assert!(report.copied, "{}", contents.log());
    } else {
        assert_stood(&report, &contents, "of private memory are not for forks (MADV_DONTFORK");
    }
    let found = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    for name in ["dontfork", "wipeonfork"] {
        let (start, length) = workload.layout.mappings[name];
        assert_eq!(length, pages * PAGE);
        for page in 0..pages {
            let content = &found[&(start + page * PAGE)];
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
fn many_shared_mappings(#[case] shared_mappings: usize, #[case] copied: bool) {
    let workload = Workload::start(&Shape {
        shared_mappings,
        ..Shape::default()
    });
    let (report, contents) = checkpoint(workload.pid());
    if copied {
        assert!(report.copied, "{}", contents.log());
    } else {
        let reason = format!("process {} has {shared_mappings} shared mappings", workload.pid());
        assert_stood(&report, &contents, &reason);
    }
    // Each is another object, with one page of its own.
    let vmas = contents.mm(workload.pid()).vmas;
    let shared: Vec<_> = vmas.iter().filter(|vma| vma.status & (1 << 8) != 0).collect();
    assert_eq!(shared.len(), shared_mappings);
    let mut numbers: Vec<_> = shared
        .iter()
        .map(|vma| contents.pages(&format!("pagemap-shmem-{}.img", vma.shmid))[&0][0])
        .collect();
    numbers.sort_unstable();
    let mut expected: Vec<_> = (0..shared_mappings).map(|number| number as u8 | 1).collect();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    workload.count();
}

/// A program that is killed and reaped with its guard.
struct Guard(Child);

impl Guard {
    /// Starts one that becomes `sleep`, and waits until it has.
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
            assert!(Instant::now() < until, "{command:?} does not come to sleep");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_small_limit_of_processes() {
    // A limit does not hold for root, so it is another user's there.
    let another = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let another = if nix::unistd::geteuid().is_root() {
        &another[..]
    } else {
        &[]
    };
    let command = [another, &["prlimit", "--nproc=1000"]].concat();
    let sleeper = match Guard::sleeping(&command) {
        Ok(sleeper) => sleeper,
        Err(error) => return eprintln!("skipped: {command:?} of util-linux: {error}"),
    };
    let (report, contents) = checkpoint(sleeper.pid());
    let reason = format!("process {} has a limit of 1000 processes (RLIMIT_NPROC)", sleeper.pid());
    assert_stood(&report, &contents, &reason);

    if nix::unistd::geteuid().is_root() {
        let sleeper = Guard::sleeping(&["prlimit", "--nproc=1000"]).unwrap();
        let (report, contents) = checkpoint(sleeper.pid());
        assert!(report.copied, "root's: {}", contents.log());
    }
}

/// A cgroup of this test alone, below the one of this process.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one that has this file, or says that there is none to be had.
    fn make(controller: &str, file: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| {
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
        let made = own
            .map(|own| own.join(name))
            .map(|path| fs::create_dir(&path).map(|()| Self(path)));
        match made {
            Some(Ok(cgroup)) if cgroup.0.join(file).exists() => Some(cgroup),
            other => {
                eprintln!(
                    "skipped: no cgroup with {file} can be made here: {:?}",
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

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Those who were in it are killed, and leave it a moment later.
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_cgroup_that_has_no_room_for_processes() {
    let Some(cgroup) = Cgroup::make("pids", "pids.max") else {
        return;
    };
    let sleeper = Sleeper::start();
    cgroup.write("cgroup.procs", &sleeper.pid().to_string());
    cgroup.write("pids.max", "100");
    let (report, contents) = checkpoint(sleeper.pid());
    assert!(report.copied, "there is room: {}", contents.log());
    cgroup.write("pids.max", "20");
    let (report, contents) = checkpoint(sleeper.pid());
    let reason = format!(
        "its cgroup {} has no room for 1 processes more (pids.max)",
        cgroup.0.display()
    );
    assert_stood(&report, &contents, &reason);
    drop(sleeper);
}

#[test]
fn a_cgroup_that_has_no_room_for_memory() {
    let (Some(cgroup), limit) = ["memory.limit_in_bytes", "memory.max"]
        .into_iter()
        .find(|file| Path::new("/sys/fs/cgroup/memory").exists() == (*file == "memory.limit_in_bytes"))
        .map_or((None, ""), |file| (Cgroup::make("memory", file), file))
    else {
        return;
    };
    let dense_pages = (32 << 20) / PAGE;
    let workload = Workload::start(&Shape {
        dense_pages,
        ..Shape::default()
    });
    cgroup.write("cgroup.procs", &workload.pid().to_string());
    // What it took before it came here is not counted here.
    cgroup.write(limit, &(256 << 20).to_string());
    let (report, contents) = checkpoint(workload.pid());
    assert!(report.copied, "there is room: {}", contents.log());
    cgroup.write(limit, &(24 << 20).to_string());
    let (report, contents) = checkpoint(workload.pid());
    assert_stood(
        &report,
        &contents,
        &format!("its cgroup {} has no room for", cgroup.0.display()),
    );
    let (start, _) = workload.layout.mappings["dense"];
    let found = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    assert_eq!(
        found.range(start..start + dense_pages * PAGE).count() as u64,
        dense_pages
    );
    workload.count();
    drop(workload);
}

/// A filter that kills whoever clones does not kill a process whose copy is made: it is suspended for that, where it may be.
#[test]
fn a_filter_that_kills_clones() {
    let workload = Workload::start(&Shape {
        spinning: 1,
        no_clones: true,
        ..Shape::default()
    });
    let pid = workload.pid();
    let (report, contents) = checkpoint(pid);
    if nix::unistd::geteuid().is_root() {
        assert!(report.copied, "{}", contents.log());
    } else {
        assert_stood(&report, &contents, "its seccomp filter cannot be suspended");
    }
    let before = workload.count();
    let until = Instant::now() + Duration::from_secs(10);
    while workload.count() <= before + 1 {
        assert!(Instant::now() < until, "it does not go on");
    }
    // A tracer with a filter of its own may suspend none.
    let (report, contents) = thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            assert!(filter::set(false, false), "a filter");
            checkpoint(pid)
        });
        filtered.join().unwrap()
    });
    assert_stood(&report, &contents, "its seccomp filter cannot be suspended");
    workload.count();
}
