//! Detects frozen cgroups: a process in a frozen cgroup does not stop for a tracer until the cgroup is thawed.
//!
//! | version | the cgroup of a process | frozen |
//! |---|---|---|
//! | 1 | the line of the controller `freezer` in `/proc/PID/cgroup` | `freezer.state` is not `THAWED` |
//! | 2 | its line `0::` | `frozen 1` in `cgroup.events`, or `1` in `cgroup.freeze` |
//!
//! Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst of the kernel. The mount points
//! of the hierarchies come from `/proc/self/mountinfo`. A cgroup that no mount shows is skipped. If a thread in it does
//! not stop, the freeze fails later.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::error::Error;
use crate::process::ProcessId;

#[derive(Clone, Debug, PartialEq, Eq)]
struct CgroupMount {
    version: CgroupVersion,
    /// The cgroup at the top of the mount.
    root: PathBuf,
    mount_point: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    V1,
    V2,
}

/// Fails if a process is in a frozen cgroup.
///
/// # Errors
///
/// [`Error::FrozenCgroup`].
pub(super) fn refuse_frozen(members: &[ProcessId]) -> Result<(), Error> {
    let mounts = freezer_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let mut knobs: BTreeMap<PathBuf, Option<&'static str>> = BTreeMap::new();
    for member in members {
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{}/cgroup", member.pid)) else {
            continue;
        };
        for (version, path) in cgroups_of(&cgroups) {
            let Some(cgroup) = mounts.iter().find_map(|mount| cgroup_dir(mount, version, &path)) else {
                continue;
            };
            let knob = knobs
                .entry(cgroup.clone())
                .or_insert_with(|| frozen_knob(version, &cgroup));
            if let Some(knob) = knob {
                return Err(Error::FrozenCgroup {
                    pid: member.pid,
                    cgroup,
                    knob,
                });
            }
        }
    }
    Ok(())
}

/// The mounts of hierarchies that can freeze, from the text of `mountinfo` (proc_pid_mountinfo(5)).
fn freezer_mounts(text: &str) -> Vec<CgroupMount> {
    let mount = |line: &str| {
        let (mount_fields, fs_fields) = line.split_once(" - ")?;
        let mount_fields: Vec<&str> = mount_fields.split(' ').collect();
        let fs_fields: Vec<&str> = fs_fields.split(' ').collect();
        let version = match *fs_fields.first()? {
            "cgroup2" => CgroupVersion::V2,
            "cgroup" if fs_fields.get(2)?.split(',').any(|option| option == "freezer") => CgroupVersion::V1,
            _ => return None,
        };
        Some(CgroupMount {
            version,
            root: (*mount_fields.get(3)?).into(),
            mount_point: (*mount_fields.get(4)?).into(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// The cgroups of a process that can freeze it, from the text of `/proc/PID/cgroup` (cgroups(7)).
fn cgroups_of(text: &str) -> Vec<(CgroupVersion, PathBuf)> {
    let cgroup = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let version = match (hierarchy_id, controllers) {
            ("0", "") => CgroupVersion::V2,
            _ if controllers.split(',').any(|controller| controller == "freezer") => CgroupVersion::V1,
            _ => return None,
        };
        Some((version, path.into()))
    };
    text.lines().filter_map(cgroup).collect()
}

/// The directory of a cgroup below a mount.
fn cgroup_dir(mount: &CgroupMount, version: CgroupVersion, path: &Path) -> Option<PathBuf> {
    let relative = path
        .strip_prefix(&mount.root)
        .ok()
        .filter(|_| mount.version == version)?;
    Some(mount.mount_point.join(relative))
}

/// The file that shows that a cgroup is frozen, if it is.
fn frozen_knob(version: CgroupVersion, cgroup: &Path) -> Option<&'static str> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    match version {
        CgroupVersion::V1 => {
            let state = read("freezer.state");
            (!state.is_empty() && state.trim() != "THAWED").then_some("freezer.state")
        }
        CgroupVersion::V2 if read("cgroup.events").lines().any(|line| line == "frozen 1") => Some("cgroup.events"),
        CgroupVersion::V2 => (read("cgroup.freeze").trim() == "1").then_some("cgroup.freeze"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
34 25 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
36 25 0:31 /outer /sys/fs/cgroup/freezer rw,nosuid - cgroup cgroup rw,freezer
37 25 0:32 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
22 1 254:0 / / rw - ext4 /dev/vda rw
";

    #[test]
    fn finds_the_cgroup_directory() {
        let mounts = freezer_mounts(MOUNTS);
        assert_eq!(mounts.len(), 2);
        let cgroups = cgroups_of("7:freezer:/outer/a\n5:memory:/b\n1:name=systemd:/\n0::/c:d\n");
        assert_eq!(
            cgroups,
            [
                (CgroupVersion::V1, "/outer/a".into()),
                (CgroupVersion::V2, "/c:d".into())
            ]
        );
        let cgroup_dirs = cgroups
            .iter()
            .map(|(version, path)| mounts.iter().find_map(|mount| cgroup_dir(mount, *version, path)));
        let expected = ["/sys/fs/cgroup/freezer/a", "/sys/fs/cgroup/unified/c:d"];
        assert_eq!(cgroup_dirs.collect::<Vec<_>>(), expected.map(|path| Some(path.into())));
        assert_eq!(cgroup_dir(&mounts[1], CgroupVersion::V1, Path::new("/elsewhere")), None);
    }

    #[test]
    fn reads_the_frozen_state() {
        let cgroup = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(cgroup.path().join(name), text).unwrap();
        assert_eq!(
            frozen_knob(CgroupVersion::V1, cgroup.path()),
            None,
            "the root cgroup has no state"
        );
        assert_eq!(frozen_knob(CgroupVersion::V2, cgroup.path()), None);
        for (state, frozen) in [("THAWED\n", false), ("FREEZING\n", true), ("FROZEN\n", true)] {
            write("freezer.state", state);
            assert_eq!(
                frozen_knob(CgroupVersion::V1, cgroup.path()).is_some(),
                frozen,
                "{state}"
            );
        }
        write("cgroup.freeze", "0\n");
        write("cgroup.events", "populated 1\nfrozen 0\n");
        assert_eq!(frozen_knob(CgroupVersion::V2, cgroup.path()), None);
        // A frozen parent shows in `cgroup.events` only.
        write("cgroup.events", "populated 1\nfrozen 1\n");
        assert_eq!(frozen_knob(CgroupVersion::V2, cgroup.path()), Some("cgroup.events"));
    }
}
