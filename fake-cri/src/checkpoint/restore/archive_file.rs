//! Opens the archive of a restore, and names the format of a file that is not an archive.
//!
//! The user who creates a container chooses the path, and fake-cri opens it with its own credentials, usually root's.
//! No error quotes the content of a file: an error names the path and the problem, at most with the name of a format.
//!
//! The path is looked up with `O_PATH`, the result is checked (fstat(2), fstatfs(2)), and the same file is opened
//! through its descriptor. Only regular files and directories are opened, and none below `/proc`, `/sys` or `/dev` or
//! in a pseudo file system, wherever it is mounted: opening a device or reading such a file may have side effects.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use super::reopen::{pseudo_filesystem, reopen};

/// Directories with devices and files of the kernel.
const EXCLUDED_DIRS: [&str; 3] = ["/proc", "/sys", "/dev"];

#[derive(Debug)]
pub(super) enum OpenedPath {
    /// Open for reading.
    File(File),
    Directory,
}

/// Opens a regular file or finds a directory. Follows symbolic links.
pub(super) fn open(path: &Path) -> io::Result<OpenedPath> {
    open_checked(path, 0)
}

/// Opens a regular file. Does not follow a symbolic link in the last component.
pub(super) fn open_nofollow(path: &Path) -> io::Result<File> {
    match open_checked(path, libc::O_NOFOLLOW)? {
        OpenedPath::File(file) => Ok(file),
        OpenedPath::Directory => Err(io::Error::other("is a directory")),
    }
}

fn open_checked(path: &Path, flags: i32) -> io::Result<OpenedPath> {
    let path_fd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | flags)
        .open(path)?;
    let kind = path_fd.metadata()?.file_type();
    if kind.is_symlink() {
        return Err(io::Error::other("symbolic links are not followed"));
    }
    if let Some(name) = pseudo_filesystem(&path_fd)? {
        return Err(io::Error::other(format!("in a file system of the kernel ({name})")));
    }
    let resolved = std::fs::read_link(format!("/proc/self/fd/{}", path_fd.as_raw_fd()))?;
    if let Some(directory) = EXCLUDED_DIRS.iter().find(|directory| resolved.starts_with(directory)) {
        return Err(io::Error::other(format!("archives below {directory} are not opened")));
    }
    if kind.is_dir() {
        return Ok(OpenedPath::Directory);
    }
    if !kind.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    reopen(path_fd.as_fd(), libc::O_RDONLY | libc::O_NONBLOCK).map(OpenedPath::File)
}

/// Formats that users mistake for an archive: offset and bytes of the magic number, name.
const FOREIGN_FORMATS: &[(usize, &[u8], &str)] = &[
    (0, &[0x1f, 0x8b], "compressed with gzip"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed with xz"),
    (0, b"BZh", "compressed with bzip2"),
    (0, &[0x04, 0x22, 0x4d, 0x18], "compressed with lz4"),
    (0, &[0x02, 0x21, 0x4c, 0x18], "compressed with lz4"),
    (0, &[0x1f, 0x9d], "compressed with compress"),
    (0, b"LZIP", "compressed with lzip"),
    (0, &[0x5d, 0, 0], "compressed with lzma"),
    (0, &[b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c], "a 7z archive"),
    (0, &[b'P', b'K', 3, 4], "a zip archive"),
    (0, b"age-encryption.org/", "encrypted with age"),
    (0, b"-----BEGIN AGE ENCRYPTED FILE-----", "encrypted with age"),
    (0, b"-----BEGIN PGP MESSAGE-----", "encrypted with OpenPGP"),
    (0, &[0x85, 0x01], "encrypted with OpenPGP"),
    (0, &[0x85, 0x02], "encrypted with OpenPGP"),
    (0, &[0x8c, 0x0d, 0x04], "encrypted with OpenPGP"),
    (0, b"Salted__", "encrypted with openssl enc"),
    (0, &[b'L', b'U', b'K', b'S', 0xba, 0xbe], "encrypted with LUKS"),
    (0, b"$ANSIBLE_VAULT;", "encrypted with ansible-vault"),
    (0, &[0x7f, b'E', b'L', b'F'], "an ELF file"),
];

/// Returns the format by the first bytes of a file, if known: words that complete "the file is ...".
pub(super) fn format_of(head: &[u8]) -> Option<&'static str> {
    let has =
        |(offset, magic, _): &&(usize, &[u8], &str)| head.get(*offset..).is_some_and(|bytes| bytes.starts_with(magic));
    FOREIGN_FORMATS.iter().find(has).map(|(_, _, name)| *name)
}

pub(super) fn format_of_file(file: &File) -> Option<&'static str> {
    let mut head = [0; 64];
    let length = file.read_at(&mut head, 0).ok()?;
    format_of(&head[..length])
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use rstest::rstest;

    use super::*;

    fn refusal(path: &Path) -> String {
        open(path).expect_err("it must not be opened").to_string()
    }

    #[rstest]
    #[case("/proc/self/environ", "file system of the kernel (proc)")]
    #[case("/proc/self", "file system of the kernel (proc)")]
    #[case("/sys/kernel/uevent_seqnum", "file system of the kernel (sysfs)")]
    #[case("/dev/zero", "below /dev")]
    #[case("/dev/null", "below /dev")]
    fn kernel_files_are_never_opened(#[case] path: &str, #[case] reason: &str) {
        assert!(
            refusal(Path::new(path)).contains(reason),
            "{}",
            refusal(Path::new(path))
        );
    }

    #[test]
    fn links_are_checked_like_files() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/proc/self/environ", &link).unwrap();
        assert!(refusal(&link).contains("file system of the kernel"));
        std::fs::write(dir.path().join("file"), "content").unwrap();
        let link = dir.path().join("harmless");
        symlink("file", &link).unwrap();
        assert!(matches!(open(&link), Ok(OpenedPath::File(_))));
        let error = open_nofollow(&link).expect_err("a link").to_string();
        assert!(error.contains("symbolic links"), "{error}");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        // Opening the FIFO would block until a writer opens it.
        assert!(refusal(&fifo).contains("not a regular file"));
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(refusal(&socket).contains("not a regular file"));
        assert!(matches!(open(dir.path()), Ok(OpenedPath::Directory)));
    }

    #[test]
    fn compressed_and_encrypted_files_are_named() {
        assert_eq!(format_of(&[0x28, 0xb5, 0x2f, 0xfd, 0]), Some("compressed with zstd"));
        assert_eq!(format_of(b"Salted__12345678"), Some("encrypted with openssl enc"));
        assert_eq!(format_of(b"root:x:0:0"), None);
        assert_eq!(format_of(b""), None);
    }
}
