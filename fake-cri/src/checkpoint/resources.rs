//! Whether there is room for copies of the container's processes beside them.
//!
//! A copy takes a number, and a page that the original writes while its copy is there is held twice. No limit may be hit by
//! that: it would be the container's own fork or write that fails. So a container near a limit is not copied. What is not to be
//! found out (cgroups mounted elsewhere) counts as no limit; the copying itself may still fail then, which is noticed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::process::syscalls;

/// How many numbers have to be left besides those of the copies: a container that forks much must not run out of them.
const SPARE_PIDS: u64 = 32;
/// A limit of processes a user below which it is not asked how many there are.
const MIN_NPROC_LIMIT: u64 = 4096;

/// Where room is short.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InsufficientResources {
    #[error("{0} bytes of memory are not available (MemAvailable)")]
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
    NprocLimit { pid: i32, limit: u64 },
}

/// Looks whether a process may be copied, `copies` in all, of which this one can come to hold so many bytes.
pub(crate) fn check(pid: i32, snapshot_count: u64, bytes: u64) -> Result<(), InsufficientResources> {
    if read_number("/proc/sys/vm/overcommit_memory") == Some(2) {
        return Err(InsufficientResources::StrictOvercommit);
    }
    if mem_available().is_some_and(|available| available < bytes) {
        return Err(InsufficientResources::Memory(bytes));
    }
    let is_root = nix::unistd::Uid::from_raw(real_uid(pid).unwrap_or(0)).is_root();
    if let (false, Ok(limits)) = (is_root, syscalls::rlimits(pid)) {
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
            // A limit of any of its parents holds for it too.
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

/// The controllers with the files of their limit and of what is used of it; of the second version, then of the first.
const CGROUP_LIMIT_FILES: &[(&str, &str, &str)] = &[
    ("memory", "memory.max", "memory.current"),
    ("memory", "memory.high", "memory.current"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ("pids", "pids.max", "pids.current"),
];

/// What a limit of a cgroup leaves; `None` without one.
fn cgroup_headroom(cgroup: &Path, maximum: &str, used: &str) -> Option<u64> {
    let maximum = read_number(cgroup.join(maximum))?;
    Some(maximum.saturating_sub(read_number(cgroup.join(used))?))
}

/// A file that holds one number; `None` for any other word, as `max`.
fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn mem_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The real user of a process.
fn real_uid(pid: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory_is_refused() {
        let pid = std::process::id().cast_signed();
        assert!(check(pid, 1, u64::MAX).is_err());
    }

    #[test]
    fn headroom_is_limit_minus_usage() {
        let cgroup = tempfile::tempdir().expect("a folder");
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
