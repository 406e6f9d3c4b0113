//! Kernel filesystems, whose files show kernel state rather than stored content, recognized by their magic (statfs(2);
//! linux/magic.h).

use std::path::Path;

use crate::process::file_attributes::filesystem_magic;

/// How a restorer can reopen a file of a kernel filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reopening {
    /// The open file has no state besides its path.
    ByPath,
    /// The file has a path, but the open file has kernel state that no image holds.
    OpenFileState,
    /// The file has no path, or its path names another file.
    NoPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelFs {
    /// Its name in `/proc/filesystems`.
    pub(super) name: &'static str,
    pub(super) handling: Reopening,
}

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `PID_FS_MAGIC`: pidfds since Linux 6.9.
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// By filesystem magic. Hugetlbfs is included because a deleted file of it cannot be written with content.
const KERNEL_FILE_SYSTEMS: &[(u64, &str, Reopening)] = &[
    (PROC_SUPER_MAGIC, "proc", Reopening::ByPath),
    (0x6265_6572, "sysfs", Reopening::ByPath),
    (0x27_e0eb, "cgroup", Reopening::ByPath),
    (0x6367_7270, "cgroup2", Reopening::ByPath),
    (0x1cd1, "devpts", Reopening::ByPath),
    (0x187, "autofs", Reopening::ByPath),
    (0x9584_58f6, "hugetlbfs", Reopening::ByPath),
    (0x6462_6720, "debugfs", Reopening::OpenFileState),
    (0x7472_6163, "tracefs", Reopening::OpenFileState),
    (0xcafe_4a11, "bpf", Reopening::OpenFileState),
    (0x6573_5543, "fusectl", Reopening::OpenFileState),
    (0x7363_6673, "securityfs", Reopening::OpenFileState),
    (0xf97c_ff8c, "selinuxfs", Reopening::OpenFileState),
    (0x4341_5d53, "smackfs", Reopening::OpenFileState),
    (0x6265_6570, "configfs", Reopening::OpenFileState),
    (0x6165_676c, "pstore", Reopening::OpenFileState),
    (0xde5e_81e4, "efivarfs", Reopening::OpenFileState),
    (0x6c6f_6f70, "binder", Reopening::OpenFileState),
    (0x4249_4e4d, "binfmt_misc", Reopening::OpenFileState),
    (0x6759_6969, "rpc_pipefs", Reopening::OpenFileState),
    (0x6e66_7364, "nfsd", Reopening::OpenFileState),
    (0x765_5821, "resctrl", Reopening::OpenFileState),
    (0x1980_0202, "mqueue", Reopening::NoPath),
    (0x6e73_6673, "nsfs", Reopening::NoPath),
    (0x5345_434d, "secretmem", Reopening::NoPath),
    (0x444d_4142, "dmabuf", Reopening::NoPath),
    (0x474d_454d, "guest_memfd", Reopening::NoPath),
    (0x4645_4457, "devmem", Reopening::NoPath),
];

/// Whether a path is in pidfs, whose files are pidfds.
pub(super) fn is_pidfd(source: &Path) -> bool {
    filesystem_magic(source).is_ok_and(|magic| magic == PID_FS_MAGIC)
}

/// The kernel filesystem of a path; `None` for any other filesystem or on error.
pub(super) fn lookup(source: &Path) -> Option<KernelFs> {
    let magic = filesystem_magic(source).ok()?;
    let &(_, name, handling) = KERNEL_FILE_SYSTEMS.iter().find(|(fs_magic, ..)| *fs_magic == magic)?;
    Some(KernelFs { name, handling })
}

/// The pid in a procfs path: `/proc/4711/stat`. The pid namespace is that of the mount, which the path does not show.
pub(super) fn proc_pid(kernel_fs: KernelFs, path: &Path) -> Option<i32> {
    let rest = path.strip_prefix("/proc").ok().filter(|_| kernel_fs.name == "proc")?;
    rest.components().next()?.as_os_str().to_str()?.parse().ok()
}

/// Whether a file can have a PSI trigger, which exists as long as the file is open (Documentation/accounting/psi.rst).
pub(super) fn has_psi_trigger(path: &Path, flags: u32) -> bool {
    let writes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
    let is_cgroup_file = path.extension().is_some_and(|extension| extension == "pressure");
    writes && (is_cgroup_file || path.starts_with("/proc/pressure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_file_systems_are_recognized() {
        let proc = lookup(Path::new("/proc/self/stat")).expect("procfs");
        assert_eq!((proc.name, proc.handling), ("proc", Reopening::ByPath));
        let net = lookup(Path::new("/proc/self/ns/net")).expect("nsfs");
        assert_eq!((net.name, net.handling), ("nsfs", Reopening::NoPath));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(lookup(file.path()), None);
        assert_eq!(proc_pid(proc, Path::new("/proc/4711/task/1/stat")), Some(4711));
        assert_eq!(proc_pid(proc, Path::new("/proc/meminfo")), None);
        assert_eq!(proc_pid(net, Path::new("/proc/4711/x")), None);
        assert!(has_psi_trigger(Path::new("/proc/pressure/cpu"), libc::O_RDWR as u32));
        assert!(has_psi_trigger(
            Path::new("/sys/fs/cgroup/a/memory.pressure"),
            libc::O_WRONLY as u32
        ));
        assert!(!has_psi_trigger(Path::new("/proc/pressure/cpu"), 0));
    }
}
