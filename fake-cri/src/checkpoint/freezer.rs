//! Cgroups that are frozen: a process in one does not stop for a tracer until it is thawed.
//!
//! | version | the cgroup of a process | frozen |
//! |---|---|---|
//! | 1 | the line of the controller `freezer` in `/proc/PID/cgroup` | `freezer.state` is not `THAWED` |
//! | 2 | its line `0::` | `frozen 1` in `cgroup.events`, or `1` in `cgroup.freeze` |
//!
//! The kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst say so. Where the hierarchy is mounted
//! is read from `/proc/self/mountinfo`; a cgroup that no mount shows is passed over, and a thread that does not stop in it fails the
//! freeze later.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::error::Error;
use crate::process::ProcessId;

/// Where a hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// Which cgroup its top is.
    root: PathBuf,
    point: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Fails when a process is in a frozen cgroup.
///
/// # Errors
///
/// [`Error::FrozenCgroup`].
pub(super) fn refuse_frozen(members: &[ProcessId]) -> Result<(), Error> {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let mut known: BTreeMap<PathBuf, Option<&'static str>> = BTreeMap::new();
    for member in members {
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{}/cgroup", member.pid)) else {
            continue;
        };
        for (version, path) in cgroups_of(&cgroups) {
            let Some(cgroup) = mounts.iter().find_map(|mount| shown(mount, version, &path)) else {
                continue;
            };
            let knob = known
                .entry(cgroup.clone())
                .or_insert_with(|| frozen_by(version, &cgroup));
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

/// The mounts of hierarchies that can freeze, by a text of `mountinfo` (proc_pid_mountinfo(5)).
fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let place: Vec<&str> = place.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let version = match *kind.first()? {
            "cgroup2" => Version::Two,
            "cgroup" if kind.get(2)?.split(',').any(|option| option == "freezer") => Version::One,
            _ => return None,
        };
        Some(Mount {
            version,
            root: (*place.get(3)?).into(),
            point: (*place.get(4)?).into(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// The cgroups of a process that can freeze it, by a text of `/proc/PID/cgroup` (cgroups(7)).
fn cgroups_of(text: &str) -> Vec<(Version, PathBuf)> {
    let cgroup = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let version = match (number, controllers) {
            ("0", "") => Version::Two,
            _ if controllers.split(',').any(|controller| controller == "freezer") => Version::One,
            _ => return None,
        };
        Some((version, path.into()))
    };
    text.lines().filter_map(cgroup).collect()
}

/// Where a mount shows a cgroup.
fn shown(mount: &Mount, version: Version, path: &Path) -> Option<PathBuf> {
    let below = path
        .strip_prefix(&mount.root)
        .ok()
        .filter(|_| mount.version == version)?;
    Some(mount.point.join(below))
}

/// The file by which a cgroup says that it is frozen, if it is.
fn frozen_by(version: Version, cgroup: &Path) -> Option<&'static str> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    match version {
        Version::One => {
            let state = read("freezer.state");
            (!state.is_empty() && state.trim() != "THAWED").then_some("freezer.state")
        }
        Version::Two if read("cgroup.events").lines().any(|line| line == "frozen 1") => Some("cgroup.events"),
        Version::Two => (read("cgroup.freeze").trim() == "1").then_some("cgroup.freeze"),
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
    fn a_cgroup_is_found_where_its_hierarchy_is_mounted() {
        let mounts = mounts(MOUNTS);
        assert_eq!(mounts.len(), 2);
        let cgroups = cgroups_of("7:freezer:/outer/a\n5:memory:/b\n1:name=systemd:/\n0::/c:d\n");
        assert_eq!(
            cgroups,
            [(Version::One, "/outer/a".into()), (Version::Two, "/c:d".into())]
        );
        let found = cgroups
            .iter()
            .map(|(version, path)| mounts.iter().find_map(|mount| shown(mount, *version, path)));
        let expected = ["/sys/fs/cgroup/freezer/a", "/sys/fs/cgroup/unified/c:d"];
        assert_eq!(found.collect::<Vec<_>>(), expected.map(|path| Some(path.into())));
        assert_eq!(shown(&mounts[1], Version::One, Path::new("/elsewhere")), None);
    }

    #[test]
    fn what_is_frozen_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(
            frozen_by(Version::One, folder.path()),
            None,
            "the root cgroup has no state"
        );
        assert_eq!(frozen_by(Version::Two, folder.path()), None);
        for (state, frozen) in [("THAWED\n", false), ("FREEZING\n", true), ("FROZEN\n", true)] {
            write("freezer.state", state);
            assert_eq!(frozen_by(Version::One, folder.path()).is_some(), frozen, "{state}");
        }
        write("cgroup.freeze", "0\n");
        write("cgroup.events", "populated 1\nfrozen 0\n");
        assert_eq!(frozen_by(Version::Two, folder.path()), None);
        // A parent is frozen.
        write("cgroup.events", "populated 1\nfrozen 1\n");
        assert_eq!(frozen_by(Version::Two, folder.path()), Some("cgroup.events"));
    }
}
