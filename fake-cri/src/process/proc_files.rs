//! Files of `/proc` about a process and its threads (proc(5)).
//!
//! `/proc/TID` exists for every thread, also for one that is not the leader, so functions take only a tid. If the
//! leader of a process has exited, another thread's tid still works. The `procfs` crate parses `stat` and `status`.
//! Mappings and fds are parsed here, because that crate keeps neither their order nor all of their fields.

use std::{
    fs,
    io::{self, Read as _},
    ops::Range,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use procfs::{
    FromRead as _,
    process::{Stat, StatM, Status},
};

use super::{Pid, RemoteFd, Tid};

/// `PF_IO_WORKER` and `PF_USER_WORKER`: threads that the kernel created inside a process (linux/sched.h). They cannot
/// be traced.
const PF_WORKER_MASK: u32 = 0x10 | 0x4000;

/// `PF_EXITING`: a thread that is releasing its resources and is no zombie yet (linux/sched.h).
const PF_EXITING: u32 = 0x4;

pub(crate) fn stat(tid: Tid) -> io::Result<Stat> {
    parse(tid, "stat", |bytes| Stat::from_read(bytes))
}

pub(crate) fn statm(tid: Tid) -> io::Result<StatM> {
    parse(tid, "statm", |bytes| StatM::from_read(bytes))
}

/// Whether a thread has exited, although it may still be listed.
pub(crate) fn has_exited(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x')
}

/// Whether a thread has exited or is exiting: the kernel no longer reports its state.
pub(crate) fn is_exiting(tid: Tid) -> bool {
    stat(tid).map_or(true, |stat| has_exited(&stat) || stat.flags & PF_EXITING != 0)
}

/// Whether every thread of a process has exited, is exiting, or has a pending SIGKILL.
pub(crate) fn is_dead(pid: Pid) -> bool {
    let kill = 1 << (libc::SIGKILL - 1);
    let is_killed = |tid| status(tid).is_ok_and(|status| status.sigpnd & kill != 0);
    threads(pid).map_or(true, |threads| {
        threads.into_iter().all(|tid| is_exiting(tid) || is_killed(tid))
    })
}

pub(crate) fn status(tid: Tid) -> io::Result<Status> {
    StatusText::read(tid)?
        .parse()
        .map_err(|error| io::Error::other(format!("/proc/{tid}/status: {error}")))
}

/// `/proc/TID/status` as raw text. Parsing the whole file takes longer than reading it, so the caller can parse it
/// later.
#[derive(Clone, Debug)]
pub(crate) struct StatusText(pub(super) String);

impl StatusText {
    pub(crate) fn read(tid: Tid) -> io::Result<Self> {
        // The name of the thread may contain any bytes, but the parser takes text.
        Ok(Self(String::from_utf8_lossy(&read(tid, "status")?).into_owned()))
    }

    /// The numbers of the first line that begins with `name`.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = u64> {
        let words = self.line(name).unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok())
    }

    /// The first number of that line.
    pub(crate) fn value(&self, name: &str) -> Option<u64> {
        self.values(name).next()
    }

    /// The rest of the first line that begins with `name`, trimmed.
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }

    pub(crate) fn parse(&self) -> io::Result<Status> {
        Status::from_read(self.0.as_bytes()).map_err(|error| io::Error::other(error.to_string()))
    }
}

fn parse<T>(tid: Tid, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, procfs::ProcError>) -> io::Result<T> {
    parse(&read(tid, name)?).map_err(|error| io::Error::other(format!("/proc/{tid}/{name}: {error}")))
}

/// The files of `/proc` report no size, and many are read while a container is frozen. The initial capacity avoids the
/// many small reads of a growing buffer.
pub(crate) fn read(tid: Tid, name: &str) -> io::Result<Vec<u8>> {
    const INITIAL_CAPACITY_BYTES: usize = 4096;
    let mut bytes = Vec::with_capacity(INITIAL_CAPACITY_BYTES);
    fs::File::open(format!("/proc/{tid}/{name}"))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The tids of a process, the leader included, in the order of the kernel.
pub(crate) fn threads(pid: Pid) -> io::Result<Vec<Tid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some(tid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            threads.push(tid);
        }
    }
    Ok(threads)
}

/// Whether the kernel created this thread inside the process (for io_uring). Such a thread cannot be traced and runs no
/// user code.
pub(crate) fn is_io_worker(stat: &Stat) -> bool {
    stat.flags & PF_WORKER_MASK != 0
}

