//! Restores an address space: unmaps everything, maps the recorded VMAs, and writes their pages.
//!
//! The kernel's `[vvar]` and `[vdso]` pages cannot be created, only moved. Each new process inherits them next to the
//! restorer area, and they are moved to the recorded address. So the vdso in the archive must be this kernel's, byte
//! for byte.

use std::ops::Range;

use cri_proto::criu::{
    message::{MmEntry, VmaEntry},
    vma_status as status,
};

use super::{
    RestoreError,
    files::OpenFiles,
    plan::{LiveTask, RestorePlan},
    remote_task::{RemoteTask, RestorerArea},
};
use crate::{
    environment::CONTAINER_ID_ENV,
    process::{
        Tid,
        memory::{MAP_DROPPABLE, ProcMem},
        pagemap::PAGE_SIZE,
        proc_files::{self, ADVICE_FLAGS},
    },
};

/// The recorded flags of mmap(2) that are restored.
const MMAP_FLAGS: i32 = libc::MAP_GROWSDOWN | libc::MAP_LOCKED | libc::MAP_NORESERVE;
/// The lowest address for the restorer area (vm.mmap_min_addr).
const MMAP_MIN_ADDR: u64 = 0x1_0000;
const SET_MM: u64 = libc::PR_SET_MM as u64;
const SET_MM_MAP: u64 = libc::PR_SET_MM_MAP as u64;
const PAGES_CHUNK_BYTES: u64 = 1 << 20;
/// The most bytes of an environment that are searched for the container id.
const MAX_ENVIRON_BYTES: u64 = 4 << 20;

/// The `[vvar]` and `[vdso]` mappings of a process, adjacent, the vdso last.
#[derive(Clone, Debug)]
pub(super) struct VdsoMappings(Vec<Range<u64>>);

impl VdsoMappings {
    fn find(tid: Tid) -> Result<Self, RestoreError> {
        let mappings =
            proc_files::maps(tid).map_err(|error| RestoreError::step("read the mappings of a new process", error))?;
        let vdso_mappings = mappings.into_iter().filter(|mapping| {
            let name = mapping.name.to_string_lossy();
            name.starts_with("[vvar") || name == "[vdso]"
        });
        let parts: Vec<_> = vdso_mappings.map(|mapping| mapping.range).collect();
        if parts.len() < 2 || parts.windows(2).any(|pair| pair[0].end != pair[1].start) {
            let detail = "unknown vdso layout: this kernel's [vvar] and [vdso] mappings are missing or not adjacent";
            return Err(RestoreError::MachineMismatch(detail.to_owned()));
        }
        Ok(Self(parts))
    }

    fn range(&self) -> Range<u64> {
        self.0[0].start..self.0[self.0.len() - 1].end
    }

    fn vdso(&self) -> Range<u64> {
        self.0[self.0.len() - 1].clone()
    }

    /// Moves the mappings so that they begin at this address. The old and the new range must not overlap.
    fn move_to(&self, remote: &mut RemoteTask, to: u64) -> Result<Self, RestoreError> {
        let from = self.range().start;
        let mut moved_parts = Vec::with_capacity(self.0.len());
        for part in &self.0 {
            let length = part.end - part.start;
            let target = to + (part.start - from);
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            let arguments = [part.start, length, length, flags, target];
            remote.call("move the vdso", libc::SYS_mremap, arguments)?;
            moved_parts.push(target..target + length);
        }
        Ok(Self(moved_parts))
    }
}

/// Finds an address for the restorer area, followed by the vdso mappings, that no process uses now or after the
/// restore.
pub(super) fn find_restorer_area(plan: &RestorePlan, tid: Tid) -> Result<RestorerArea, RestoreError> {
    let current_mappings =
        proc_files::maps(tid).map_err(|error| RestoreError::step("read the mappings of a new process", error))?;
    let size = RestorerArea::SIZE_BYTES + vdso_size(&VdsoMappings::find(tid)?);
    let mut used_ranges: Vec<_> = plan
        .vma_ranges()
        .chain(current_mappings.into_iter().map(|mapping| mapping.range))
        .collect();
    used_ranges.sort_by_key(|range| range.start);
    let mut address = MMAP_MIN_ADDR;
    for range in used_ranges {
        // A free page on either side keeps the kernel from merging the area with another mapping.
        if range.start >= address + size + PAGE_SIZE {
            break;
        }
        address = address.max(range.end + PAGE_SIZE);
    }
    Ok(RestorerArea::at_address(address))
}

fn vdso_size(pages: &VdsoMappings) -> u64 {
    let Range { start, end } = pages.range();
    end - start
}

