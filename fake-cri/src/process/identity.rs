//! The identity of a process: user, groups, and whether it may gain privileges (credentials(7), prctl(2)).

use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Pid, proc_files::StatusText};

/// User, groups and `no_new_privs` of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user id: real, effective and saved.
    pub uid: u32,
    /// The primary group id: real, effective and saved.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Whether the process and its children cannot gain privileges by exec (PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
}

/// CAP_SETGID and CAP_SETUID (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;

impl Identity {
    /// The identity of this process.
    pub fn current() -> io::Result<Identity> {
        Self::of_process(Pid::current())
    }

    /// The identity of a process, by its effective ids.
    pub fn of_process(pid: Pid) -> io::Result<Identity> {
        Self::parse(&StatusText::read(pid.main_thread())?)
    }

    fn parse(status: &StatusText) -> io::Result<Identity> {
        let ids = |name: &str| -> Vec<u32> { status.values(name).filter_map(|id| id.try_into().ok()).collect() };
        let effective = |name: &str| {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/PID/status"));
            ids(&format!("{name}:")).get(1).copied().ok_or_else(missing)
        };
        Ok(Identity {
            uid: effective("Uid")?,
            gid: effective("Gid")?,
            groups: ids("Groups:"),
            no_new_privs: status.value("NoNewPrivs:") == Some(1),
        })
    }

    /// Whether user and groups are equal; the order of the groups does not matter.
    pub fn same_user(&self, other: &Identity) -> bool {
        self.uid == other.uid && self.gid == other.gid && sorted_groups(&self.groups) == sorted_groups(&other.groups)
    }

    /// The reason why this process cannot start a child with this identity; `None` when it can.
    pub fn obstacle(&self) -> io::Result<Option<String>> {
        let current = Identity::current()?;
        if self.same_user(&current) {
            return Ok(None);
        }
        let status = StatusText::read(Pid::current().main_thread())?;
        let capabilities = status
            .line("CapEff:")
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        let capabilities = capabilities.unwrap_or(0);
        if self.uid != current.uid && capabilities & CAP_SETUID == 0 {
            return Ok(Some(format!(
                "fake-cri runs as user {} without CAP_SETUID",
                current.uid
            )));
        }
        let other_groups = self.gid != current.gid || sorted_groups(&self.groups) != sorted_groups(&current.groups);
        if other_groups && capabilities & CAP_SETGID == 0 {
            return Ok(Some(format!(
                "fake-cri runs as group {} without CAP_SETGID",
                current.gid
            )));
        }
        let setgroups = fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
        if sorted_groups(&self.groups) != sorted_groups(&current.groups) && setgroups.trim() == "deny" {
            return Ok(Some("fake-cri's user namespace denies setgroups".to_owned()));
        }
        if !is_id_mapped("uid_map", self.uid) {
            return Ok(Some(format!("user {} is not in fake-cri's user namespace", self.uid)));
        }
        let missing = self
            .groups
            .iter()
            .chain([&self.gid])
            .find(|gid| !is_id_mapped("gid_map", **gid));
        Ok(missing.map(|gid| format!("group {gid} is not in fake-cri's user namespace")))
    }
}

fn sorted_groups(groups: &[u32]) -> Vec<u32> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Whether an id exists in this user namespace. The lines of a map are: first id inside, first id outside, length
/// (user_namespaces(7)).
fn is_id_mapped(map: &str, id: u32) -> bool {
    let Ok(map) = fs::read_to_string(format!("/proc/self/{map}")) else {
        return true;
    };
    map.lines().any(|line| {
        let mut columns = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (first, _, length) = (columns.next(), columns.next(), columns.next());
        matches!((first, length), (Some(first), Some(length)) if (first..first + length).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_are_read() {
        let parse = |text: &str| Identity::parse(&StatusText(text.to_owned()));
        let status = "Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nNoNewPrivs:\t1\n";
        let expected = Identity {
            uid: 2,
            gid: 6,
            groups: vec![9, 10],
            no_new_privs: true,
        };
        assert_eq!(parse(status).unwrap(), expected);
        assert!(parse("Name:\tsh\n").is_err());
    }

    #[test]
    fn current_identity_has_no_obstacle() {
        let current = Identity::current().unwrap();
        assert_eq!(current.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(current.obstacle().unwrap(), None);
    }
}