/// `/proc/TID/comm` with its trailing blanks: only the newline that the kernel adds is removed.
pub(crate) fn comm(tid: Tid) -> io::Result<String> {
    let bytes = read(tid, "comm")?;
    let name = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The soft and hard limits of a process, indexed by `RLIMIT_*`; `u64::MAX` means unlimited. `/proc/PID/limits` is
/// readable for everyone, whereas prlimit(2) of another user's process requires CAP_SYS_RESOURCE, which even root may
/// lack.
pub(crate) fn rlimits(pid: Pid) -> io::Result<Vec<(u64, u64)>> {
    const RLIM_NLIMITS: usize = 16;
    let parse_limit = |column: &str| match column.trim() {
        "unlimited" => Some(u64::MAX),
        digits => digits.parse().ok(),
    };
    // A table with columns of fixed width, in the order of `RLIMIT_*`.
    let limit = |line: &str| Some((parse_limit(line.get(26..46)?)?, parse_limit(line.get(47..67)?)?));
    let limits: Option<Vec<_>> = read_text(pid.main_thread(), "limits")?
        .lines()
        .skip(1)
        .map(limit)
        .collect();
    limits
        .filter(|limits| limits.len() == RLIM_NLIMITS)
        .ok_or_else(|| unknown_line(pid.main_thread(), "limits"))
}

/// A file of a process as text, without trailing blanks.
pub(crate) fn read_text(tid: Tid, name: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read(tid, name)?).trim_end().to_owned())
}

/// `/proc/TID/auxv`: the auxiliary vector of the program (getauxval(3)).
pub(crate) fn auxv(tid: Tid) -> io::Result<Vec<u64>> {
    let bytes = read(tid, "auxv")?;
    Ok(bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of eight")))
        .collect())
}

/// The target of a link below `/proc/TID`.
pub(crate) fn read_link(tid: Tid, name: &str) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{tid}/{name}"))
}

/// The number of the system call in which a thread is blocked, and its first argument (`/proc/TID/syscall`). The number
/// is -1 outside of a system call. `None` when the thread is running or may not be inspected.
pub(crate) fn current_syscall(tid: Tid) -> Option<(i64, u64)> {
    let text = read_text(tid, "syscall").ok()?;
    let mut words = text.split_whitespace();
    let nr = words.next()?.parse().ok()?;
    let argument = words.next()?.strip_prefix("0x")?;
    Some((nr, u64::from_str_radix(argument, 16).ok()?))
}

/// The proportional set size of a process in bytes (`Pss` of `/proc/PID/smaps_rollup`).
pub(crate) fn pss_bytes(tid: Tid) -> Option<u64> {
    let text = read_text(tid, "smaps_rollup").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The `VmFlags` that show advice of madvise(2), each with the advice.
pub(crate) const ADVICE_FLAGS: [(&[u8; 2], i32); 8] = [
    (b"sr", libc::MADV_SEQUENTIAL),
    (b"rr", libc::MADV_RANDOM),
    (b"dc", libc::MADV_DONTFORK),
    (b"dd", libc::MADV_DONTDUMP),
    (b"mg", libc::MADV_MERGEABLE),
    (b"hg", libc::MADV_HUGEPAGE),
    (b"nh", libc::MADV_NOHUGEPAGE),
    (b"wf", libc::MADV_WIPEONFORK),
];

/// A mapping: a line of `/proc/PID/maps`, and its flags if they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
    pub(crate) shared: bool,
    /// The offset in the file, in bytes.
    pub(crate) offset: u64,
    /// 0 without a file.
    pub(crate) inode: u64,
    /// The path of the file, or the name that the kernel gives (`[heap]`). Empty for anonymous memory.
    pub(crate) name: PathBuf,
    /// The two-letter flags of `VmFlags`, empty when read from `maps`.
    pub(crate) flags: Vec<[u8; 2]>,
    /// The protection key of the pages (pkeys(7)), 0 if there is none.
    pub(crate) protection_key: u32,
}

impl Mapping {
    /// A private anonymous mapping, readable and writable.
    #[cfg(test)]
    pub(crate) fn anonymous(range: Range<u64>, flags: &[[u8; 2]]) -> Self {
        Self {
            range,
            read: true,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            inode: 0,
            name: PathBuf::new(),
            flags: flags.to_vec(),
            protection_key: 0,
        }
    }

