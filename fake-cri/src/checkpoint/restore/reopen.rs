//! Opens a file that was looked up without opening it, and tells in which kind of file system it is.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use nix::sys::statfs::{FsType, fstatfs};

/// Pseudo file systems (linux/magic.h).
const PSEUDO_FILESYSTEMS: &[(u64, &str)] = &[
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x6265_6570, "configfs"),
    (0xcafe_4a11, "bpf"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6e73_6673, "nsfs"),
    (0x6573_5543, "fusectl"),
    (0x1980_0202, "mqueue"),
    (0x0765_5821, "resctrl"),
];

/// Opens an open file again, as a new open file description.
pub(super) fn reopen(file: BorrowedFd<'_>, flags: i32) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
    let opened = nix::fcntl::open(
        Path::new(&path),
        nix::fcntl::OFlag::from_bits_retain(flags),
        nix::sys::stat::Mode::empty(),
    )?;
    Ok(opened.into())
}

/// Returns the name of the pseudo file system that a file is in, if it is in one.
pub(super) fn pseudo_filesystem(file: &File) -> io::Result<Option<&'static str>> {
    Ok(pseudo_filesystem_name(fstatfs(file)?.filesystem_type()))
}

fn pseudo_filesystem_name(kind: FsType) -> Option<&'static str> {
    // `f_type` is signed in some C libraries, and 32 bits wide in others.
    let fs_magic = u64::from(kind.0 as u32);
    let filesystem = PSEUDO_FILESYSTEMS.iter().find(|(magic, _)| *magic == fs_magic);
    filesystem.map(|(_, name)| *name)
}
