//! Whether a container stands still, by what holds it, and how it is let go again.
//!
//! | what holds it | seen in | let go by |
//! |---|---|---|
//! | cgroup v1's freezer | `freezer.self_freezing` is 1, `freezer.state` FROZEN | THAWED to `freezer.state` |
//! | cgroup v2 | `cgroup.freeze` is 1 | 0 to `cgroup.freeze` |
//! | SIGSTOP | state `T` in `/proc/PID/stat` | SIGCONT |
//! | a tracer that stays | state `t` | only the tracer can: the container has to go |
//!
//! A cgroup is written to only when its path names the container or its Pod: one above holds others too. Nothing is seen
//! where the runtime's processes are not visible (another pid namespace): then only the container's counter tells.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use fake_cri::process::{ProcessId, family};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What keeps a container's processes from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A frozen cgroup: its folder, and whether it is of version 1.
    Cgroup {
        /// The folder.
        folder: PathBuf,
        /// Whether it is a cgroup of version 1.
        v1: bool,
    },
    /// Processes that were stopped by a signal.
    Stopped(Vec<ProcessId>),
    /// Processes that a tracer holds, and the tracer of the first.
    Traced(Vec<ProcessId>, i32),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Cgroup { v1: true, .. } => f.write_str("its freezer cgroup is FROZEN"),
            Hold::Cgroup { v1: false, .. } => f.write_str("cgroup.freeze of its cgroup is 1"),
            Hold::Stopped(_) => f.write_str("its processes are stopped by a signal (state T)"),
            Hold::Traced(_, tracer) => write!(f, "its processes are held by a tracer (state t, tracer {tracer})"),
        }
    }
}

/// Where cgroups are mounted, and where a process's own are.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    /// The mount point of the version 1 freezer, and the cgroup that is its root there.
    v1: Option<(PathBuf, String)>,
    v2: Option<(PathBuf, String)>,
}

impl Cgroups {
    /// Reads this process's mounts.
    pub(super) fn look() -> Cgroups {
        Cgroups::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &str) -> Cgroups {
        let mut cgroups = Cgroups { v1: None, v2: None };
        for line in mountinfo.lines() {
            let Some((mount, super_block)) = line.split_once(" - ") else {
                continue;
            };
            let fields: Vec<_> = mount.split(' ').collect();
            let (Some(root), Some(point)) = (fields.get(3), fields.get(4)) else {
                continue;
            };
            let mut words = super_block.split(' ');
            let place = || Some((PathBuf::from(point), (*root).to_owned()));
            match (words.next(), words.nth(1)) {
                (Some("cgroup"), Some(options)) if options.split(',').any(|option| option == "freezer") => {
                    cgroups.v1 = cgroups.v1.take().or_else(place);
                }
                (Some("cgroup2"), _) => cgroups.v2 = cgroups.v2.take().or_else(place),
                _ => {}
            }
        }
        cgroups
    }

    /// The folders of a process's cgroups, version 1 first.
    fn of(&self, membership: &str) -> Vec<(PathBuf, bool)> {
        let below = |place: &Option<(PathBuf, String)>, path: &str| {
            let (point, root) = place.as_ref()?;
            let path = path.strip_prefix(root.trim_end_matches('/'))?;
            Some(point.join(path.trim_start_matches('/')))
        };
        let mut folders = Vec::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next(), fields.next()) {
                (Some(""), Some(path)) => folders.extend(below(&self.v2, path).map(|folder| (folder, false))),
                (Some(controllers), Some(path)) if controllers.split(',').any(|name| name == "freezer") => {
                    folders.extend(below(&self.v1, path).map(|folder| (folder, true)));
                }
                _ => {}
            }
        }
        folders.sort_by_key(|(_, v1)| !v1);
        folders
    }

    /// The frozen cgroup that holds this process, from its own upwards as long as the path names one of `names`.
    fn frozen(&self, pid: i32, names: &[&str]) -> Option<Hold> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        for (leaf, v1) in self.of(&membership) {
            for folder in leaf.ancestors().take_while(|folder| names_any(folder, names)) {
                if is_frozen(folder, v1) {
                    return Some(Hold::Cgroup {
                        folder: folder.to_owned(),
                        v1,
                    });
                }
            }
        }
        None
    }
}

