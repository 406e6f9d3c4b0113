//! Checks that there are enough resources for snapshots of the container's processes.
//!
//! A snapshot takes a pid, and a page that the original writes during the dump exists twice. The snapshots must not
//! exhaust a limit, because then a fork or a write of the container itself would fail. So no snapshot is made near a
//! limit. A limit that cannot be determined (cgroups mounted elsewhere) counts as no limit. The fork may then still
//! fail, which is handled.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::{Current as _, Meminfo};

use crate::process::{
    Pid,
    proc_files::{self, StatusText},
};

/// How many pids must remain free besides those of the snapshots, so that a container that forks often does not run
/// out.
const SPARE_PIDS: u64 = 32;
/// Below this RLIMIT_NPROC no snapshot is made. Above it, the user's processes are not counted.
const MIN_NPROC_LIMIT: u64 = 4096;

/// The resource that is insufficient for snapshots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InsufficientResources {
    #[error("less than {0} bytes of memory are available (MemAvailable)")]
    Memory(u64),
    #[error("its cgroup {path} has no room for {bytes} bytes more ({file})", path = .cgroup.display())]
    CgroupMemory {
        cgroup: PathBuf,
        file: &'static str,
        bytes: u64,
    },
    #[error("its cgroup {path} has no room for {count} processes more (pids.max)", path = .cgroup.display())]
    CgroupPids { cgroup: PathBuf, count: u64 },
    #[error("memory is not overcommitted (vm.overcommit_memory is 2)")]
    StrictOvercommit,
    #[error("process {pid} has a limit of {limit} processes (RLIMIT_NPROC)")]
    NprocLimit { pid: Pid, limit: u64 },
}

/// Checks whether process `pid` may be snapshotted, if `snapshot_count` snapshots are made in all and their pages may
/// grow to `bytes`.
pub(crate) fn check(pid: Pid, snapshot_count: u64, bytes: u64) -> Result<(), InsufficientResources> {
    if read_number("/proc/sys/vm/overcommit_memory") == Some(2) {
        return Err(InsufficientResources::StrictOvercommit);
    }
    let available = Meminfo::current().ok().and_then(|memory| memory.mem_available);
    if available.is_some_and(|available| available < bytes) {
        return Err(InsufficientResources::Memory(bytes));
    }
    let real_uid = StatusText::read(pid.main_thread())
        .ok()
        .and_then(|status| status.value("Uid:"));
    let is_root = real_uid.unwrap_or(0) == 0;
    if let (false, Ok(limits)) = (is_root, proc_files::rlimits(pid)) {
        let limit = limits
            .get(libc::RLIMIT_NPROC as usize)
            .map_or(u64::MAX, |limit| limit.0);
        if limit < MIN_NPROC_LIMIT {
            return Err(InsufficientResources::NprocLimit { pid, limit });
        }
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let relative = Path::new(path.trim_start_matches('/'));
        for (controller, maximum, used) in CGROUP_LIMIT_FILES {
            let root = match controllers {
                "" => PathBuf::from("/sys/fs/cgroup"),
                controllers if controllers.split(',').any(|name| name == *controller) => {
                    Path::new("/sys/fs/cgroup").join(controller)
                }
                _ => continue,
            };
            // The limits of all parent cgroups apply too.
            for cgroup in relative.ancestors().map(|part| root.join(part)) {
                let Some(left) = cgroup_headroom(&cgroup, maximum, used) else {
                    continue;
                };
                if *controller == "memory" && left < bytes {
                    return Err(InsufficientResources::CgroupMemory {
                        cgroup,
                        file: maximum,
                        bytes,
                    });
                }
                if *controller == "pids" && left < snapshot_count + SPARE_PIDS {
                    return Err(InsufficientResources::CgroupPids {
                        cgroup,
                        count: snapshot_count,
                    });
                }
            }
        }
    }
    Ok(())
}

/// The controllers with their limit file and usage file, first of cgroup v2, then of cgroup v1.
const CGROUP_LIMIT_FILES: &[(&str, &str, &str)] = &[
    ("memory", "memory.max", "memory.current"),
    ("memory", "memory.high", "memory.current"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ("pids", "pids.max", "pids.current"),
];

/// The unused part of a cgroup's limit; `None` if there is no limit.
fn cgroup_headroom(cgroup: &Path, maximum: &str, used: &str) -> Option<u64> {
    let maximum = read_number(cgroup.join(maximum))?;
    Some(maximum.saturating_sub(read_number(cgroup.join(used))?))
}

/// Reads a file that holds one number; `None` for any other content, such as `max`.
fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory_is_refused() {
        let pid = Pid::current();
        assert!(check(pid, 1, u64::MAX).is_err());
    }

    #[test]
    fn headroom_is_limit_minus_usage() {
        let cgroup = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| fs::write(cgroup.path().join(name), text).expect("write");
        assert_eq!(cgroup_headroom(cgroup.path(), "pids.max", "pids.current"), None);
        write("pids.current", "5\n");
        write("pids.max", "max\n");
        assert_eq!(cgroup_headroom(cgroup.path(), "pids.max", "pids.current"), None);
        write("pids.max", "7\n");
        assert_eq!(cgroup_headroom(cgroup.path(), "pids.max", "pids.current"), Some(2));
        write("pids.max", "3\n");
        assert_eq!(cgroup_headroom(cgroup.path(), "pids.max", "pids.current"), Some(0));
    }
}
