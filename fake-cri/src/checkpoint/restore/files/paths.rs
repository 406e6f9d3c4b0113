//! What a path of the archive may lead to.
//!
//! The file is found without opening it, what was found is looked at (fstat(2), fstatfs(2)), and that very file is opened, through
//! its descriptor: so nothing can take its place in between. It has to be of the recorded kind, a regular file also of the
//! recorded size; a FIFO, into which unread bytes are written, has to be one. It is opened with the recorded flags of
//! [`super::FLAGS`], of which none makes a file or cuts it. A link at the end of a path is not followed.
//!
//! Never opened are devices, but for those that hold nothing, and whatever lies in a file system that is no storage but a view of
//! the kernel: a file of `/proc` or `/sys` acts when it is written or is another process's memory, whatever its kind says.
//!
//! Files are opened with this process's rights, before the new ones have theirs, as the program may have opened them before it
//! gave rights away. So these rules are all that is between an archive and the files of whoever restores it.

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use cri_proto::criu::message::RegFileEntry;
use nix::sys::statfs::{FsType, fstatfs};

use crate::checkpoint::restore::RestoreError;

/// The numbers of /dev/null, zero, full, random and urandom (Documentation/admin-guide/devices.txt), which hold nothing. Their
/// kin /dev/mem and /dev/port are not to be had.
const MEMORY_DEVICES: u64 = 1;
const HARMLESS: [u64; 5] = [3, 5, 7, 8, 9];

/// File systems that are views of the kernel (linux/magic.h), each with its name.
const OF_THE_KERNEL: &[(u64, &str)] = &[
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

/// What the entry of a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// A regular file, a folder, or a device that holds nothing.
    Path,
    /// A FIFO.
    Fifo,
}

/// Opens an open file anew, as another open file description.
pub(in crate::checkpoint::restore) fn reopen(file: BorrowedFd<'_>, flags: i32) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
    let opened = nix::fcntl::open(
        Path::new(&path),
        nix::fcntl::OFlag::from_bits_retain(flags),
        nix::sys::stat::Mode::empty(),
    )?;
    Ok(opened.into())
}

/// Whether what was recorded is a path.
pub(super) fn check(wanted: &RegFileEntry) -> Result<(), RestoreError> {
    match Path::new(&wanted.name).is_absolute() {
        true => Ok(()),
        false => Err(RestoreError::malformed(
            "files.img",
            format!("{:?} is no path", wanted.name),
        )),
    }
}

/// Finds a file without opening it, and holds it against what was recorded.
pub(super) fn find(wanted: &RegFileEntry, expected: Expected) -> Result<File, RestoreError> {
    let path = Path::new(&wanted.name);
    let failed = |error: io::Error| RestoreError::step(format!("find {}", wanted.name), error);
    check(wanted)?;
    let found = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed)?;
    let metadata = found.metadata().map_err(failed)?;
    let differs = |what: String| Err(failed(io::Error::other(what)));
    if let Some(what) = wrong_kind(&metadata, wanted, expected) {
        return differs(what.to_owned());
    }
    if let Some(name) = kernel_file_system(&found).map_err(failed)? {
        return differs(format!("it is in a file system of the kernel ({name})"));
    }
    if let Some(size) = wanted.size
        && metadata.is_file()
        && size != metadata.len()
    {
        return differs(format!("it has {} bytes now and had {size}", metadata.len()));
    }
    Ok(found)
}

/// What is wrong with the kind of a file.
fn wrong_kind(metadata: &Metadata, wanted: &RegFileEntry, expected: Expected) -> Option<&'static str> {
    let kind = metadata.file_type();
    let recorded = wanted.mode.map(|mode| mode & libc::S_IFMT);
    match expected {
        Expected::Path if !kind.is_file() && !kind.is_dir() && !is_memory_device(metadata) => {
            Some("it is no regular file, folder or memory device")
        }
        Expected::Fifo if !kind.is_fifo() => Some("it is no FIFO"),
        _ if recorded.is_some_and(|recorded| recorded != metadata.mode() & libc::S_IFMT) => {
            Some("it is of another kind than it was")
        }
        _ => None,
    }
}

