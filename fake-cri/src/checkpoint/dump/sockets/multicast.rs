//! Multicast groups, which no image can hold. `/proc/net/igmp` and `igmp6` list the groups of a network namespace; each
//! socket is queried for its membership.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
};

use super::SocketKind;
use crate::process::{Tid, proc_files, socket::is_multicast_member};

/// The groups of a network namespace, each with its interface index.
pub(super) fn list_groups(proc_tid: Tid) -> Vec<(u32, IpAddr)> {
    let igmp = proc_files::read_text(proc_tid, "net/igmp").map(|text| parse_igmp(&text));
    let igmp6 = proc_files::read_text(proc_tid, "net/igmp6").map(|text| parse_igmp6(&text));
    let mut groups: Vec<_> = igmp
        .into_iter()
        .flatten()
        .map(|(interface, group)| (interface, IpAddr::V4(group)))
        .collect();
    groups.extend(
        igmp6
            .into_iter()
            .flatten()
            .map(|(interface, group)| (interface, IpAddr::V6(group))),
    );
    groups
}

/// The groups that a datagram or raw socket is a member of.
pub(super) fn groups_of_socket(fd: BorrowedFd<'_>, kind: SocketKind, groups: &[(u32, IpAddr)]) -> Vec<(u32, IpAddr)> {
    if kind.socket_type == libc::SOCK_STREAM as u32 {
        return Vec::new();
    }
    groups
        .iter()
        .filter(|(interface, group)| {
            // An IPv6 socket may be a member of groups of both families.
            (group.is_ipv4() || kind.family == libc::AF_INET6 as u32) && is_multicast_member(fd, *interface, *group)
        })
        .copied()
        .collect()
}

/// `1\tlo        :     1      V3` and under it `\t\t\t\t010000E0     1 0:00000000\t\t0`.
fn parse_igmp(text: &str) -> Vec<(u32, Ipv4Addr)> {
    let mut groups = Vec::new();
    let mut interface = 0;
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            // In network order, as in the kernel.
            let group = u32::from_str_radix(first, 16).map(|word| Ipv4Addr::from(word.to_ne_bytes()));
            groups.extend(group.map(|group| (interface, group)));
        } else {
            interface = first.parse().unwrap_or(0);
        }
    }
    groups
}

/// `1    lo              ff020000000000000000000000000001     1 0000000C 0`.
fn parse_igmp6(text: &str) -> Vec<(u32, Ipv6Addr)> {
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let interface = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((interface, Ipv6Addr::from(group)))
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn igmp_lists_are_parsed() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     2      V3\n\
                    \t\t\t\t030201EF     1 0:00000000\t\t0\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    2\teth0      :     1      V3\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let all_hosts = Ipv4Addr::new(224, 0, 0, 1);
        let expected = if cfg!(target_endian = "little") {
            vec![(1, Ipv4Addr::new(239, 1, 2, 3)), (1, all_hosts), (2, all_hosts)]
        } else {
            Vec::new()
        };
        assert_eq!(parse_igmp(text), expected);
        let six = parse_igmp6("1    lo              ff020000000000000000000000000001     1 0000000C 0\nnonsense\n");
        assert_eq!(six, [(1, "ff02::1".parse().unwrap())]);
    }
}
