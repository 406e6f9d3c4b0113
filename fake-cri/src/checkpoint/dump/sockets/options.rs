//! The options of a socket, read through a duplicate of its fd.

use std::os::fd::BorrowedFd;

use cri_proto::criu::message::{InetSkEntry, IpOptsEntry, SkOptsEntry, TcpOptsEntry};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};

use crate::process::socket::{bpf_filter, getsockopt, getsockopt_bytes};

/// `SO_BUF_LOCK` (asm-generic/socket.h), Linux 5.15.
const SO_BUF_LOCK: i32 = 72;
/// `IPV6_FREEBIND` (linux/in6.h), Linux 4.20.
const IPV6_FREEBIND: i32 = 78;
/// The maximum length of a network interface name, with its NUL (`IFNAMSIZ`, linux/if.h).
const IFNAMSIZ: usize = 16;
/// The kernel's default buffer size.
const DEFAULT_BUFFER_BYTES: u32 = 212_992;

/// The options of a new socket.
pub(super) fn default_options() -> SkOptsEntry {
    SkOptsEntry {
        so_sndbuf: DEFAULT_BUFFER_BYTES,
        so_rcvbuf: DEFAULT_BUFFER_BYTES,
        ..SkOptsEntry::default()
    }
}

/// The options of level SOL_SOCKET.
pub(super) fn socket_level_options(fd: BorrowedFd<'_>) -> nix::Result<SkOptsEntry> {
    let int_option = |name| getsockopt::<i32>(fd, SOL_SOCKET, name).map(i32::cast_unsigned);
    // `None` for an option that the address family does not have.
    let flag = |name| int_option(name).ok().map(|value| value != 0);
    let [send_seconds, send_micros] = getsockopt::<[i64; 2]>(fd, SOL_SOCKET, libc::SO_SNDTIMEO)?;
    let [receive_seconds, receive_micros] = getsockopt::<[i64; 2]>(fd, SOL_SOCKET, libc::SO_RCVTIMEO)?;
    let [linger_on, linger] = getsockopt::<[i32; 2]>(fd, SOL_SOCKET, libc::SO_LINGER)?;
    Ok(SkOptsEntry {
        so_sndbuf: int_option(libc::SO_SNDBUF)?,
        so_rcvbuf: int_option(libc::SO_RCVBUF)?,
        so_snd_tmo_sec: send_seconds.cast_unsigned(),
        so_snd_tmo_usec: send_micros.cast_unsigned(),
        so_rcv_tmo_sec: receive_seconds.cast_unsigned(),
        so_rcv_tmo_usec: receive_micros.cast_unsigned(),
        reuseaddr: flag(libc::SO_REUSEADDR),
        so_priority: int_option(libc::SO_PRIORITY).ok(),
        so_rcvlowat: int_option(libc::SO_RCVLOWAT).ok(),
        so_mark: int_option(libc::SO_MARK).ok().filter(|mark| *mark != 0),
        so_passcred: flag(libc::SO_PASSCRED),
        so_passsec: flag(libc::SO_PASSSEC),
        so_dontroute: flag(libc::SO_DONTROUTE),
        so_no_check: flag(libc::SO_NO_CHECK),
        so_bound_dev: bound_interface(fd),
        so_filter: bpf_filter(fd)?,
        so_reuseport: flag(libc::SO_REUSEPORT),
        so_broadcast: flag(libc::SO_BROADCAST),
        so_keepalive: flag(libc::SO_KEEPALIVE),
        so_oobinline: int_option(libc::SO_OOBINLINE).ok(),
        so_linger: (linger_on != 0).then_some(linger.cast_unsigned()),
        so_buf_lock: int_option(SO_BUF_LOCK).ok(),
        ..SkOptsEntry::default()
    })
}

/// The network interface that a socket is bound to (`SO_BINDTODEVICE`).
fn bound_interface(fd: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0; IFNAMSIZ];
    let name = getsockopt_bytes(fd, SOL_SOCKET, libc::SO_BINDTODEVICE, &mut buffer).ok()?;
    let name = name.split(|byte| *byte == 0).next()?;
    str::from_utf8(name)
        .ok()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

pub(super) fn read_inet_options(fd: BorrowedFd<'_>, entry: &mut InetSkEntry) -> nix::Result<()> {
    entry.opts = socket_level_options(fd)?;
    let int_option = |level, name| getsockopt::<i32>(fd, level, name).map(i32::cast_unsigned).ok();
    let flag = |level, name| int_option(level, name).map(|value| value != 0);
    if entry.family == libc::AF_INET6 as u32 {
        entry.v6only = flag(IPPROTO_IPV6, libc::IPV6_V6ONLY);
        entry.ip_opts = Some(IpOptsEntry {
            freebind: flag(IPPROTO_IPV6, IPV6_FREEBIND).filter(|set| *set),
            pktinfo: flag(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO).filter(|set| *set),
            ..IpOptsEntry::default()
        });
    } else {
        entry.ip_opts = Some(IpOptsEntry {
            freebind: flag(IPPROTO_IP, libc::IP_FREEBIND),
            pktinfo: flag(IPPROTO_IP, libc::IP_PKTINFO),
            tos: int_option(IPPROTO_IP, libc::IP_TOS),
            ttl: int_option(IPPROTO_IP, libc::IP_TTL),
            raw: None,
        });
    }
    if entry.proto == IPPROTO_TCP as u32 {
        entry.tcp_opts = Some(TcpOptsEntry {
            cork: flag(IPPROTO_TCP, libc::TCP_CORK),
            nodelay: flag(IPPROTO_TCP, libc::TCP_NODELAY),
            keepcnt: int_option(IPPROTO_TCP, libc::TCP_KEEPCNT),
            keepidle: int_option(IPPROTO_TCP, libc::TCP_KEEPIDLE),
            keepintvl: int_option(IPPROTO_TCP, libc::TCP_KEEPINTVL),
        });
    }
    Ok(())
}