/// The name of the file system that a file is in, if it shows the kernel's own state.
pub(in crate::checkpoint::restore) fn kernel_file_system(file: &File) -> io::Result<Option<&'static str>> {
    Ok(of_the_kernel(fstatfs(file)?.filesystem_type()))
}

fn of_the_kernel(kind: FsType) -> Option<&'static str> {
    // Some C libraries give the number a sign, and some only half of the word.
    let number = u64::from(kind.0 as u32);
    let known = OF_THE_KERNEL.iter().find(|(magic, _)| *magic == number);
    known.map(|(_, name)| *name)
}

fn is_memory_device(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device()
        && nix::sys::stat::major(device) == MEMORY_DEVICES
        && HARMLESS.contains(&nix::sys::stat::minor(device))
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use rstest::rstest;

    use super::*;

    fn entry(path: &Path, mode: Option<u32>, size: Option<u64>) -> RegFileEntry {
        RegFileEntry {
            name: path.to_str().unwrap().to_owned(),
            mode,
            size,
            ..RegFileEntry::default()
        }
    }

    fn refusal(path: &Path, mode: Option<u32>, expected: Expected) -> String {
        find(&entry(path, mode, None), expected)
            .expect_err("it must not be opened")
            .to_string()
    }

    #[rstest]
    #[case("/proc/self/mem", Expected::Path)]
    #[case("/proc/sysrq-trigger", Expected::Path)]
    #[case("/proc/self/task", Expected::Path)]
    #[case("/proc/self/fd/0", Expected::Path)]
    #[case("/proc/self/exe", Expected::Path)]
    #[case("/sys/kernel/uevent_seqnum", Expected::Path)]
    #[case("/sys", Expected::Path)]
    #[case("/proc/self/mem", Expected::Fifo)]
    #[case("/dev/null", Expected::Fifo)]
    #[case("/dev/mem", Expected::Path)]
    #[case("/dev/tty", Expected::Path)]
    #[case("relative", Expected::Path)]
    fn what_acts_is_never_opened(#[case] path: &str, #[case] expected: Expected) {
        let reason = refusal(Path::new(path), None, expected);
        assert!(!reason.contains("bytes now"), "{reason}");
    }

    #[test]
    fn what_is_found_has_to_be_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let (file, fifo) = (folder.path().join("file"), folder.path().join("fifo"));
        std::fs::write(&file, "content").unwrap();
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        // The mode that is recorded may lie, or not be there: what counts is what is there.
        for mode in [None, Some(libc::S_IFREG), Some(libc::S_IFIFO)] {
            assert!(refusal(&file, mode, Expected::Fifo).contains("no FIFO"));
            assert!(refusal(&fifo, mode, Expected::Path).contains("no regular file"));
        }
        assert!(refusal(&file, Some(libc::S_IFDIR), Expected::Path).contains("another kind"));
        assert!(refusal(&fifo, Some(libc::S_IFREG), Expected::Fifo).contains("another kind"));
        find(&entry(&file, None, Some(7)), Expected::Path).expect("the file");
        find(&entry(&file, Some(libc::S_IFREG), None), Expected::Path).expect("the file");
        find(&entry(folder.path(), None, None), Expected::Path).expect("the folder");
        find(&entry(&fifo, Some(libc::S_IFIFO), None), Expected::Fifo).expect("the FIFO");
        find(
            &entry(Path::new("/dev/null"), Some(libc::S_IFCHR), None),
            Expected::Path,
        )
        .expect("it holds nothing");
        let other = find(&entry(&file, None, Some(8)), Expected::Path).expect_err("another size");
        assert!(other.to_string().contains("7 bytes now and had 8"), "{other}");
    }
}