    pub(crate) fn has_flag(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Whether the mapping has an inode: a file or shared memory.
    pub(crate) fn is_file_backed(&self) -> bool {
        self.inode != 0
    }
}

/// The mappings of a process with their flags, in address order, from `/proc/PID/smaps`.
pub(crate) fn smaps(tid: Tid) -> io::Result<Vec<Mapping>> {
    parse_maps(&read(tid, "smaps")?).ok_or_else(|| unknown_line(tid, "smaps"))
}

/// The mappings without flags, from `/proc/PID/maps`, for which the kernel need not walk the pages.
pub(crate) fn maps(tid: Tid) -> io::Result<Vec<Mapping>> {
    parse_maps(&read(tid, "maps")?).ok_or_else(|| unknown_line(tid, "maps"))
}

fn unknown_line(tid: Tid, name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{tid}/{name}: unknown line"))
}

fn parse_maps(bytes: &[u8]) -> Option<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        match line.first() {
            None => {}
            // A header line begins with an address in lower-case hex, every other line with a capital letter.
            Some(b'0'..=b'9' | b'a'..=b'f') => mappings.push(parse_maps_line(line)?),
            Some(_) => {
                if let Some(flags) = line.strip_prefix(b"VmFlags:") {
                    mappings.last_mut()?.flags = flags
                        .split(|byte| *byte == b' ')
                        .filter_map(|flag| flag.try_into().ok())
                        .collect();
                } else if let Some(key) = line.strip_prefix(b"ProtectionKey:") {
                    let key = str::from_utf8(key).ok()?.trim().parse().ok()?;
                    mappings.last_mut()?.protection_key = key;
                }
            }
        }
    }
    Some(mappings)
}

fn parse_maps_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail.strip_prefix(b" ").unwrap_or(tail);
        str::from_utf8(word).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let access = word()?.as_bytes();
    let offset = word()?;
    let _device = word()?.split_once(':')?;
    let inode = word()?;
    let name = rest.trim_ascii_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let &[read, write, execute, shared] = access else {
        return None;
    };
    Some(Mapping {
        range: hex(start)?..hex(end)?,
        read: read == b'r',
        write: write == b'w',
        execute: execute == b'x',
        shared: shared == b's',
        offset: hex(offset)?,
        inode: inode.parse().ok()?,
        name: PathBuf::from(std::ffi::OsString::from_vec(unescape(name))),
        flags: Vec::new(),
        protection_key: 0,
    })
}

/// Reverts the only escape of these files: a newline in a name is written as `\012`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, tail)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after_escape) => {
                out.push(b'\n');
                rest = after_escape;
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

/// An open fd of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenFd {
    pub(crate) fd: RemoteFd,
    pub(crate) target: PathBuf,
    pub(crate) info: FdInfo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdInfo {
    pub(crate) pos: u64,
    /// The flags of open(2), including `O_CLOEXEC`.
    pub(crate) flags: u32,
    /// All other lines as name and value, in order. Names repeat (`tfd` of an epoll fd).
    pub(crate) extra: Vec<(String, String)>,
}

impl FdInfo {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.extra
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.extra
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The open fds of a process, sorted.
pub(crate) fn list_fds(tid: Tid) -> io::Result<Vec<RemoteFd>> {
    let mut fds = Vec::new();
    for entry in fs::read_dir(format!("/proc/{tid}/fd"))? {
        fds.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RemoteFd>().ok()),
        );
    }
    fds.sort_unstable();
    Ok(fds)
}

pub(crate) fn read_fd(tid: Tid, fd: RemoteFd) -> io::Result<OpenFd> {
    Ok(OpenFd {
        fd,
        target: fs::read_link(format!("/proc/{tid}/fd/{fd}"))?,
        info: parse_fdinfo(&read_text(tid, &format!("fdinfo/{fd}"))?),
    })
}

fn parse_fdinfo(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        match name {
            "pos" => info.pos = value.parse().unwrap_or(0),
            "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
            _ => info.extra.push((name.to_owned(), value.to_owned())),
        }
    }
    info
}

/// The suffix that the kernel appends to the path of an unlinked file.
const DELETED_SUFFIX: &[u8] = b" (deleted)";

