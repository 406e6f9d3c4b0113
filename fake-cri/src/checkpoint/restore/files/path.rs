//! Opens the paths that an archive records.
//!
//! A file is looked up without opening it, the result is checked (fstat(2), fstatfs(2)), and the same file is opened
//! through its descriptor, so the file cannot be replaced in between. The file must be of the recorded type, and a
//! regular file must have the recorded size. The path of a recorded FIFO must lead to a FIFO, because unread bytes are
//! written into it. The file is opened with the recorded flags of [`super::OPEN_FLAGS`], none of which creates or
//! truncates a file. A symbolic link in the last component is not followed.
//!
//! Devices are not opened, except those that hold no data, and neither is any file of a pseudo file system: a write to
//! a file of `/proc` or `/sys` has side effects, or the file is the memory of another process, whatever its type.
//!
//! Files are opened with the shim's credentials, before the restored processes have theirs, because a program may have
//! opened a file before it dropped privileges. So these rules alone protect the host's files from a hostile archive.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use cri_proto::criu::message::RegFileEntry;

use crate::checkpoint::restore::{RestoreError, reopen::pseudo_filesystem};

/// Device numbers of /dev/null, zero, full, random and urandom (Documentation/admin-guide/devices.txt), which hold no
/// data. Other devices of this major number, /dev/mem and /dev/port, are refused.
const MEM_DEVICE_MAJOR: u64 = 1;
const SAFE_MEM_DEVICES: [u64; 5] = [3, 5, 7, 8, 9];

/// The kind of file that an entry refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedKind {
    /// A regular file, a directory, or a device that holds no data.
    Path,
    Fifo,
}

/// Checks that the recorded name is an absolute path.
pub(super) fn check(recorded_file: &RegFileEntry) -> Result<(), RestoreError> {
    match Path::new(&recorded_file.name).is_absolute() {
        true => Ok(()),
        false => Err(RestoreError::malformed(
            "files.img",
            format!("{:?} is not an absolute path", recorded_file.name),
        )),
    }
}

/// Looks up a file without opening it, and compares it with the recorded entry.
pub(super) fn find_checked(recorded_file: &RegFileEntry, expected: ExpectedKind) -> Result<File, RestoreError> {
    let path = Path::new(&recorded_file.name);
    let step_error = |error: io::Error| RestoreError::step(format!("look up {}", recorded_file.name), error);
    check(recorded_file)?;
    let path_fd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
        .map_err(step_error)?;
    let metadata = path_fd.metadata().map_err(step_error)?;
    let mismatch = |problem: String| Err(step_error(io::Error::other(problem)));
    if let Some(problem) = kind_mismatch(&metadata, recorded_file, expected) {
        return mismatch(problem.to_owned());
    }
    if let Some(name) = pseudo_filesystem(&path_fd).map_err(step_error)? {
        return mismatch(format!("in a file system of the kernel ({name})"));
    }
    if let Some(size) = recorded_file.size
        && metadata.is_file()
        && size != metadata.len()
    {
        return mismatch(format!("the size is {} bytes, recorded {size}", metadata.len()));
    }
    Ok(path_fd)
}

fn kind_mismatch(metadata: &Metadata, recorded_file: &RegFileEntry, expected: ExpectedKind) -> Option<&'static str> {
    let kind = metadata.file_type();
    let recorded = recorded_file.mode.map(|mode| mode & libc::S_IFMT);
    match expected {
        ExpectedKind::Path if !kind.is_file() && !kind.is_dir() && !is_memory_device(metadata) => {
            Some("not a regular file, directory or memory device")
        }
        ExpectedKind::Fifo if !kind.is_fifo() => Some("not a FIFO"),
        _ if recorded.is_some_and(|recorded| recorded != metadata.mode() & libc::S_IFMT) => {
            Some("the file type differs from the recorded one")
        }
        _ => None,
    }
}

fn is_memory_device(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device()
        && nix::sys::stat::major(device) == MEM_DEVICE_MAJOR
        && SAFE_MEM_DEVICES.contains(&nix::sys::stat::minor(device))
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

    fn refusal(path: &Path, mode: Option<u32>, expected: ExpectedKind) -> String {
        find_checked(&entry(path, mode, None), expected)
            .expect_err("it must not be opened")
            .to_string()
    }

    #[rstest]
    #[case("/proc/self/mem", ExpectedKind::Path)]
    #[case("/proc/sysrq-trigger", ExpectedKind::Path)]
    #[case("/proc/self/task", ExpectedKind::Path)]
    #[case("/proc/self/fd/0", ExpectedKind::Path)]
    #[case("/proc/self/exe", ExpectedKind::Path)]
    #[case("/sys/kernel/uevent_seqnum", ExpectedKind::Path)]
    #[case("/sys", ExpectedKind::Path)]
    #[case("/proc/self/mem", ExpectedKind::Fifo)]
    #[case("/dev/null", ExpectedKind::Fifo)]
    #[case("/dev/mem", ExpectedKind::Path)]
    #[case("/dev/tty", ExpectedKind::Path)]
    #[case("relative", ExpectedKind::Path)]
    fn files_with_side_effects_are_never_opened(#[case] path: &str, #[case] expected: ExpectedKind) {
        let reason = refusal(Path::new(path), None, expected);
        assert!(!reason.contains("the size is"), "{reason}");
    }

    #[test]
    fn files_of_another_kind_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        std::fs::write(&file, "content").unwrap();
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        // The recorded mode may be false or missing: the actual file decides.
        for mode in [None, Some(libc::S_IFREG), Some(libc::S_IFIFO)] {
            assert!(refusal(&file, mode, ExpectedKind::Fifo).contains("not a FIFO"));
            assert!(refusal(&fifo, mode, ExpectedKind::Path).contains("not a regular file"));
        }
        assert!(refusal(&file, Some(libc::S_IFDIR), ExpectedKind::Path).contains("file type differs"));
        assert!(refusal(&fifo, Some(libc::S_IFREG), ExpectedKind::Fifo).contains("file type differs"));
        find_checked(&entry(&file, None, Some(7)), ExpectedKind::Path).expect("the file");
        find_checked(&entry(&file, Some(libc::S_IFREG), None), ExpectedKind::Path).expect("the file");
        find_checked(&entry(dir.path(), None, None), ExpectedKind::Path).expect("the directory");
        find_checked(&entry(&fifo, Some(libc::S_IFIFO), None), ExpectedKind::Fifo).expect("the FIFO");
        find_checked(
            &entry(Path::new("/dev/null"), Some(libc::S_IFCHR), None),
            ExpectedKind::Path,
        )
        .expect("/dev/null");
        let other = find_checked(&entry(&file, None, Some(8)), ExpectedKind::Path).expect_err("another size");
        assert!(other.to_string().contains("7 bytes, recorded 8"), "{other}");
    }
}
