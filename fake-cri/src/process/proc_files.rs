//! What `/proc` says about a process and its threads (proc(5)).
//!
//! `/proc/TID` answers for every thread, also for one that is not its process's first, so a number is enough; a process whose
//! first thread has ended still answers through another one. Numbers that the `procfs` crate reads are read by it; mappings and
//! descriptors are read here, since it neither keeps their order nor all of their fields.

use std::{
    fs,
    io::{self, Read as _},
    ops::Range,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use procfs::{
    FromRead as _,
    process::{Stat, Status},
};

use super::ProcessId;

/// `PF_IO_WORKER` and `PF_USER_WORKER`: threads that the kernel made inside a process (linux/sched.h). No tracer may have them.
const PF_WORKER_MASK: u32 = 0x10 | 0x4000;

/// `PF_EXITING`: a thread that gives back what it had (linux/sched.h). It is no zombie yet.
const PF_EXITING: u32 = 0x4;

/// `/proc/TID/stat`.
pub(crate) fn stat(tid: i32) -> io::Result<Stat> {
    parse(tid, "stat", |bytes| Stat::from_read(bytes))
}

/// Whether a thread has ended, or is about to: nothing can be read of it any more.
pub(crate) fn is_exiting(tid: i32) -> bool {
    stat(tid).map_or(true, |stat| {
        matches!(stat.state, 'Z' | 'X' | 'x') || stat.flags & PF_EXITING != 0
    })
}

/// Whether a process was killed or has ended: none of its threads is left, or will be.
pub(crate) fn is_dead(pid: i32) -> bool {
    let kill = 1 << (libc::SIGKILL - 1);
    let is_killed = |tid| status(tid).is_ok_and(|status| status.sigpnd & kill != 0);
    threads(pid).map_or(true, |threads| {
        threads.into_iter().all(|tid| is_exiting(tid) || is_killed(tid))
    })
}

/// `/proc/TID/status`.
pub(crate) fn status(tid: i32) -> io::Result<Status> {
    StatusText::read(tid)?
        .parse()
        .map_err(|error| io::Error::other(format!("/proc/{tid}/status: {error}")))
}

/// `/proc/TID/status` as the kernel gave it. To read all of it takes longer than to have it, so that can be done later.
#[derive(Clone, Debug)]
pub(crate) struct StatusText(String);

impl StatusText {
    /// That of a thread.
    pub(crate) fn read(tid: i32) -> io::Result<Self> {
        let bytes = read_proc_file(tid, "status")?;
        // The name in it may be any bytes, and the parser takes text alone.
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The numbers of a line that begins with this.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok())
    }

    /// The first of them.
    pub(crate) fn value(&self, name: &str) -> Option<u64> {
        self.values(name).next()
    }

    /// The rest of a line that begins with this, without blanks around it.
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    }

    /// All of it.
    pub(crate) fn parse(&self) -> io::Result<Status> {
        Status::from_read(self.0.as_bytes()).map_err(|error| io::Error::other(error.to_string()))
    }
}

fn parse<T>(tid: i32, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, procfs::ProcError>) -> io::Result<T> {
    let bytes = read_proc_file(tid, name)?;
    parse(&bytes).map_err(|error| io::Error::other(format!("/proc/{tid}/{name}: {error}")))
}

/// A file of a process, in one read where it is small: the files of `/proc` have no size that could be asked for first, and
/// many are read while a container stands.
fn read_proc_file(tid: i32, name: &str) -> io::Result<Vec<u8>> {
    const INITIAL_CAPACITY_BYTES: usize = 4096;
    let mut bytes = Vec::with_capacity(INITIAL_CAPACITY_BYTES);
    fs::File::open(format!("/proc/{tid}/{name}"))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The process of this number, as it can be told from a later one of the same number.
///
/// # Errors
///
/// `NotFound` when there is none.
pub(crate) fn read_process_id(pid: i32) -> io::Result<ProcessId> {
    Ok(ProcessId {
        pid,
        start_time: stat(pid)?.starttime,
    })
}

/// The numbers of a process's threads, the first one's included, as the kernel lists them.
pub(crate) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Some(tid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            threads.push(tid);
        }
    }
    Ok(threads)
}