/// Unmaps everything except the restorer area and the vdso mappings, which are moved to the end of the area.
pub(super) fn unmap_all(remote: &mut RemoteTask, area: RestorerArea) -> Result<VdsoMappings, RestoreError> {
    let pages = VdsoMappings::find(remote.tid)?.move_to(remote, area.range().end)?;
    let mappings = proc_files::maps(remote.tid)
        .map_err(|error| RestoreError::step("read the mappings of a new process", error))?;
    for mapping in mappings {
        let Range { start, end } = mapping.range;
        let is_kept = area.range().contains(&start) || pages.range().contains(&start);
        if !is_kept && mapping.name.as_os_str() != "[vsyscall]" {
            remote.call("unmap", libc::SYS_munmap, [start, end - start])?;
        }
    }
    Ok(pages)
}

/// Restores the address space of a process whose memory was unmapped.
pub(super) fn restore_mm(
    remote: &mut RemoteTask,
    plan: &RestorePlan,
    live: &LiveTask,
    open_files: &OpenFiles,
    own_vdso: &VdsoMappings,
) -> Result<(), RestoreError> {
    // Must precede the mappings: the kernel refuses to change the executable while the old one is mapped (prctl(2)),
    // and a recorded VMA may map the old one again, because the container may run the same file as the shim.
    set_mm_map(remote, &live.mm, open_files)?;
    place_vdso(remote, plan, live, own_vdso)?;
    for vma in &live.mm.vmas {
        if vma.status & (status::VDSO | status::VVAR) == 0 {
            map_vma(remote, vma, open_files)?;
        }
    }
    let mut buffer = vec![0; PAGES_CHUNK_BYTES as usize];
    let mut from = 0;
    // Runs and mappings are sorted by address, so each list is traversed once.
    let mut vdsos = live
        .mm
        .vmas
        .iter()
        .filter(|vma| vma.status & status::VDSO != 0)
        .peekable();
    for run in &live.pages.runs {
        let mut address = run.start;
        while address < run.end {
            while vdsos.next_if(|vdso| vdso.end <= address).is_some() {}
            // A run may span several mappings, also a vdso, which is already in place.
            let vdso = vdsos.peek().map_or(u64::MAX..u64::MAX, |vdso| vdso.start..vdso.end);
            let skip = vdso.contains(&address);
            let border = if skip { vdso.end } else { vdso.start };
            let mut length = run.end.min(border) - address;
            if !skip {
                length = length.min(PAGES_CHUNK_BYTES);
                let part = &mut buffer[..length as usize];
                plan.images.read_pages(live.pages.file, from, part)?;
                remote.write(address, part)?;
            }
            address += length;
            from += length;
        }
    }
    Ok(())
}

/// Sets the addresses of code, data, heap, stack, arguments and environment, the auxiliary vector and the executable.
fn set_mm_map(remote: &mut RemoteTask, mm: &MmEntry, open_files: &OpenFiles) -> Result<(), RestoreError> {
    /// `struct prctl_mm_map` in words.
    const WORDS: usize = 13;
    let auxv_bytes = 8 * mm.mm_saved_auxv.len() as u64;
    // Written once to learn the address.
    let auxv_address = remote.write_data(&[])? + 8 * WORDS as u64;
    let mut words = vec![
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        auxv_address,
        auxv_bytes | open_files.fd(mm.exe_file_id) << 32,
    ];
    words.extend(&mm.mm_saved_auxv);
    let map = remote.write_words(&words)?;
    let arguments = [SET_MM, SET_MM_MAP, map, 8 * WORDS as u64];
    remote.call("set the memory layout (PR_SET_MM_MAP)", libc::SYS_prctl, arguments)?;
    if mm.thp_disabled == Some(true) {
        let arguments = [libc::PR_SET_THP_DISABLE as u64, 1];
        remote.call("disable transparent huge pages", libc::SYS_prctl, arguments)?;
    }
    Ok(())
}

/// Moves the vdso mappings to the recorded address, or unmaps them if the process had none.
fn place_vdso(
    remote: &mut RemoteTask,
    plan: &RestorePlan,
    live: &LiveTask,
    own_vdso: &VdsoMappings,
) -> Result<(), RestoreError> {
    let read = |remote: &mut RemoteTask, range| remote.read(range);
    let Some(vvar) = check_vdso(plan, live, own_vdso, |range| read(remote, range))? else {
        let Range { start, end } = own_vdso.range();
        return remote
            .call("unmap the vdso", libc::SYS_munmap, [start, end - start])
            .map(drop);
    };
    own_vdso.move_to(remote, vvar.start).map(drop)
}

