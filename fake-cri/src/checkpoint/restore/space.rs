//! An address space: what was there goes, what the image says comes, page by page.
//!
//! The kernel's own pages (`[vvar]`, `[vdso]`) cannot be made, only moved: each new process has them from its parent, beside the
//! stage, and they go where the program knows them. So the archive's vdso must be this kernel's, byte for byte.

use std::ops::Range;

use cri_proto::criu::message::{MmEntry, VmaEntry};

use super::{
    RestoreError,
    files::Sources,
    plan::{Body, Plan},
    puppet::{Puppet, Stage},
};
use crate::{
    checkpoint::capture::vma_status as status,
    process::{memory::Memory, pagemap::PAGE_SIZE, proc},
    shim::MARKER,
};

/// `MAP_DROPPABLE` (linux/mman.h).
const MAP_DROPPABLE: u32 = 0x08;
/// The flags of mmap(2) that a restored mapping has.
const FLAGS: i32 = libc::MAP_GROWSDOWN | libc::MAP_LOCKED | libc::MAP_NORESERVE;
/// The advice of madvise(2) that a restored mapping has.
const ADVICE: [i32; 8] = [
    libc::MADV_SEQUENTIAL,
    libc::MADV_RANDOM,
    libc::MADV_DONTFORK,
    libc::MADV_DONTDUMP,
    libc::MADV_MERGEABLE,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_WIPEONFORK,
];
/// The lowest address that is looked at for the stage (vm.mmap_min_addr).
const LOWEST: u64 = 0x1_0000;
/// `PR_SET_MM_MAP` and the operation it belongs to.
const SET_MM: u64 = libc::PR_SET_MM as u64;
const SET_MM_MAP: u64 = libc::PR_SET_MM_MAP as u64;
/// More words than an auxiliary vector has.
pub(super) const MOST_AUXILIARY: usize = 64;
/// What is copied at once.
const CHUNK: u64 = 1 << 20;
/// How much of an environment is looked through.
const MOST_ENVIRONMENT: u64 = 4 << 20;

/// The kernel's own pages in a process: parts that follow each other, the vdso last.
#[derive(Clone, Debug)]
pub(super) struct KernelPages(Vec<Range<u64>>);

impl KernelPages {
    fn find(tid: i32) -> Result<Self, RestoreError> {
        let mappings = proc::mapping_headings(tid).map_err(|error| RestoreError::step("read new mappings", error))?;
        let own = mappings.into_iter().filter(|mapping| {
            let name = mapping.name.to_string_lossy();
            name.starts_with("[vvar") || name == "[vdso]"
        });
        let parts: Vec<_> = own.map(|mapping| mapping.range).collect();
        if parts.len() < 2 || parts.windows(2).any(|pair| pair[0].end != pair[1].start) {
            let what = "this kernel has its vdso in a way that is not known here";
            return Err(RestoreError::Machine(what.to_owned()));
        }
        Ok(Self(parts))
    }

    fn whole(&self) -> Range<u64> {
        self.0[0].start..self.0[self.0.len() - 1].end
    }

    fn vdso(&self) -> Range<u64> {
        self.0[self.0.len() - 1].clone()
    }

    /// Moves them to where they begin at this address; the two places must not overlap.
    fn moved(&self, puppet: &mut Puppet, to: u64) -> Result<Self, RestoreError> {
        let from = self.whole().start;
        let mut moved = Vec::with_capacity(self.0.len());
        for part in &self.0 {
            let length = part.end - part.start;
            let target = to + (part.start - from);
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            let arguments = [part.start, length, length, flags, target, 0];
            puppet.call("move the vdso", libc::SYS_mremap, arguments)?;
            moved.push(target..target + length);
        }
        Ok(Self(moved))
    }
}

/// Where the stage and, behind it, the kernel's pages can be: where no process has or will have anything.
pub(super) fn find_stage(plan: &Plan, tid: i32) -> Result<Stage, RestoreError> {
    let own = proc::mapping_headings(tid).map_err(|error| RestoreError::step("read new mappings", error))?;
    let size = Stage::SIZE + kernel_size(&KernelPages::find(tid)?);
    let mut taken: Vec<_> = plan
        .ranges()
        .chain(own.into_iter().map(|mapping| mapping.range))
        .collect();
    taken.sort_by_key(|range| range.start);
    let mut at = LOWEST;
    for range in taken {
        // With a page free on either side, nothing is joined to it.
        if range.start >= at + size + PAGE_SIZE {
            break;
        }
        at = at.max(range.end + PAGE_SIZE);
    }
    Ok(Stage::at(at))
}

fn kernel_size(pages: &KernelPages) -> u64 {
    let Range { start, end } = pages.whole();
    end - start
}

