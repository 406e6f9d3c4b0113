//! `vma_entry` of `mm-PID.img`: a mapping of `/proc/PID/smaps` in CRIU's format.
//!
//! A mapping is of one kind: of the kernel, anonymous, of a file, or shared memory. State without a field is reported
//! in `dump.log`; a device mapping is omitted.

use std::{fs, ops::Range, os::unix::fs::MetadataExt as _};

use cri_proto::criu::{message::VmaEntry, vma_status as status};

use super::{context::TaskCtx, files::Files, unsupported};
use crate::process::{
    Tid,
    memory::MAP_DROPPABLE,
    proc_files::{ADVICE_FLAGS, Mapping},
};

/// The kernel's name of shared anonymous memory.
const ANON_SHARED_NAMES: &[&str] = &["/dev/zero (deleted)"];
/// Its prefix for shared anonymous memory with a name (`PR_SET_VMA_ANON_NAME`).
const ANON_SHMEM_PREFIX: &str = "[anon_shmem:";
/// Its prefix for System V shared memory.
const SYSV_SHM_PREFIX: &str = "/SYSV";

/// Converts a mapping; `None` if no image can hold it.
pub(super) fn vma_entry(task: &mut TaskCtx<'_>, mapping: &Mapping, files: &mut Files) -> Option<VmaEntry> {
    let name = mapping.name.to_string_lossy();
    let mut kind = match &*name {
        "[vsyscall]" | "[vectors]" => status::VSYSCALL,
        "[vdso]" => status::REGULAR | status::VDSO,
        "[vvar]" | "[vvar_vclock]" => status::REGULAR | status::VVAR,
        "[heap]" => status::REGULAR | status::HEAP,
        "[uprobes]" => return None,
        _ => status::REGULAR,
    };
    if (mapping.has_flag(b"io") || mapping.has_flag(b"pf")) && kind & status::VVAR == 0 && !mapping.shared {
        task.unsupported(format_args!("the device mapping {:x?} {name}", mapping.range));
        return None;
    }
    unsupported::report_mapping(task, mapping);
    let mut flags = 0;
    let mut vma = VmaEntry {
        start: mapping.range.start,
        end: mapping.range.end,
        pgoff: mapping.offset,
        prot: u32::from(mapping.read) | u32::from(mapping.write) << 1 | u32::from(mapping.execute) << 2,
        fd: -1,
        ..VmaEntry::default()
    };
    if !mapping.is_file_backed() {
        kind |= status::ANON_PRIVATE;
        flags |= libc::MAP_ANONYMOUS as u32;
    } else if mapping.shared
        && (ANON_SHARED_NAMES.contains(&&*name)
            || name.starts_with(ANON_SHMEM_PREFIX)
            || name.starts_with(SYSV_SHM_PREFIX))
    {
        kind |= status::ANON_SHARED;
        flags |= libc::MAP_ANONYMOUS as u32;
        vma.shmid = mapping.inode;
        if name.starts_with(SYSV_SHM_PREFIX) {
            kind |= status::SYSVIPC;
            task.unsupported(format_args!(
                "the System V segment of {:x?} (its pages are in the archive)",
                mapping.range
            ));
        }
    } else if name.starts_with("/anon_hugepage") {
        kind |= if mapping.shared {
            status::ANON_SHARED
        } else {
            status::ANON_PRIVATE
        };
        flags |= (libc::MAP_ANONYMOUS | libc::MAP_HUGETLB) as u32;
        vma.shmid = if mapping.shared { mapping.inode } else { 0 };
        task.unsupported(format_args!("the huge page size of {:x?}", mapping.range));
    } else {
        kind |= if mapping.shared {
            status::FILE_SHARED
        } else {
            status::FILE_PRIVATE
        };
        if mapping.has_flag(b"ht") {
            task.unsupported(format_args!(
                "the huge pages of {:x?}, of the file {name}",
                mapping.range
            ));
        }
        let open_flags = open_flags_of(task.proc_tid, mapping);
        let file = files.mapped_file(task, mapping, open_flags);
        if name.starts_with("/memfd:") && files.is_memfd(file) {
            kind |= status::MEMFD;
        }
        vma.shmid = u64::from(file);
        vma.fdflags = Some(open_flags);
    }
    vma.status = kind;
    vma.flags = flags;
    set_flags(&mut vma, mapping);
    Some(vma)
}

/// Sets flags and advice of an entry to those of the mapping.
pub(super) fn set_flags(vma: &mut VmaEntry, mapping: &Mapping) {
    let anon_flags = vma.flags & (libc::MAP_ANONYMOUS | libc::MAP_HUGETLB) as u32;
    vma.flags = anon_flags | mmap_flags(mapping);
    let advice = advice(mapping);
    vma.madv = (advice != 0).then_some(advice);
}

/// The mmap(2) flags that `VmFlags` shows.
fn mmap_flags(mapping: &Mapping) -> u32 {
    let mut flags = match mapping.shared {
        true => libc::MAP_SHARED,
        false => libc::MAP_PRIVATE,
    } as u32;
    for (name, flag) in [
        (b"gd", libc::MAP_GROWSDOWN),
        (b"lo", libc::MAP_LOCKED),
        (b"nr", libc::MAP_NORESERVE),
        (b"ht", libc::MAP_HUGETLB),
    ] {
        if mapping.has_flag(name) {
            flags |= flag as u32;
        }
    }
    if mapping.has_flag(b"dp") {
        flags = flags & !(libc::MAP_PRIVATE as u32) | MAP_DROPPABLE;
    }
    flags
}

/// The madvise(2) advice that `VmFlags` shows, one bit each.
fn advice(mapping: &Mapping) -> u64 {
    let given = ADVICE_FLAGS.into_iter().filter(|(flag, _)| mapping.has_flag(flag));
    given.fold(0, |bits, (_, advice)| bits | 1 << advice)
}

/// The open flags of a mapped file, by the permissions of its link in `map_files`.
pub(super) fn open_flags_of(proc_tid: Tid, mapping: &Mapping) -> u32 {
    let Range { start, end } = mapping.range;
    let mode = fs::symlink_metadata(format!("/proc/{proc_tid}/map_files/{start:x}-{end:x}")).map(|link| link.mode());
    (match mode.map(|mode| mode & 0o600) {
        Ok(0o600) => libc::O_RDWR,
        Ok(0o200) => libc::O_WRONLY,
        Ok(_) => libc::O_RDONLY,
        Err(_) if mapping.shared && mapping.write => libc::O_RDWR,
        Err(_) => libc::O_RDONLY,
    }) as u32
}
