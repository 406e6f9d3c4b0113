//! Files of file systems whose files are no content on a disk but a view of the kernel, told apart by the type of the file
//! system (statfs(2); linux/magic.h).

use std::path::Path;

use crate::process::attributes::file_system;

/// What a restorer can do with an open file of such a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    /// The open file has no state beside its path: it is opened by its path again.
    ByPath,
    /// The file has a path, and the kernel keeps something for each open file that no image holds.
    StateOfOpenFile,
    /// No path leads to the file, or the file is not what its path names.
    NoPath,
}

/// A kind of kernel file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelFiles {
    /// Its name in `/proc/filesystems`.
    pub(super) name: &'static str,
    pub(super) handling: Handling,
}

/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;
/// `PID_FS_MAGIC`: pidfds since Linux 6.9.
const PIDFS: u64 = 0x5049_4446;

/// By the magic number of the file system. Hugetlbfs is among them since nothing can be written into a deleted file of it.
const KNOWN: &[(u64, &str, Handling)] = &[
    (PROC, "proc", Handling::ByPath),
    (0x6265_6572, "sysfs", Handling::ByPath),
    (0x27_e0eb, "cgroup", Handling::ByPath),
    (0x6367_7270, "cgroup2", Handling::ByPath),
    (0x1cd1, "devpts", Handling::ByPath),
    (0x187, "autofs", Handling::ByPath),
    (0x9584_58f6, "hugetlbfs", Handling::ByPath),
    (0x6462_6720, "debugfs", Handling::StateOfOpenFile),
    (0x7472_6163, "tracefs", Handling::StateOfOpenFile),
    (0xcafe_4a11, "bpf", Handling::StateOfOpenFile),
    (0x6573_5543, "fusectl", Handling::StateOfOpenFile),
    (0x7363_6673, "securityfs", Handling::StateOfOpenFile),
    (0xf97c_ff8c, "selinuxfs", Handling::StateOfOpenFile),
    (0x4341_5d53, "smackfs", Handling::StateOfOpenFile),
    (0x6265_6570, "configfs", Handling::StateOfOpenFile),
    (0x6165_676c, "pstore", Handling::StateOfOpenFile),
    (0xde5e_81e4, "efivarfs", Handling::StateOfOpenFile),
    (0x6c6f_6f70, "binder", Handling::StateOfOpenFile),
    (0x4249_4e4d, "binfmt_misc", Handling::StateOfOpenFile),
    (0x6759_6969, "rpc_pipefs", Handling::StateOfOpenFile),
    (0x6e66_7364, "nfsd", Handling::StateOfOpenFile),
    (0x765_5821, "resctrl", Handling::StateOfOpenFile),
    (0x1980_0202, "mqueue", Handling::NoPath),
    (0x6e73_6673, "nsfs", Handling::NoPath),
    (0x5345_434d, "secretmem", Handling::NoPath),
    (0x444d_4142, "dmabuf", Handling::NoPath),
    (0x474d_454d, "guest_memfd", Handling::NoPath),
    (0x4645_4457, "devmem", Handling::NoPath),
];

/// Whether a path leads into pidfs, whose files are pidfds.
pub(super) fn is_pidfd(source: &Path) -> bool {
    file_system(source).is_ok_and(|magic| magic == PIDFS)
}

/// The kernel file system that a path leads into; `None` for any other, or where the kernel does not tell.
pub(super) fn of(source: &Path) -> Option<KernelFiles> {
    let magic = file_system(source).ok()?;
    let &(_, name, handling) = KNOWN.iter().find(|(known, ..)| *known == magic)?;
    Some(KernelFiles { name, handling })
}

/// The number of the process that a path of procfs is about: `/proc/4711/stat`.
pub(super) fn process_of(files: KernelFiles, path: &Path) -> Option<i32> {
    let rest = path.strip_prefix("/proc").ok().filter(|_| files.name == "proc")?;
    rest.components().next()?.as_os_str().to_str()?.parse().ok()
}

/// Whether a file takes a trigger for pressure stall information, which lasts as long as the file is open
/// (Documentation/accounting/psi.rst).
pub(super) fn takes_trigger(path: &Path, flags: u32) -> bool {
    let writes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
    let of_cgroup = path.extension().is_some_and(|ending| ending == "pressure");
    writes && (of_cgroup || path.starts_with("/proc/pressure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_file_system() {
        let proc = of(Path::new("/proc/self/stat")).expect("procfs");
        assert_eq!((proc.name, proc.handling), ("proc", Handling::ByPath));
        let net = of(Path::new("/proc/self/ns/net")).expect("nsfs");
        assert_eq!((net.name, net.handling), ("nsfs", Handling::NoPath));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of(file.path()), None);
        assert_eq!(process_of(proc, Path::new("/proc/4711/task/1/stat")), Some(4711));
        assert_eq!(process_of(proc, Path::new("/proc/meminfo")), None);
        assert_eq!(process_of(net, Path::new("/proc/4711/x")), None);
        assert!(takes_trigger(Path::new("/proc/pressure/cpu"), libc::O_RDWR as u32));
        assert!(takes_trigger(
            Path::new("/sys/fs/cgroup/a/memory.pressure"),
            libc::O_WRONLY as u32
        ));
        assert!(!takes_trigger(Path::new("/proc/pressure/cpu"), 0));
    }
}
