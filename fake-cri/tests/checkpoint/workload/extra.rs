//! Mappings and descriptors of kinds that a test chooses.

use std::{
    any::Any,
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::sys::mman::{MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};

use super::{PAGE_BYTES, events, mapping::Mapping};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Backing {
    Private,
    Shared,
    PrivateFile,
    SharedFile,
    Memfd,
    DontFork,
    WipeOnFork,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Map {
    pub(crate) backing: Backing,
    /// Which pages are written. The length is the number of pages.
    pub(crate) written: Vec<bool>,
    /// The `PROT_*` bits.
    pub(crate) access: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Descriptor {
    File {
        size: u32,
        offset: u32,
        append: bool,
        deleted: bool,
    },
    Dup {
        offset: u32,
    },
    Directory,
    Null,
    Pipe {
        unread: u16,
    },
    SocketPair {
        unread: u16,
    },
    Eventfd(u32),
    Epoll,
    Timerfd {
        seconds: u32,
    },
    Memfd {
        size: u16,
    },
    Listener,
}

/// Creates the mappings and returns their start and length.
pub(super) fn map(maps: &[Map], dir: &Path, kept_open: &mut Vec<Box<dyn Any>>) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    for (number, map) in maps.iter().enumerate() {
        let length = map.written.len() as u64 * PAGE_BYTES;
        let file = |name: &str| {
            let path = dir.join(format!("{}-{name}-{number}", std::process::id()));
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .expect("open");
            file.write_all(&vec![0x33; length as usize]).expect("write");
            file
        };
        let mut mapping = match map.backing {
            Backing::Private | Backing::DontFork | Backing::WipeOnFork => Mapping::new(length, MapFlags::MAP_PRIVATE),
            Backing::Shared => Mapping::new(length, MapFlags::MAP_SHARED),
            Backing::PrivateFile => Mapping::of(&file("private"), length, MapFlags::MAP_PRIVATE),
            Backing::SharedFile => Mapping::of(&file("shared"), length, MapFlags::MAP_SHARED),
            Backing::Memfd => {
                let memory = memfd(length);
                let mapping = Mapping::of(&memory, length, MapFlags::MAP_SHARED);
                kept_open.push(Box::new(memory));
                mapping
            }
        };
        for (page, written) in (0..).zip(&map.written) {
            if *written {
                for (index, byte) in mapping.page(page).iter_mut().enumerate() {
                    *byte = (number * 101 + page as usize * 31 + index * 7) as u8;
                }
            }
        }
        match map.backing {
            Backing::DontFork => mapping.advise(libc::MADV_DONTFORK),
            Backing::WipeOnFork => mapping.advise(libc::MADV_WIPEONFORK),
            _ => {}
        }
        mapping.protect(ProtFlags::from_bits_truncate(map.access));
        ranges.push((mapping.start(), length));
        kept_open.push(Box::new(mapping));
    }
    ranges
}

fn memfd(size: u64) -> File {
    let memory = nix::sys::memfd::memfd_create(c"in memory", nix::sys::memfd::MFdFlags::empty()).expect("memfd");
    let memory = File::from(memory);
    memory.set_len(size).expect("the memfd can be resized");
    memory
}

/// Opens the descriptors and returns the fds of each.
pub(super) fn open(descriptors: &[Descriptor], dir: &Path, kept_open: &mut Vec<Box<dyn Any>>) -> Vec<Vec<i32>> {
    let opened = |(number, descriptor)| {
        let fds = open_one(number, descriptor, dir);
        let raw_fds = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        kept_open.push(Box::new(fds));
        raw_fds
    };
    descriptors.iter().enumerate().map(opened).collect()
}

fn open_one(number: usize, descriptor: &Descriptor, dir: &Path) -> Vec<OwnedFd> {
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    let path = dir.join(format!("{}-open-{number}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    match descriptor {
        Descriptor::File {
            size,
            offset,
            append,
            deleted,
        } => {
            let mut file = options.append(*append).open(&path).expect("open");
            file.write_all(&vec![number as u8; *size as usize]).expect("write");
            file.seek(SeekFrom::Start((*offset).into())).expect("seek");
            if *deleted {
                fs::remove_file(path).expect("remove");
            }
            vec![file.into()]
        }
        Descriptor::Dup { offset } => {
            let mut file = options.open(&path).expect("open");
            file.seek(SeekFrom::Start((*offset).into())).expect("seek");
            let duplicate = file.try_clone().expect("dup");
            vec![file.into(), duplicate.into()]
        }
        Descriptor::Directory => vec![File::open(dir).expect("open").into()],
        Descriptor::Null => vec![File::open("/dev/null").expect("open").into()],
        Descriptor::Pipe { unread } => {
            let (reader, mut writer) = std::io::pipe().expect("pipe");
            writer
                .write_all(&vec![number as u8; usize::from(*unread)])
                .expect("write");
            vec![reader.into(), writer.into()]
        }
        Descriptor::SocketPair { unread } => {
            let (left, mut right) = std::os::unix::net::UnixStream::pair().expect("pair");
            right
                .write_all(&vec![number as u8; usize::from(*unread)])
                .expect("write");
            vec![left.into(), right.into()]
        }
        Descriptor::Eventfd(value) => vec![events::eventfd(*value)],
        Descriptor::Epoll => {
            let event = events::eventfd(0);
            let epoll = events::epoll_watching(&event, number as u64);
            vec![event, epoll]
        }
        Descriptor::Timerfd { seconds } => {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("timerfd");
            let after = Expiration::OneShot(Duration::from_secs((*seconds).into()).into());
            timer.set(after, TimerSetTimeFlags::empty()).expect("set");
            vec![timer.into()]
        }
        Descriptor::Memfd { size } => vec![memfd((*size).into()).into()],
        Descriptor::Listener => vec![std::net::TcpListener::bind("127.0.0.1:0").expect("listen").into()],
    }
}
