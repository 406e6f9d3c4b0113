//! Attributes of a file beside its content and stat(2): the type of its file system, extended attributes, inode flags.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use nix::{errno::Errno, sys::statfs::statfs};

/// The maximum size of the list of extended attribute names of a file (`XATTR_LIST_MAX`, linux/limits.h).
const XATTR_LIST_MAX: usize = 64 << 10;
/// The flags of chattr(1) that a program can set and that change how the file behaves: `FS_SECRM_FL` to `FS_NOATIME_FL`
/// without `FS_COMPR_FL` (linux/fs.h).
const SETTABLE_FLAGS: u32 = 0xff & !0x4;

/// The magic number of the file system that contains a path (statfs(2)).
pub(crate) fn filesystem_magic(path: &Path) -> io::Result<u64> {
    Ok(statfs(path)?.filesystem_type().0.cast_unsigned())
}

/// The names of the extended attributes of a file; empty if the file system does not support them.
#[expect(unsafe_code, reason = "no crate wraps listxattr")]
pub(crate) fn xattr_names(path: &Path) -> io::Result<Vec<String>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0_u8; XATTR_LIST_MAX];
    // SAFETY: the path ends with a zero byte, and the kernel writes at most as many bytes as the buffer has.
    let result = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    match Errno::result(result) {
        Ok(length) => names.truncate(length.unsigned_abs()),
        Err(Errno::EOPNOTSUPP) => names.clear(),
        Err(errno) => return Err(errno.into()),
    }
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The inode flags of an open file that chattr(1) sets; 0 if the file system does not support them.
#[expect(unsafe_code, reason = "nix has no function for this ioctl")]
pub(crate) fn inode_flags(file: &File) -> u32 {
    /// `FS_IOC_GETFLAGS`: `_IOR('f', 1, long)`, although the value is an int.
    const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601_u32 as libc::Ioctl;
    // Eight bytes, the size in the ioctl number.
    let mut flags = [0_u32; 2];
    // SAFETY: the kernel writes four bytes, or at most the eight bytes of the ioctl number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, flags.as_mut_ptr()) };
    if result == 0 { flags[0] & SETTABLE_FLAGS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystem_and_attributes_are_read() {
        const PROC_SUPER_MAGIC: u64 = 0x9fa0;
        assert_eq!(
            filesystem_magic(Path::new("/proc/self/stat")).unwrap(),
            PROC_SUPER_MAGIC
        );
        assert_eq!(xattr_names(Path::new("/proc/self/stat")).unwrap(), [] as [&str; 0]);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_ne!(filesystem_magic(file.path()).unwrap(), PROC_SUPER_MAGIC);
        assert_eq!(inode_flags(file.as_file()), 0);
        assert!(xattr_names(Path::new("/nothing/there")).is_err());
    }
}