/// Checks that the recorded vdso of a process is this kernel's, whose pages `read` returns. Returns the recorded
/// `[vvar]`, or `None` for a process without a vdso.
fn check_vdso<'a>(
    plan: &RestorePlan,
    live: &'a LiveTask,
    own_vdso: &VdsoMappings,
    mut read: impl FnMut(Range<u64>) -> Result<Vec<u8>, RestoreError>,
) -> Result<Option<&'a VmaEntry>, RestoreError> {
    let find_vma = |kind| live.mm.vmas.iter().find(|vma| vma.status & kind != 0);
    let mismatch =
        |detail: &str| RestoreError::MachineMismatch(format!("the archive was made under another kernel: {detail}"));
    let (vvar, vdso) = match (find_vma(status::VVAR), find_vma(status::VDSO)) {
        (None, None) => return Ok(None),
        (Some(vvar), Some(vdso)) => (vvar, vdso),
        _ => return Err(mismatch("only one of [vvar] and [vdso] is recorded")),
    };
    if vvar.end != vdso.start
        || vdso.end - vvar.start != vdso_size(own_vdso)
        || vdso.start - vvar.start != own_vdso.vdso().start - own_vdso.range().start
    {
        return Err(mismatch("the size of its vdso differs"));
    }
    let mut from = 0;
    for run in &live.pages.runs {
        let start = run.start.max(vdso.start);
        let end = run.end.min(vdso.end);
        if start < end {
            let mut bytes = vec![0; (end - start) as usize];
            plan.images
                .read_pages(live.pages.file, from + (start - run.start), &mut bytes)?;
            let address = own_vdso.vdso().start + (start - vdso.start);
            if read(address..address + (end - start))? != bytes {
                return Err(mismatch("the code of its vdso differs"));
            }
        }
        from += run.end - run.start;
    }
    Ok(Some(vvar))
}

/// Checks that the vdso of every process is this kernel's.
pub(super) fn check_vdso_of_kernel(plan: &RestorePlan) -> Result<(), RestoreError> {
    let own_tid = Tid::current();
    let own_vdso = VdsoMappings::find(own_tid)?;
    let mut memory = ProcMem::new(own_tid);
    for task in &plan.tasks {
        plan.images.cancel.check()?;
        let Some(live) = &task.live else { continue };
        let checked = check_vdso(plan, live, &own_vdso, |range| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            memory
                .read(std::slice::from_ref(&range), &mut bytes, |_| {})
                .map_err(|error| RestoreError::step("read this kernel's vdso", error))?;
            Ok(bytes)
        });
        checked.map_err(|error| error.context(format_args!("process {}", task.ns_pid())))?;
    }
    Ok(())
}

/// Maps one VMA, without its pages.
fn map_vma(remote: &mut RemoteTask, vma: &VmaEntry, open_files: &OpenFiles) -> Result<(), RestoreError> {
    let VmaEntry { start, end, .. } = *vma;
    let droppable = vma.flags & MAP_DROPPABLE != 0 && vma.status & status::ANON_PRIVATE != 0;
    let (kind, file, offset) = if vma.status & status::ANON_SHARED != 0 {
        (libc::MAP_SHARED, open_files.shmem_fd(vma.shmid), vma.pgoff)
    } else if vma.status & status::FILE_SHARED != 0 {
        (libc::MAP_SHARED, open_files.fd(vma.shmid as u32), vma.pgoff)
    } else if vma.status & status::FILE_PRIVATE != 0 {
        (libc::MAP_PRIVATE, open_files.fd(vma.shmid as u32), vma.pgoff)
    } else if droppable {
        (libc::MAP_ANONYMOUS | MAP_DROPPABLE.cast_signed(), u64::MAX, 0)
    } else {
        (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE, u64::MAX, 0)
    };
    let flags = vma.flags.cast_signed() & MMAP_FLAGS | kind | libc::MAP_FIXED_NOREPLACE;
    let arguments = [start, end - start, vma.prot.into(), flags as u64, file, offset];
    remote.call(format!("map {start:x}-{end:x}"), libc::SYS_mmap, arguments)?;
    // MAP_DROPPABLE implies its advice: wipe-on-fork and no dump.
    for (_, advice) in ADVICE_FLAGS.into_iter().filter(|_| !droppable) {
        if vma.madv.is_some_and(|madv| madv & 1 << advice != 0) {
            let arguments = [start, end - start, advice as u64];
            remote.call(format!("advise {start:x}-{end:x}"), libc::SYS_madvise, arguments)?;
        }
    }
    Ok(())
}

/// Replaces the old container id in the environment, so that orphans of the old container are not taken for the new
/// one's.
pub(super) fn rewrite_container_id(
    remote: &mut RemoteTask,
    mm: &MmEntry,
    container_id: &str,
) -> Result<(), RestoreError> {
    let length = mm.mm_env_end.saturating_sub(mm.mm_env_start).min(MAX_ENVIRON_BYTES);
    let range = mm.mm_env_start..mm.mm_env_start + length;
    let mapped =
        |vma: &VmaEntry| vma.status & status::ANON_PRIVATE != 0 && vma.start <= range.start && range.end <= vma.end;
    if length == 0 || !mm.vmas.iter().any(mapped) {
        return Ok(());
    }
    let environment = remote.read(range.clone())?;
    let prefix = format!("{CONTAINER_ID_ENV}=");
    let mut address = range.start;
    for variable in environment.split(|byte| *byte == 0) {
        if variable.starts_with(prefix.as_bytes()) && variable.len() == prefix.len() + container_id.len() {
            remote.write(address + prefix.len() as u64, container_id.as_bytes())?;
        }
        address += variable.len() as u64 + 1;
    }
    Ok(())
}
