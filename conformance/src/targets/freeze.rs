//! Detects whether a container is frozen and by what, and thaws it.
//!
//! | frozen by | visible as | thawed by |
//! |---|---|---|
//! | cgroup v1 freezer | `freezer.self_freezing` is 1, `freezer.state` is FROZEN | write THAWED to `freezer.state` |
//! | cgroup v2 | `cgroup.freeze` is 1 | write 0 to `cgroup.freeze` |
//! | SIGSTOP | state `T` in `/proc/PID/stat` | SIGCONT |
//! | a tracer that does not detach | state `t` | only the tracer can; the container must be stopped |
//!
//! Writes only to a cgroup whose path contains an id of the container or its Pod: an ancestor also contains other
//! containers. Where the container's processes are not visible (another pid namespace), only its heartbeat shows that
//! it is frozen.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use fake_cri::process::{Pid, ProcessId, Tid, pstree};
use nix::sys::signal::{Signal, kill};
use procfs::process::{MountInfo, MountInfos, Process};

/// What keeps a container's processes from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreezeCause {
    /// A frozen cgroup.
    Cgroup {
        /// The cgroup's directory.
        dir: PathBuf,
        /// Whether the cgroup is in a version 1 hierarchy.
        v1: bool,
    },
    /// Processes that a signal stopped.
    Stopped(Vec<ProcessId>),
    /// Processes that a tracer stopped, and the first one's tracer unless it is in another pid namespace.
    Traced(Vec<ProcessId>, Option<Tid>),
}

impl fmt::Display for FreezeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreezeCause::Cgroup { v1: true, .. } => f.write_str("its freezer cgroup is FROZEN"),
            FreezeCause::Cgroup { v1: false, .. } => f.write_str("cgroup.freeze of its cgroup is 1"),
            FreezeCause::Stopped(_) => f.write_str("its processes are stopped by a signal (state T)"),
            FreezeCause::Traced(_, tracer) => {
                let tracer = tracer.map_or(0, Tid::as_raw);
                write!(f, "its processes are stopped by a tracer (state t, tracer {tracer})")
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct CgroupMounts {
    /// The mount point, and the cgroup that is mounted there.
    v1: Option<(PathBuf, String)>,
    v2: Option<(PathBuf, String)>,
}

impl CgroupMounts {
    pub(super) fn read() -> CgroupMounts {
        let mounts = Process::myself().and_then(|process| process.mountinfo());
        CgroupMounts::find(&mounts.unwrap_or(MountInfos(Vec::new())))
    }

    fn find(mounts: &MountInfos) -> CgroupMounts {
        let first = |is_wanted: fn(&MountInfo) -> bool| {
            let mount = mounts.iter().find(|mount| is_wanted(mount))?;
            Some((mount.mount_point.clone(), mount.root.clone()))
        };
        CgroupMounts {
            v1: first(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("freezer")),
            v2: first(|mount| mount.fs_type == "cgroup2"),
        }
    }

    /// The directories of a process's cgroups, version 1 first. `membership` is the content of `/proc/PID/cgroup`.
    fn dirs_of(&self, membership: &str) -> Vec<(PathBuf, bool)> {
        let cgroup_dir = |mount: &Option<(PathBuf, String)>, path: &str| {
            let (point, root) = mount.as_ref()?;
            let path = path.strip_prefix(root.trim_end_matches('/'))?;
            Some(point.join(path.trim_start_matches('/')))
        };
        let mut dirs = Vec::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next(), fields.next()) {
                (Some(""), Some(path)) => dirs.extend(cgroup_dir(&self.v2, path).map(|dir| (dir, false))),
                (Some(controllers), Some(path)) if controllers.split(',').any(|name| name == "freezer") => {
                    dirs.extend(cgroup_dir(&self.v1, path).map(|dir| (dir, true)));
                }
                _ => {}
            }
        }
        dirs.sort_by_key(|(_, v1)| !v1);
        dirs
    }

    /// The frozen cgroup of a process: its own or an ancestor whose path contains one of `names`.
    fn frozen_cgroup(&self, pid: Pid, names: &[&str]) -> Option<FreezeCause> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        for (leaf, v1) in self.dirs_of(&membership) {
            for dir in leaf.ancestors().take_while(|dir| contains_any_name(dir, names)) {
                if is_frozen(dir, v1) {
                    return Some(FreezeCause::Cgroup {
                        dir: dir.to_owned(),
                        v1,
                    });
                }
            }
        }
        None
    }
}