/// Whether a path goes through a folder that is called after one of the ids.
fn names_any(folder: &Path, names: &[&str]) -> bool {
    let path = folder.to_string_lossy();
    names.iter().any(|name| !name.is_empty() && path.contains(name))
}

fn is_frozen(folder: &Path, v1: bool) -> bool {
    let is = |file: &str, value: &str| fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == value);
    if v1 {
        is("freezer.self_freezing", "1") || is("freezer.state", "FROZEN")
    } else {
        is("cgroup.freeze", "1")
    }
}

/// What holds the container whose first process this is; `None` when nothing does that can be seen. A container that is
/// being checkpointed is held rightly: ask only when no checkpoint is under way.
pub(super) fn hold(cgroups: &Cgroups, first: i32, names: &[&str]) -> Option<Hold> {
    if let Some(hold) = cgroups.frozen(first, names) {
        return Some(hold);
    }
    let mut members: Vec<_> = family::Kin::of(first).into_iter().collect();
    members.extend(family::descendants(first).unwrap_or_default());
    let in_state = |state: u8| {
        let held = members.iter().filter(|kin| kin.state == state);
        held.map(|kin| kin.id).collect::<Vec<_>>()
    };
    let traced = in_state(b't');
    if let Some(one) = traced.first() {
        let tracer = family::tracer(one.pid);
        return Some(Hold::Traced(traced, tracer));
    }
    let stopped = in_state(b'T');
    (!stopped.is_empty()).then_some(Hold::Stopped(stopped))
}

/// Lets the processes go, as far as that can be done from outside.
///
/// # Errors
/// It cannot: a tracer holds them, or the kernel does not allow it.
pub(super) fn release(hold: &Hold) -> io::Result<&'static str> {
    match hold {
        Hold::Cgroup { folder, v1: true } => {
            fs::write(folder.join("freezer.state"), "THAWED")?;
            Ok("THAWED written to its freezer.state")
        }
        Hold::Cgroup { folder, v1: false } => {
            fs::write(folder.join("cgroup.freeze"), "0")?;
            Ok("0 written to its cgroup.freeze")
        }
        Hold::Stopped(processes) => {
            for process in processes.iter().filter(|process| process.alive()) {
                kill(Pid::from_raw(process.pid), Signal::SIGCONT)?;
            }
            Ok("SIGCONT sent to it")
        }
        Hold::Traced(_, tracer) => Err(io::Error::other(format!(
            "only its tracer, process {tracer}, can let it go"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "33 26 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 26 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
        35 26 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn cgroups_of_both_versions_are_found() {
        let cgroups = Cgroups::parse(MOUNTS);
        let folders = cgroups.of("7:freezer:/k8s.io/abc\n3:memory:/k8s.io/abc\n0::/k8s.io/abc\n");
        assert_eq!(
            folders,
            [
                (PathBuf::from("/sys/fs/cgroup/freezer/k8s.io/abc"), true),
                (PathBuf::from("/sys/fs/cgroup/unified/k8s.io/abc"), false)
            ]
        );
    }

    #[test]
    fn only_what_names_the_container_is_touched() {
        assert!(names_any(Path::new("/sys/fs/cgroup/k8s.io/abc"), &["abc", "pod"]));
        assert!(!names_any(Path::new("/sys/fs/cgroup/k8s.io"), &["abc", "pod", ""]));
    }

    #[test]
    fn a_frozen_cgroup_is_seen_and_written_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.freeze"), "1\n").unwrap();
        assert!(is_frozen(folder.path(), false));
        let hold = Hold::Cgroup {
            folder: folder.path().to_owned(),
            v1: false,
        };
        release(&hold).unwrap();
        assert!(!is_frozen(folder.path(), false));
    }

    #[test]
    fn a_stopped_process_is_seen_and_continued() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let cgroups = Cgroups::look();
        assert_eq!(hold(&cgroups, pid, &[]), None);
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        let held = hold(&cgroups, pid, &[]).unwrap();
        assert_eq!(held.to_string(), "its processes are stopped by a signal (state T)");
        release(&held).unwrap();
        assert_eq!(hold(&cgroups, pid, &[]), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