/// Splits the suffix ` (deleted)` off a path. Returns the path and whether it had the suffix.
pub(crate) fn split_deleted(path: &Path) -> (PathBuf, bool) {
    match path.as_os_str().as_bytes().strip_suffix(DELETED_SUFFIX) {
        Some(rest) => (PathBuf::from(std::ffi::OsString::from_vec(rest.to_vec())), true),
        None => (path.to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SMAPS: &[u8] = b"\
00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a  b\\012c (deleted)
Size:                328 kB
ProtectionKey:         3
VmFlags: rd ex mr mw me dw
7ffe0000-7fff0000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
VmFlags: rd wr mr mw me gd ac
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
VmFlags: ex
";

    #[test]
    fn smaps_names_and_flags_are_parsed() {
        let mappings = parse_maps(SMAPS).expect("well formed");
        assert_eq!(mappings.len(), 3);
        assert_eq!(mappings[0].name, Path::new("/usr/bin/a  b\nc (deleted)"));
        assert_eq!(mappings[0].range, 0x40_0000..0x45_2000);
        assert_eq!(mappings[0].offset, 0x1000);
        assert!(mappings[0].read && mappings[0].execute && !mappings[0].write && !mappings[0].shared);
        assert!(mappings[1].has_flag(b"gd") && !mappings[0].has_flag(b"gd"));
        assert_eq!((mappings[0].protection_key, mappings[1].protection_key), (3, 0));
        assert_eq!(mappings[2].name, Path::new("[vsyscall]"));
        assert_eq!(
            split_deleted(&mappings[0].name),
            (PathBuf::from("/usr/bin/a  b\nc"), true)
        );
    }

    #[test]
    fn current_process_is_read() {
        let tid = Tid::current();
        let mappings = smaps(tid).expect("own mappings");
        assert!(mappings.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        assert!(mappings.iter().all(|mapping| !mapping.flags.is_empty()));
        let file = tempfile::tempfile().expect("temporary file");
        io::Write::write_all(&mut &file, b"12345").expect("write");
        let fd = RemoteFd::from_raw(std::os::fd::AsRawFd::as_raw_fd(&file));
        let fds = list_fds(tid).expect("own descriptors");
        assert!(fds.contains(&fd) && fds.is_sorted(), "{fds:?}");
        let descriptor = read_fd(tid, fd).expect("the file is open");
        assert_eq!(descriptor.info.pos, 5);
        assert_ne!(descriptor.info.flags & libc::O_CLOEXEC as u32, 0);
    }

    #[test]
    fn own_limits_are_read() {
        let limits = rlimits(Pid::current()).expect("limits");
        let expected = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("limit");
        assert_eq!(limits[libc::RLIMIT_NOFILE as usize], expected);
    }

    #[test]
    fn status_lines_match_the_parsed_status() {
        let status = StatusText("Name:\tNSpid: 7\nNSpid:\t70\t7\nVmLck:\t      12 kB\n".to_owned());
        assert_eq!(status.values("NSpid:").collect::<Vec<_>>(), [70, 7]);
        assert_eq!((status.value("VmLck:"), status.value("NSsid:")), (Some(12), None));
        let pid = Pid::current();
        let status_text = StatusText::read(pid.main_thread()).expect("own status");
        let parsed = status_text.parse().expect("well formed");
        assert_eq!((Pid::from_raw(parsed.pid), parsed.umask.is_some()), (pid, true));
        assert_eq!(status_text.value("VmLck:"), parsed.vmlck);
    }

    #[test]
    fn fdinfo_keeps_repeated_lines() {
        let info = parse_fdinfo(
            "pos:\t17\nflags:\t02000002\nmnt_id:\t15\ntfd: 3 events: 19\ntfd: 4 events: 1\neventfd-count: ff\n",
        );
        assert_eq!((info.pos, info.flags), (17, 0o2_000_002));
        assert_eq!(info.all("tfd").collect::<Vec<_>>(), ["3 events: 19", "4 events: 1"]);
        assert_eq!(info.get("eventfd-count"), Some("ff"));
    }

    #[rstest]
    #[case(b"00400000-00452000 r-xp 00000000 08:02")]
    #[case(b"00400000 r-xp 00000000 08:02 1 /a")]
    #[case(b"00400000-00452000 r-x 00000000 08:02 1 /a")]
    fn malformed_maps_lines_are_refused(#[case] line: &[u8]) {
        assert_eq!(parse_maps(line), None);
    }

    proptest! {
        #[test]
        fn maps_parser_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_maps(&bytes);
        }

        #[test]
        fn maps_lines_round_trip(start in any::<u32>(), pages in 1_u32..9, offset in any::<u32>(), inode in any::<u64>(), name in "(/[a-z \n]{0,9})?") {
            let (start, end) = (u64::from(start), u64::from(start) + u64::from(pages) * 4096);
            let line = format!("{start:08x}-{end:08x} rw-s {offset:08x} fe:01 {inode} {}", name.replace('\n', "\\012"));
            let mappings = parse_maps(line.as_bytes()).expect("well formed");
            prop_assert_eq!(mappings[0].range.clone(), start..end);
            prop_assert_eq!(mappings[0].offset, u64::from(offset));
            prop_assert_eq!(mappings[0].inode, inode);
            prop_assert_eq!(mappings[0].name.to_str(), Some(name.as_str()));
            prop_assert!(mappings[0].shared && mappings[0].write && !mappings[0].execute);
        }
    }
}