fn contains_any_name(dir: &Path, names: &[&str]) -> bool {
    let path = dir.to_string_lossy();
    names.iter().any(|name| !name.is_empty() && path.contains(name))
}

fn is_frozen(dir: &Path, v1: bool) -> bool {
    let file_equals =
        |file: &str, value: &str| fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim() == value);
    if v1 {
        file_equals("freezer.self_freezing", "1") || file_equals("freezer.state", "FROZEN")
    } else {
        file_equals("cgroup.freeze", "1")
    }
}

/// Detects what keeps a container frozen, from its first process. `None` if no cause is visible. A container is also
/// frozen during a checkpoint, so a result means something only if no checkpoint is in progress.
pub(super) fn detect(cgroups: &CgroupMounts, first_pid: Pid, names: &[&str]) -> Option<FreezeCause> {
    if let Some(cause) = cgroups.frozen_cgroup(first_pid, names) {
        return Some(cause);
    }
    let mut tasks: Vec<_> = pstree::ProcStat::read(first_pid).into_iter().collect();
    tasks.extend(pstree::descendants(first_pid).unwrap_or_default());
    let in_state = |state: char| {
        let stopped_tasks = tasks.iter().filter(|kin| kin.state == state);
        stopped_tasks.map(|kin| kin.id).collect::<Vec<_>>()
    };
    let traced = in_state('t');
    if let Some(first_traced) = traced.first() {
        let tracer = pstree::tracer_tid(first_traced.pid.main_thread());
        return Some(FreezeCause::Traced(traced, tracer));
    }
    let stopped = in_state('T');
    (!stopped.is_empty()).then_some(FreezeCause::Stopped(stopped))
}

/// Thaws the processes.
pub(super) fn unfreeze(cause: &FreezeCause) -> io::Result<&'static str> {
    match cause {
        FreezeCause::Cgroup { dir, v1: true } => {
            fs::write(dir.join("freezer.state"), "THAWED")?;
            Ok("THAWED written to its freezer.state")
        }
        FreezeCause::Cgroup { dir, v1: false } => {
            fs::write(dir.join("cgroup.freeze"), "0")?;
            Ok("0 written to its cgroup.freeze")
        }
        FreezeCause::Stopped(processes) => {
            for process in processes.iter().filter(|process| process.is_alive()) {
                kill(process.pid.into(), Signal::SIGCONT)?;
            }
            Ok("SIGCONT sent to it")
        }
        FreezeCause::Traced(_, tracer) => {
            let tracer = tracer.map_or(0, Tid::as_raw);
            let message = format!("only its tracer, process {tracer}, can continue it");
            Err(io::Error::other(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    const MOUNTS: &str = "33 26 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 26 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
        35 26 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn finds_cgroups_of_both_versions() {
        let cgroups = CgroupMounts::find(&MountInfos::from_read(MOUNTS.as_bytes()).unwrap());
        let dirs = cgroups.dirs_of("7:freezer:/k8s.io/abc\n3:memory:/k8s.io/abc\n0::/k8s.io/abc\n");
        assert_eq!(
            dirs,
            [
                (PathBuf::from("/sys/fs/cgroup/freezer/k8s.io/abc"), true),
                (PathBuf::from("/sys/fs/cgroup/unified/k8s.io/abc"), false)
            ]
        );
    }

    #[test]
    fn accepts_only_paths_that_name_the_container() {
        assert!(contains_any_name(
            Path::new("/sys/fs/cgroup/k8s.io/abc"),
            &["abc", "pod"]
        ));
        assert!(!contains_any_name(
            Path::new("/sys/fs/cgroup/k8s.io"),
            &["abc", "pod", ""]
        ));
    }

    #[test]
    fn detects_and_thaws_a_frozen_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "1\n").unwrap();
        assert!(is_frozen(dir.path(), false));
        let cause = FreezeCause::Cgroup {
            dir: dir.path().to_owned(),
            v1: false,
        };
        unfreeze(&cause).unwrap();
        assert!(!is_frozen(dir.path(), false));
    }

    #[test]
    fn detects_and_continues_a_stopped_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let cgroups = CgroupMounts::read();
        assert_eq!(detect(&cgroups, pid, &[]), None);
        kill(pid.into(), Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(
            nix::unistd::Pid::from(pid),
            Some(nix::sys::wait::WaitPidFlag::WUNTRACED),
        )
        .unwrap();
        let cause = detect(&cgroups, pid, &[]).unwrap();
        assert_eq!(cause.to_string(), "its processes are stopped by a signal (state T)");
        unfreeze(&cause).unwrap();
        assert_eq!(detect(&cgroups, pid, &[]), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