/// Whether the kernel made this thread inside the process (for io_uring), so that it can neither be traced nor run code of it.
pub(crate) fn is_io_worker(stat: &Stat) -> bool {
    stat.flags & PF_WORKER_MASK != 0
}

/// The name of a thread (`/proc/TID/comm`) to its last blank: the kernel adds one newline.
pub(crate) fn comm(tid: i32) -> io::Result<String> {
    let bytes = read_proc_file(tid, "comm")?;
    let name = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// A small file of a process as text, trimmed.
pub(crate) fn read_text(tid: i32, name: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_proc_file(tid, name)?)
        .trim_end()
        .to_owned())
}

/// `/proc/TID/auxv`: the words that the kernel gave the program at its start.
pub(crate) fn auxv(tid: i32) -> io::Result<Vec<u64>> {
    let bytes = read_proc_file(tid, "auxv")?;
    Ok(bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of eight")))
        .collect())
}

/// Where a link below `/proc/TID` points.
pub(crate) fn read_link(tid: i32, name: &str) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{tid}/{name}"))
}

/// The number of the system call that a blocked thread is in, and its first argument (`/proc/TID/syscall`); `None` when it is
/// in none or may not be looked at.
pub(crate) fn current_syscall(tid: i32) -> Option<(i64, u64)> {
    let text = read_text(tid, "syscall").ok()?;
    let mut words = text.split_whitespace();
    let nr = words.next()?.parse().ok()?;
    let argument = words.next()?.strip_prefix("0x")?;
    Some((nr, u64::from_str_radix(argument, 16).ok()?))
}

/// The proportional set size of a process in bytes (`Pss` of `/proc/PID/smaps_rollup`).
pub(crate) fn pss_bytes(tid: i32) -> Option<u64> {
    let text = read_text(tid, "smaps_rollup").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// One mapping of an address space: a line of `/proc/PID/maps` with its `VmFlags`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Its addresses.
    pub(crate) range: Range<u64>,
    /// Readable.
    pub(crate) read: bool,
    /// Writable.
    pub(crate) write: bool,
    /// Executable.
    pub(crate) execute: bool,
    /// Shared with whoever maps the same, not private.
    pub(crate) shared: bool,
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    /// The device of the file.
    pub(crate) device: (u32, u32),
    /// The inode of the file; 0 without one.
    pub(crate) inode: u64,
    /// The file's path or the kernel's name (`[heap]`), empty for anonymous memory.
    pub(crate) name: PathBuf,
    /// The two-letter flags of `VmFlags`.
    pub(crate) flags: Vec<[u8; 2]>,
    /// The protection key of its pages (pkeys(7)), 0 where there are none.
    pub(crate) protection_key: u32,
}

impl Mapping {
    /// Anonymous memory that can be read and written, with these flags.
    #[cfg(test)]
    pub(crate) fn anonymous(range: Range<u64>, flags: &[[u8; 2]]) -> Self {
        Self {
            range,
            read: true,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: PathBuf::new(),
            flags: flags.to_vec(),
            protection_key: 0,
        }
    }

    /// Whether `VmFlags` has this one.
    pub(crate) fn has_flag(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Whether a file or shared memory stands behind it.
    pub(crate) fn is_file_backed(&self) -> bool {
        self.inode != 0
    }
}

/// The mappings of a process in the order of their addresses, from `/proc/PID/smaps`.
pub(crate) fn smaps(tid: i32) -> io::Result<Vec<Mapping>> {
    let bytes = read_proc_file(tid, "smaps")?;
    parse_maps(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{tid}/smaps: unknown line")))
}

/// The same without their flags, from `/proc/PID/maps`, which the kernel need not walk the pages for.
pub(crate) fn maps(tid: i32) -> io::Result<Vec<Mapping>> {
    let bytes = read_proc_file(tid, "maps")?;
    parse_maps(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{tid}/maps: unknown line")))
}

fn parse_maps(bytes: &[u8]) -> Option<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        match line.first() {
            None => {}
            // A heading begins with an address in lower case, every other line with a name in upper case.
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
    let (major, minor) = word()?.split_once(':')?;
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
        device: (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
        ),
        inode: inode.parse().ok()?,
        name: PathBuf::from(std::ffi::OsString::from_vec(unescape(name))),
        flags: Vec::new(),
        protection_key: 0,
    })
}

/// Takes back the one escape that these files have: a newline in a name is written `\012`.
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

/// One open descriptor: where it points and what `/proc/PID/fdinfo` says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenFd {
    /// Its number.
    pub(crate) fd: i32,
    /// Where `/proc/PID/fd/FD` points: a path, or `pipe:[4711]`, `socket:[4711]`, `anon_inode:[eventfd]`.
    pub(crate) target: PathBuf,
    /// Position, flags and the lines of its kind.
    pub(crate) info: FdInfo,
}

