//! Socket options that no image can hold. A socket is compared with a new socket of its kind in its network namespace,
//! so that defaults set by the administrator (sysctl) are not reported.

use std::os::fd::BorrowedFd;

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, SOL_SOCKET};

use nix::errno::Errno;

use super::SocketKind;
use crate::process::socket::getsockopt_bytes;

/// More than the size of every compared option.
const MAX_OPTION_BYTES: usize = 256;

/// The number and name of an option. Numbers without a constant in libc are from asm-generic/socket.h, linux/in.h,
/// linux/in6.h, linux/tcp.h and linux/udp.h.
type SocketOption = (i32, &'static str);

/// Options of every socket.
const SOCKET_OPTIONS: &[SocketOption] = &[
    (libc::SO_DEBUG, "SO_DEBUG"),
    (libc::SO_TIMESTAMP, "SO_TIMESTAMP"),
    (libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS"),
    (libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
    (63, "SO_TIMESTAMP_NEW"),
    (64, "SO_TIMESTAMPNS_NEW"),
    (65, "SO_TIMESTAMPING_NEW"),
    (libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    (69, "SO_PREFER_BUSY_POLL"),
    (70, "SO_BUSY_POLL_BUDGET"),
    (libc::SO_ZEROCOPY, "SO_ZEROCOPY"),
    (61, "SO_TXTIME"),
    (libc::SO_RXQ_OVFL, "SO_RXQ_OVFL"),
    (libc::SO_PEEK_OFF, "SO_PEEK_OFF"),
    (libc::SO_LOCK_FILTER, "SO_LOCK_FILTER"),
    (libc::SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE"),
    (libc::SO_NOFCS, "SO_NOFCS"),
    (41, "SO_WIFI_STATUS"),
    (libc::SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE"),
    (73, "SO_RESERVE_MEM"),
    (76, "SO_PASSPIDFD"),
    (82, "SO_RCVPRIORITY"),
    (83, "SO_PASSRIGHTS"),
    (84, "SO_INQ"),
];

/// Options of IPv4, also for IPv6 sockets that carry IPv4.
const IPV4_OPTIONS: &[SocketOption] = &[
    (libc::IP_OPTIONS, "IP_OPTIONS"),
    (libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    (libc::IP_RECVERR, "IP_RECVERR"),
    (26, "IP_RECVERR_RFC4884"),
    (libc::IP_RECVOPTS, "IP_RECVOPTS"),
    (libc::IP_RETOPTS, "IP_RETOPTS"),
    (libc::IP_RECVTOS, "IP_RECVTOS"),
    (libc::IP_RECVTTL, "IP_RECVTTL"),
    (libc::IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR"),
    (25, "IP_RECVFRAGSIZE"),
    (libc::IP_PASSSEC, "IP_PASSSEC"),
    (libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    (libc::IP_MINTTL, "IP_MINTTL"),
    (22, "IP_NODEFRAG"),
    (23, "IP_CHECKSUM"),
    (24, "IP_BIND_ADDRESS_NO_PORT"),
    (50, "IP_UNICAST_IF"),
    (51, "IP_LOCAL_PORT_RANGE"),
    (libc::IP_HDRINCL, "IP_HDRINCL"),
];

const IPV4_MULTICAST_OPTIONS: &[SocketOption] = &[
    (libc::IP_MULTICAST_TTL, "IP_MULTICAST_TTL"),
    (libc::IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP"),
    (libc::IP_MULTICAST_IF, "IP_MULTICAST_IF"),
    (libc::IP_MULTICAST_ALL, "IP_MULTICAST_ALL"),
];

const IPV6_MULTICAST_OPTIONS: &[SocketOption] = &[
    (libc::IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS"),
    (libc::IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP"),
    (libc::IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF"),
    (29, "IPV6_MULTICAST_ALL"),
];

const IPV6_OPTIONS: &[SocketOption] = &[
    (libc::IPV6_TCLASS, "IPV6_TCLASS"),
    (libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    (libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    (libc::IPV6_RECVERR, "IPV6_RECVERR"),
    (31, "IPV6_RECVERR_RFC4884"),
    (libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS"),
    (libc::IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT"),
    (libc::IPV6_RECVRTHDR, "IPV6_RECVRTHDR"),
    (libc::IPV6_RECVHOPOPTS, "IPV6_RECVHOPOPTS"),
    (libc::IPV6_RECVDSTOPTS, "IPV6_RECVDSTOPTS"),
    (60, "IPV6_RECVPATHMTU"),
    (libc::IPV6_DONTFRAG, "IPV6_DONTFRAG"),
    (70, "IPV6_AUTOFLOWLABEL"),
    (72, "IPV6_ADDR_PREFERENCES"),
    (73, "IPV6_MINHOPCOUNT"),
    (74, "IPV6_RECVORIGDSTADDR"),
    (75, "IPV6_TRANSPARENT"),
    (76, "IPV6_UNICAST_IF"),
    (77, "IPV6_RECVFRAGSIZE"),
    (33, "IPV6_FLOWINFO_SEND"),
    (libc::IPV6_CHECKSUM, "IPV6_CHECKSUM"),
];

/// Options of IPv4 in an IPv6 socket. Images have fields for them in IPv4 sockets only.
const IPV4_OVER_IPV6_OPTIONS: &[SocketOption] = &[(libc::IP_TOS, "IP_TOS"), (libc::IP_TTL, "IP_TTL")];

const TCP_OPTIONS: &[SocketOption] = &[
    (libc::TCP_MAXSEG, "TCP_MAXSEG"),
    (libc::TCP_SYNCNT, "TCP_SYNCNT"),
    (libc::TCP_LINGER2, "TCP_LINGER2"),
    (libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    (libc::TCP_CONGESTION, "TCP_CONGESTION"),
    (libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    (libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    (30, "TCP_FASTOPEN_CONNECT"),
    (34, "TCP_FASTOPEN_NO_COOKIE"),
    (libc::TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS"),
    (25, "TCP_NOTSENT_LOWAT"),
    (27, "TCP_SAVE_SYN"),
    (31, "TCP_ULP"),
    (36, "TCP_INQ"),
    (37, "TCP_TX_DELAY"),
    (44, "TCP_RTO_MAX_MS"),
];

const UDP_OPTIONS: &[SocketOption] = &[
    (libc::UDP_CORK, "UDP_CORK"),
    (100, "UDP_ENCAP"),
    (101, "UDP_NO_CHECK6_TX"),
    (102, "UDP_NO_CHECK6_RX"),
    (103, "UDP_SEGMENT"),
    (104, "UDP_GRO"),
];

/// `ICMP_FILTER` (linux/icmp.h) and `ICMPV6_FILTER` (linux/icmpv6.h) of raw sockets.
const SOL_RAW: i32 = 255;
const IPPROTO_ICMPV6: i32 = 58;
const ICMP_OPTIONS: &[SocketOption] = &[(1, "ICMP_FILTER")];
const ICMPV6_OPTIONS: &[SocketOption] = &[(1, "ICMPV6_FILTER")];

/// The compared options, with their values in a new socket.
#[derive(Debug)]
pub(super) struct DefaultOptions(Vec<DefaultOption>);

#[derive(Debug)]
struct DefaultOption {
    level: i32,
    option: SocketOption,
    /// `None` if a new socket cannot report it.
    value: Option<Vec<u8>>,
}

impl DefaultOptions {
    /// Reads the options of a new socket of this family, type and protocol.
    pub(super) fn read(new_socket: BorrowedFd<'_>, kind: SocketKind) -> Self {
        let mut option_groups = vec![(SOL_SOCKET, SOCKET_OPTIONS)];
        let is_raw = kind.socket_type == libc::SOCK_RAW as u32;
        let is_tcp = kind.protocol == IPPROTO_TCP as u32 && !is_raw;
        let is_ipv6 = kind.family == libc::AF_INET6 as u32;
        if is_ipv6 || kind.family == libc::AF_INET as u32 {
            option_groups.push((IPPROTO_IP, IPV4_OPTIONS));
            match kind.protocol.cast_signed() {
                _ if is_raw => option_groups.extend([(SOL_RAW, ICMP_OPTIONS), (IPPROTO_ICMPV6, ICMPV6_OPTIONS)]),
                IPPROTO_TCP => option_groups.push((IPPROTO_TCP, TCP_OPTIONS)),
                IPPROTO_UDP => option_groups.push((IPPROTO_UDP, UDP_OPTIONS)),
                _ => {}
            }
            // An accepted TCP socket has the hop limit of its peer's packets here, which does not affect its own
            // packets.
            if !is_tcp {
                option_groups.push((IPPROTO_IP, IPV4_MULTICAST_OPTIONS));
            }
        }
        if is_ipv6 {
            option_groups.extend([(IPPROTO_IPV6, IPV6_OPTIONS), (IPPROTO_IP, IPV4_OVER_IPV6_OPTIONS)]);
            if !is_tcp {
                option_groups.push((IPPROTO_IPV6, IPV6_MULTICAST_OPTIONS));
            }
        }
        let options = option_groups
            .into_iter()
            .flat_map(|(level, options)| options.iter().map(move |option| (level, *option)));
        let mut buffer = [0; MAX_OPTION_BYTES];
        let read = |(level, option): (i32, SocketOption)| {
            let value = match getsockopt_bytes(new_socket, level, option.0, &mut buffer) {
                Ok(value) => Some(value.to_vec()),
                // The kernel or this kind of socket does not have the option.
                Err(Errno::ENOPROTOOPT) => return None,
                Err(_) => None,
            };
            Some(DefaultOption { level, option, value })
        };
        Self(options.filter_map(read).collect())
    }

    /// The names of the options in which a socket of the same kind differs.
    pub(super) fn differing_names(&self, fd: BorrowedFd<'_>) -> Vec<&'static str> {
        let mut buffer = [0; MAX_OPTION_BYTES];
        let mut differs = |default: &&DefaultOption| {
            getsockopt_bytes(fd, default.level, default.option.0, &mut buffer)
                .is_ok_and(|value| default.value.as_deref() != Some(value))
        };
        self.0
            .iter()
            .filter(|default| differs(default))
            .map(|default| default.option.1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::process::socket::new_socket;

    #[test]
    fn only_changed_options_differ() {
        let read_defaults = |family: i32, kind: i32, protocol: i32| {
            let kind = SocketKind {
                family: family as u32,
                socket_type: kind as u32,
                protocol: protocol as u32,
            };
            let socket = new_socket(kind.family, kind.socket_type, kind.protocol).unwrap();
            DefaultOptions::read(socket.as_fd(), kind)
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (Ok(listener), Ok(datagrams)) = (TcpListener::bind(address), UdpSocket::bind(address)) else {
                eprintln!("skipped: {address} cannot be bound here");
                continue;
            };
            let family = if address.starts_with('[') {
                libc::AF_INET6
            } else {
                libc::AF_INET
            };
            let defaults = read_defaults(family, libc::SOCK_STREAM, IPPROTO_TCP);
            assert_eq!(defaults.differing_names(listener.as_fd()), [] as [&str; 0]);
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let connection_options = ["TCP_MAXSEG"];
            assert_eq!(defaults.differing_names(accepted.as_fd()), connection_options);
            let defaults = read_defaults(family, libc::SOCK_DGRAM, IPPROTO_UDP);
            assert_eq!(defaults.differing_names(datagrams.as_fd()), [] as [&str; 0]);
            if family == libc::AF_INET {
                datagrams.set_multicast_ttl_v4(7).unwrap();
                assert_eq!(defaults.differing_names(datagrams.as_fd()), ["IP_MULTICAST_TTL"]);
            }
        }
        let (left, _right) = UnixStream::pair().unwrap();
        let defaults = read_defaults(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        assert_eq!(defaults.differing_names(left.as_fd()), [] as [&str; 0]);
    }
}
