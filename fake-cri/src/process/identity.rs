//! The identity of a process: its user, its groups, and whether it may gain privileges (credentials(7), prctl(2)).

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// As whom a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user: real, effective and saved.
    pub uid: u32,
    /// The primary group: real, effective and saved.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Neither it nor what it starts can gain privileges by exec (PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
}

/// CAP_SETGID and CAP_SETUID (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;

impl Identity {
    /// That of this process.
    pub fn own() -> io::Result<Identity> {
        Identity::parse(&fs::read_to_string("/proc/self/status")?)
    }

    /// That of a process, by its effective ids.
    pub fn of(pid: i32) -> io::Result<Identity> {
        Identity::parse(&fs::read_to_string(format!("/proc/{pid}/status"))?)
    }

    fn parse(status: &str) -> io::Result<Identity> {
        let numbers = |name: &str| -> Vec<u32> {
            let words = line(status, name).unwrap_or_default().split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let effective = |name: &str| {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/PID/status"));
            numbers(name).get(1).copied().ok_or_else(missing)
        };
        Ok(Identity {
            uid: effective("Uid")?,
            gid: effective("Gid")?,
            groups: numbers("Groups"),
            no_new_privs: numbers("NoNewPrivs") == [1],
        })
    }

    /// Whether user and groups are the same, in whichever order.
    pub fn same_user(&self, other: &Identity) -> bool {
        self.uid == other.uid && self.gid == other.gid && sorted(&self.groups) == sorted(&other.groups)
    }

    /// What keeps this process from running a child with this identity; `None` when nothing does.
    pub fn obstacle(&self) -> io::Result<Option<String>> {
        let own = Identity::own()?;
        if self.same_user(&own) {
            return Ok(None);
        }
        let status = fs::read_to_string("/proc/self/status")?;
        let capabilities = line(&status, "CapEff").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        let capabilities = capabilities.unwrap_or(0);
        if self.uid != own.uid && capabilities & CAP_SETUID == 0 {
            return Ok(Some(format!("fake-cri runs as user {} without CAP_SETUID", own.uid)));
        }
        let other_groups = self.gid != own.gid || sorted(&self.groups) != sorted(&own.groups);
        if other_groups && capabilities & CAP_SETGID == 0 {
            return Ok(Some(format!("fake-cri runs as group {} without CAP_SETGID", own.gid)));
        }
        let setgroups = fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
        if sorted(&self.groups) != sorted(&own.groups) && setgroups.trim() == "deny" {
            return Ok(Some("fake-cri's user namespace denies setgroups".to_owned()));
        }
        if !mapped("uid_map", self.uid) {
            return Ok(Some(format!("user {} is not in fake-cri's user namespace", self.uid)));
        }
        let missing = self
            .groups
            .iter()
            .chain([&self.gid])
            .find(|gid| !mapped("gid_map", **gid));
        Ok(missing.map(|gid| format!("group {gid} is not in fake-cri's user namespace")))
    }
}

fn sorted(groups: &[u32]) -> Vec<u32> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The value of a line `NAME: VALUE`.
fn line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Whether an id is one of this user namespace (user_namespaces(7)): lines of first, first outside, length.
fn mapped(map: &str, id: u32) -> bool {
    let Ok(map) = fs::read_to_string(format!("/proc/self/{map}")) else {
        return true;
    };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (first, _, length) = (numbers.next(), numbers.next(), numbers.next());
        matches!((first, length), (Some(first), Some(length)) if (first..first + length).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_by_its_effective_ids() {
        let status = "Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nNoNewPrivs:\t1\n";
        let expected = Identity {
            uid: 2,
            gid: 6,
            groups: vec![9, 10],
            no_new_privs: true,
        };
        assert_eq!(Identity::parse(status).unwrap(), expected);
        assert!(Identity::parse("Name:\tsh\n").is_err());
    }

    #[test]
    fn its_own_identity_can_always_be_had() {
        let own = Identity::own().unwrap();
        assert_eq!(own.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(own.obstacle().unwrap(), None);
    }
}