/// `/proc/PID/fdinfo/FD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdInfo {
    /// The offset.
    pub(crate) pos: u64,
    /// The flags of open(2), `O_CLOEXEC` among them.
    pub(crate) flags: u32,
    /// The number of the mount.
    pub(crate) mnt_id: i32,
    /// What else stands there, by its name, in order: names repeat (`tfd` of an epoll descriptor).
    pub(crate) extra: Vec<(String, String)>,
}

impl FdInfo {
    /// The first line of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.extra
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All lines of this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.extra
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The numbers of the open descriptors of a process, in their order.
pub(crate) fn list_fds(tid: i32) -> io::Result<Vec<i32>> {
    let mut fds = Vec::new();
    for entry in fs::read_dir(format!("/proc/{tid}/fd"))? {
        fds.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    fds.sort_unstable();
    Ok(fds)
}

/// An open descriptor of a process.
pub(crate) fn read_fd(tid: i32, fd: i32) -> io::Result<OpenFd> {
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
            "mnt_id" => info.mnt_id = value.parse().unwrap_or(-1),
            _ => info.extra.push((name.to_owned(), value.to_owned())),
        }
    }
    info
}

/// What the kernel appends to the path of a file that has none any more.
const DELETED_SUFFIX: &[u8] = b" (deleted)";

/// A path as the kernel shows it, parted into the path and whether the file was removed.
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
        assert_eq!(mappings[0].device, (8, 2));
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
        let pid = std::process::id() as i32;
        let mappings = smaps(pid).expect("own mappings");
        assert!(mappings.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        assert!(mappings.iter().all(|mapping| !mapping.flags.is_empty()));
        let file = tempfile::tempfile().expect("temporary file");
        io::Write::write_all(&mut &file, b"12345").expect("write");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let fds = list_fds(pid).expect("own descriptors");
        assert!(fds.contains(&fd) && fds.is_sorted(), "{fds:?}");
        let descriptor = read_fd(pid, fd).expect("it is open");
        assert_eq!(descriptor.info.pos, 5);
        assert_ne!(descriptor.info.flags & libc::O_CLOEXEC as u32, 0);
    }

    #[test]
    fn status_lines_match_the_parsed_status() {
        let status = StatusText("Name:\tNSpid: 7\nNSpid:\t70\t7\nVmLck:\t      12 kB\n".to_owned());
        assert_eq!(status.values("NSpid:").collect::<Vec<_>>(), [70, 7]);
        assert_eq!((status.value("VmLck:"), status.value("NSsid:")), (Some(12), None));
        let pid = std::process::id() as i32;
        let status_text = StatusText::read(pid).expect("own status");
        let parsed = status_text.parse().expect("well formed");
        assert_eq!((parsed.pid, parsed.umask.is_some()), (pid, true));
        assert_eq!(status_text.value("VmLck:"), parsed.vmlck);
    }

    #[test]
    fn fdinfo_keeps_repeated_lines() {
        let info = parse_fdinfo(
            "pos:\t17\nflags:\t02000002\nmnt_id:\t15\ntfd: 3 events: 19\ntfd: 4 events: 1\neventfd-count: ff\n",
        );
        assert_eq!((info.pos, info.flags, info.mnt_id), (17, 0o2_000_002, 15));
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