/// Takes all memory from a process but the stage and the kernel's pages, which go behind it.
pub(super) fn clear(puppet: &mut Puppet, stage: Stage) -> Result<KernelPages, RestoreError> {
    let pages = KernelPages::find(puppet.tid)?.moved(puppet, stage.range().end)?;
    let mappings =
        proc::mapping_headings(puppet.tid).map_err(|error| RestoreError::step("read new mappings", error))?;
    for mapping in mappings {
        let Range { start, end } = mapping.range;
        let kept = stage.range().contains(&start) || pages.whole().contains(&start);
        if !kept && mapping.name.as_os_str() != "[vsyscall]" {
            puppet.call("unmap", libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
        }
    }
    Ok(pages)
}

/// Fills the address space of a process that was cleared.
pub(super) fn build(
    puppet: &mut Puppet,
    plan: &Plan,
    body: &Body,
    sources: &Sources,
    kernel: &KernelPages,
) -> Result<(), RestoreError> {
    // Before anything is mapped: the executable cannot be changed while the old one is, and it may be the same.
    describe(puppet, &body.mm, sources)?;
    place_kernel_pages(puppet, plan, body, kernel)?;
    for vma in &body.mm.vmas {
        if vma.status & (status::VDSO | status::VVAR) == 0 {
            map(puppet, vma, sources)?;
        }
    }
    let mut buffer = vec![0; CHUNK as usize];
    let mut from = 0;
    // Both are in the order of their addresses, so each is gone through once.
    let mut vdsos = body
        .mm
        .vmas
        .iter()
        .filter(|vma| vma.status & status::VDSO != 0)
        .peekable();
    for run in &body.pages.runs {
        let mut at = run.start;
        while at < run.end {
            while vdsos.next_if(|vdso| vdso.end <= at).is_some() {}
            // A run may reach over several mappings, a vdso among them, which was placed already.
            let vdso = vdsos.peek().map_or(u64::MAX..u64::MAX, |vdso| vdso.start..vdso.end);
            let skip = vdso.contains(&at);
            let border = if skip { vdso.end } else { vdso.start };
            let mut length = run.end.min(border) - at;
            if !skip {
                length = length.min(CHUNK);
                let part = &mut buffer[..length as usize];
                plan.images.read_pages(body.pages.file, from, part)?;
                puppet.write(at, part)?;
            }
            at += length;
            from += length;
        }
    }
    Ok(())
}

/// Where code, data, heap, stack, arguments and environment are, and which file is executed.
fn describe(puppet: &mut Puppet, mm: &MmEntry, sources: &Sources) -> Result<(), RestoreError> {
    /// `struct prctl_mm_map` in words.
    const WORDS: usize = 13;
    let auxiliary_bytes = 8 * mm.mm_saved_auxv.len() as u64;
    // Put once to know the address.
    let auxiliary = puppet.put(&[])? + 8 * WORDS as u64;
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
        auxiliary,
        auxiliary_bytes | sources.number(mm.exe_file_id) << 32,
    ];
    words.extend(&mm.mm_saved_auxv);
    let map = puppet.put_words(&words)?;
    let arguments = [SET_MM, SET_MM_MAP, map, 8 * WORDS as u64, 0, 0];
    puppet.call("describe the memory (PR_SET_MM_MAP)", libc::SYS_prctl, arguments)?;
    if mm.thp_disabled == Some(true) {
        let arguments = [libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0, 0];
        puppet.call("turn huge pages off", libc::SYS_prctl, arguments)?;
    }
    Ok(())
}

/// Moves the kernel's pages to where the program knows them, or takes them away from one that has none.
fn place_kernel_pages(puppet: &mut Puppet, plan: &Plan, body: &Body, kernel: &KernelPages) -> Result<(), RestoreError> {
    let read = |puppet: &mut Puppet, range| puppet.read(range);
    let Some(vvar) = check_vdso(plan, body, kernel, |range| read(puppet, range))? else {
        let Range { start, end } = kernel.whole();
        return puppet
            .call("unmap the vdso", libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])
            .map(drop);
    };
    kernel.moved(puppet, vvar.start).map(drop)
}

