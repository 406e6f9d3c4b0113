//! Attributes of a file beside its content and stat(2): the type of its file system, extended attributes, inode flags.

use std::{fs::File, io, path::Path};

use nix::sys::statfs::statfs;
use rustix::io::Errno;

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
pub(crate) fn xattr_names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![0_u8; XATTR_LIST_MAX];
    let length = match rustix::fs::listxattr(path, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The inode flags of an open file that chattr(1) sets; 0 if the file system does not support them.
pub(crate) fn inode_flags(file: &File) -> u32 {
    rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits() & SETTABLE_FLAGS)
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