/// Whether the vdso of a process is this kernel's, whose pages `read` reads; where it was, for one that has a vdso.
fn check_vdso<'a>(
    plan: &Plan,
    body: &'a Body,
    kernel: &KernelPages,
    mut read: impl FnMut(Range<u64>) -> Result<Vec<u8>, RestoreError>,
) -> Result<Option<&'a VmaEntry>, RestoreError> {
    let of = |kind| body.mm.vmas.iter().find(|vma| vma.status & kind != 0);
    let other = |what: &str| RestoreError::Machine(format!("the archive was made under another kernel: {what}"));
    let (vvar, vdso) = match (of(status::VVAR), of(status::VDSO)) {
        (None, None) => return Ok(None),
        (Some(vvar), Some(vdso)) => (vvar, vdso),
        _ => return Err(other("its vdso is another")),
    };
    if vvar.end != vdso.start
        || vdso.end - vvar.start != kernel_size(kernel)
        || vdso.start - vvar.start != kernel.vdso().start - kernel.whole().start
    {
        return Err(other("its vdso has another size"));
    }
    let mut from = 0;
    for run in &body.pages.runs {
        let start = run.start.max(vdso.start);
        let end = run.end.min(vdso.end);
        if start < end {
            let mut bytes = vec![0; (end - start) as usize];
            plan.images
                .read_pages(body.pages.file, from + (start - run.start), &mut bytes)?;
            let at = kernel.vdso().start + (start - vdso.start);
            if read(at..at + (end - start))? != bytes {
                return Err(other("its vdso has other code"));
            }
        }
        from += run.end - run.start;
    }
    Ok(Some(vvar))
}

/// Whether the archive was made under this kernel, by the vdso of every process.
pub(super) fn check_kernel(plan: &Plan) -> Result<(), RestoreError> {
    let own = std::process::id().cast_signed();
    let kernel = KernelPages::find(own)?;
    let mut memory = Memory::of(own);
    for task in &plan.tasks {
        plan.images.caller.check()?;
        let Some(body) = &task.body else { continue };
        let checked = check_vdso(plan, body, &kernel, |range| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            memory
                .read(std::slice::from_ref(&range), &mut bytes, |_| {})
                .map_err(|error| RestoreError::step("read this kernel's vdso", error))?;
            Ok(bytes)
        });
        checked.map_err(|error| error.of(format_args!("process {}", task.pid())))?;
    }
    Ok(())
}

/// Makes one mapping, empty or of its file.
fn map(puppet: &mut Puppet, vma: &VmaEntry, sources: &Sources) -> Result<(), RestoreError> {
    let VmaEntry { start, end, .. } = *vma;
    let droppable = vma.flags & MAP_DROPPABLE != 0 && vma.status & status::ANON_PRIVATE != 0;
    let (kind, file, offset) = if vma.status & status::ANON_SHARED != 0 {
        (libc::MAP_SHARED, sources.segment(vma.shmid), vma.pgoff)
    } else if vma.status & status::FILE_SHARED != 0 {
        (libc::MAP_SHARED, sources.number(vma.shmid as u32), vma.pgoff)
    } else if vma.status & status::FILE_PRIVATE != 0 {
        (libc::MAP_PRIVATE, sources.number(vma.shmid as u32), vma.pgoff)
    } else if droppable {
        (libc::MAP_ANONYMOUS | MAP_DROPPABLE.cast_signed(), u64::MAX, 0)
    } else {
        (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE, u64::MAX, 0)
    };
    let flags = vma.flags.cast_signed() & FLAGS | kind | libc::MAP_FIXED_NOREPLACE;
    let arguments = [start, end - start, vma.prot.into(), flags as u64, file, offset];
    puppet.call(format!("map {start:x}-{end:x}"), libc::SYS_mmap, arguments)?;
    // Droppable memory has its advice by itself and takes none.
    for advice in ADVICE.into_iter().filter(|_| !droppable) {
        if vma.madv.is_some_and(|given| given & 1 << advice != 0) {
            let arguments = [start, end - start, advice as u64, 0, 0, 0];
            puppet.call(format!("advise {start:x}-{end:x}"), libc::SYS_madvise, arguments)?;
        }
    }
    Ok(())
}

/// Writes the new container's mark over the old one in the environment, so that what the old one leaves is told from this.
pub(super) fn mark(puppet: &mut Puppet, mm: &MmEntry, container: &str) -> Result<(), RestoreError> {
    let length = mm.mm_env_end.saturating_sub(mm.mm_env_start).min(MOST_ENVIRONMENT);
    let range = mm.mm_env_start..mm.mm_env_start + length;
    let mapped =
        |vma: &VmaEntry| vma.status & status::ANON_PRIVATE != 0 && vma.start <= range.start && range.end <= vma.end;
    if length == 0 || !mm.vmas.iter().any(mapped) {
        return Ok(());
    }
    let environment = puppet.read(range.clone())?;
    let prefix = format!("{MARKER}=");
    let mut at = range.start;
    for variable in environment.split(|byte| *byte == 0) {
        if variable.starts_with(prefix.as_bytes()) && variable.len() == prefix.len() + container.len() {
            puppet.write(at + prefix.len() as u64, container.as_bytes())?;
        }
        at += variable.len() as u64 + 1;
    }
    Ok(())
}
