//! `mm-PID.img`, `pagemap-PID.img` and the plan of `pages-N.img`: an address space and its pages.
//!
//! ```text
//!   while the process is frozen       its mappings; the vmas that fork does not preserve, and their private pages
//!   from the process or a snapshot    the page maps of all other mappings
//!   from a snapshot, after the dump   the flags of these mappings ([`super::verify_flags`])
//! ```
//!
//! Dumped are the pages of private mappings that are in memory or in swap and belong to the process. Not dumped are
//! clean pages of a private file mapping (the file holds them), the kernel's zero page, guard pages, and mappings of
//! the kernel except the vdso, whose pages CRIU compares. Shared anonymous memory is dumped by [`super::shmem`].

use std::{collections::BTreeMap, io, ops::Range, thread};

use cri_proto::criu::{
    Kind, MAX_AUXV_WORDS,
    message::{MmEntry, VmaEntry},
    pages_file_name, vma_status as status,
};

use super::{
    ImageSetBuilder,
    context::TaskCtx,
    files::Files,
    fork_state::ForkState,
    pagemap::pagemap_image,
    pstree::PstreeNode,
    shmem::SharedSegments,
    unsupported,
    verify_flags::{DeferredMm, FlaggedMappings},
    vma::{open_flags_of, vma_entry},
};
use crate::{
    checkpoint::{
        dump_log::DumpLog,
        error::Error,
        pages::{PageRun, PagesFile},
        snapshot::Prescan,
    },
    process::{
        NsPid, ProcessId, Tid,
        pagemap::{PAGE_SIZE, PageMap, PageRegion, TASK_SIZE},
        proc_files::{self, Mapping},
        remote_syscalls::SyscallInsn,
    },
};

/// The smallest amount of mapped memory for which a second thread scans.
const PARALLEL_SCAN_MIN_BYTES: u64 = 16 << 20;
/// The stack size of the second thread. Its results are on the heap.
const SCAN_STACK_BYTES: usize = 128 << 10;

/// The address space of a frozen process.
#[derive(Debug)]
pub(crate) struct Mm {
    pub(crate) process: ProcessId,
    pub(crate) proc_tid: Tid,
    /// The pid in the images.
    ns_pid: NsPid,
    /// A syscall instruction for remote syscalls; `None` if the process cannot execute them.
    pub(crate) syscall_insn: Option<SyscallInsn>,
    mappings: Vec<Mapping>,
    /// Whether the flags were read during the freeze. Otherwise they come from the prescan.
    flags_verified: bool,
    /// The vmas of mappings that fork does not preserve, by their start address. `None`: no image can hold the mapping.
    not_forked_vmas: BTreeMap<u64, Option<VmaEntry>>,
    /// The private pages of these mappings.
    not_forked_runs: Vec<PageRun>,
}

impl Mm {
    /// Scans the mappings of a frozen process. Their flags come from the prescan if possible. Otherwise they are read
    /// here, which takes about as long as a fork.
    pub(super) fn scan_frozen(
        task: &mut TaskCtx<'_>,
        node: &PstreeNode<'_>,
        prescan: Option<&Prescan>,
        images: &mut ImageSetBuilder,
        files: &mut Files,
        shared: &mut SharedSegments,
    ) -> Result<Self, Error> {
        let (process, proc_tid) = (node.process.id, task.proc_tid);
        let maps = proc_files::maps(proc_tid).map_err(task.error("mappings"))?;
        let locked = node.status(proc_tid).and_then(|status| status.value("VmLck:"));
        let prescanned = prescan.and_then(|prescan| prescan.flags_for(process, locked, &maps));
        let flags_verified = prescanned.is_none();
        let mappings = match prescanned {
            Some(mappings) => mappings,
            None => proc_files::smaps(proc_tid).map_err(task.error("mappings"))?,
        };
        let mut mm = Self {
            process,
            proc_tid,
            ns_pid: node.ns_pid(),
            syscall_insn: SyscallInsn::find_in_mappings(proc_tid, &maps).ok(),
            mappings,
            flags_verified,
            not_forked_vmas: BTreeMap::new(),
            not_forked_runs: Vec::new(),
        };
        for mapping in &mm.mappings {
            if has_userfaultfd(mapping) {
                images.userfaultfd_pid = Some(process.pid);
            }
            if !is_not_forked(mapping) {
                if proc_files::split_deleted(&mapping.name).1 {
                    // Another process that has the deleted file open could change it after the thaw, so it is copied
                    // now.
                    files.mapped_file(task, mapping, open_flags_of(proc_tid, mapping));
                }
                continue;
            }
            let vma = vma_entry(task, mapping, files);
            if let Some(vma) = &vma {
                if vma.status & status::ANON_SHARED != 0 {
                    shared.add(process.pid, proc_tid, mapping, vma.shmid);
                } else if is_dumped(vma) {
                    let dumped = [(mapping.range.clone(), vma.status)];
                    let regions = page_regions(proc_tid, &mapping.range).map_err(task.error("page map"))?;
                    mm.not_forked_runs
                        .extend(page_runs(task, &dumped, true, &regions, images));
                }
            }
            mm.not_forked_vmas.insert(mapping.range.start, vma);
        }
        Ok(mm)
    }

    pub(crate) fn shared_ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        let shared = self.mappings.iter().filter(|mapping| mapping.shared);
        shared.map(|mapping| &mapping.range)
    }

    pub(crate) fn not_forked_runs(&self) -> &[PageRun] {
        &self.not_forked_runs
    }

    /// Dumps the remaining mappings through a thread of the frozen process or through its snapshot. `mm-PID.img` is
    /// deferred until after the pages, because flags from the prescan must first be verified in the snapshot.
    pub(super) fn finish(
        mut self,
        source_tid: Tid,
        fork_state: Option<&ForkState>,
        images: &mut ImageSetBuilder,
        files: &mut Files,
        log: &mut DumpLog,
    ) -> Result<DeferredMm, Error> {
        let pid = self.process.pid;
        if source_tid == self.proc_tid {
            self.read_flags()?;
        }
        let regions = self.scan_regions(source_tid)?;
        let mut original = TaskCtx::new(pid, self.proc_tid, log);
        let mut source = original.through(source_tid);
        unsupported::report_memory_policy(&mut source);
        let mut vmas: Vec<VmaEntry> = Vec::with_capacity(self.mappings.len());
        let mut dumped = Vec::with_capacity(self.mappings.len());
        let mut unverified = Vec::new();
        for mapping in &self.mappings {
            let not_forked_vma = self.not_forked_vmas.remove(&mapping.range.start);
            let is_forked = not_forked_vma.is_none();
            if is_forked && !self.flags_verified {
                unverified.push(mapping.clone());
            }
            let vma = match not_forked_vma {
                Some(vma) => vma,
                None => vma_entry(&mut source, mapping, files),
            };
            let Some(vma) = vma else {
                continue;
            };
            if let Some(last) = vmas.last_mut()
                && last.status & vma.status & status::VVAR != 0
                && last.end == vma.start
            {
                // The kernel shows its time pages as two mappings (`[vvar]`, `[vvar_vclock]`); CRIU has one.
                last.end = vma.end;
                continue;
            }
            if is_forked && is_dumped(&vma) {
                dumped.push((mapping.range.clone(), vma.status));
            }
            vmas.push(vma);
        }
        let mut runs = page_runs(&mut original, &dumped, false, &regions, images);
        runs.append(&mut self.not_forked_runs);
        runs.sort_by_key(|run| run.range.start);

        let id = u64::from(self.ns_pid);
        let source = &mut original.through(source_tid);
        let entry = mm_entry(source, fork_state, &self.mappings, vmas, files)?;
        let pages_id = images.next_pages_id();
        images.push(
            Kind::Pagemap.file_name(id),
            pagemap_image(pages_id, runs.iter().map(|run| run.range.clone())),
        );
        images.pages.push(PagesFile {
            name: pages_file_name(pages_id),
            shared: false,
            runs,
            mapped_file: None,
        });
        Ok(DeferredMm {
            pid,
            proc_tid: self.proc_tid,
            id,
            entry,
            mappings: unverified,
        })
    }

    /// Scans the page map of the mappings that fork preserves. The kernel walks all pages, so two threads scan a large
    /// process at once.
    fn scan_regions(&self, source_tid: Tid) -> Result<Vec<PageRegion>, Error> {
        let forked = |mapping: &&Mapping| {
            mapping.range.end <= TASK_SIZE && !self.not_forked_vmas.contains_key(&mapping.range.start)
        };
        let forked: Vec<_> = self
            .mappings
            .iter()
            .filter(forked)
            .map(|mapping| &mapping.range)
            .collect();
        let (Some(first), Some(last)) = (forked.first(), forked.last()) else {
            return Ok(Vec::new());
        };
        let midpoint = midpoint(&forked);
        let (lower, upper) = (first.start..midpoint, midpoint..last.end);
        let regions = thread::scope(|scope| {
            let upper_scan = (forked.iter().map(|range| range.end - range.start).sum::<u64>()
                >= PARALLEL_SCAN_MIN_BYTES)
                .then(|| {
                    let builder = thread::Builder::new()
                        .name("page map".to_owned())
                        .stack_size(SCAN_STACK_BYTES);
                    builder.spawn_scoped(scope, || page_regions(source_tid, &upper))
                });
            let lower_regions = page_regions(source_tid, &lower);
            let upper_regions = match upper_scan {
                // If the second thread could not be started, this thread scans both halves.
                None | Some(Err(_)) => page_regions(source_tid, &upper),
                Some(Ok(walk)) => walk.join().map_err(|_| Error::TracerPanicked)?,
            };
            Ok(lower_regions.and_then(|mut regions| {
                regions.extend(upper_regions?);
                Ok(regions)
            }))
        })?;
        regions.map_err(|error| Error::capture(self.process.pid, "page map", error))
    }

    /// Replaces flags from the prescan by the flags of the process itself, for the mappings that fork preserves.
    fn read_flags(&mut self) -> Result<(), Error> {
        if self.flags_verified {
            return Ok(());
        }
        let current_mappings = FlaggedMappings::read(self.process.pid, self.proc_tid)?;
        for mapping in &mut self.mappings {
            if !self.not_forked_vmas.contains_key(&mapping.range.start) {
                let current = current_mappings
                    .find(mapping)
                    .ok_or_else(|| current_mappings.flag_mismatch(mapping))?;
                mapping.flags.clone_from(&current.flags);
                mapping.protection_key = current.protection_key;
            }
        }
        self.flags_verified = true;
        Ok(())
    }
}

/// The page-aligned address below which half of the mapped bytes are.
fn midpoint(ranges: &[&Range<u64>]) -> u64 {
    let mut remaining = ranges.iter().map(|range| range.end - range.start).sum::<u64>() / 2;
    for range in ranges {
        let bytes = range.end - range.start;
        if remaining <= bytes {
            return range.start + remaining / PAGE_SIZE * PAGE_SIZE;
        }
        remaining -= bytes;
    }
    ranges.last().map_or(0, |range| range.end)
}

/// Whether pages of this mapping are written to the process's pages file.
fn is_dumped(vma: &VmaEntry) -> bool {
    vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0
        && vma.status & (status::VSYSCALL | status::VVAR) == 0
        && vma.end <= TASK_SIZE
}

/// Whether a child that fork(2) makes would not have or not keep the pages of the mapping: shared memory,
/// `MADV_DONTFORK`, `MADV_WIPEONFORK`, `MAP_DROPPABLE`, and hugetlbfs pages, which the kernel takes from the child if
/// the original writes and no huge page is free.
fn is_not_forked(mapping: &Mapping) -> bool {
    mapping.shared
        || [b"dc", b"wf", b"dp", b"ht"]
            .into_iter()
            .any(|flag| mapping.has_flag(flag))
}

/// Whether the program handles page faults of the mapping with userfaultfd.
fn has_userfaultfd(mapping: &Mapping) -> bool {
    [b"um", b"uw", b"ui"].into_iter().any(|flag| mapping.has_flag(flag))
}

/// The present regions of a part of an address space.
fn page_regions(source_tid: Tid, span: &Range<u64>) -> io::Result<Vec<PageRegion>> {
    let mut regions = Vec::new();
    PageMap::open(source_tid)?.scan(span.clone(), |region| regions.push(region))?;
    Ok(regions)
}

/// The pages of the mappings to dump, as runs of the process. Mappings and regions are in ascending order.
fn page_runs(
    task: &mut TaskCtx<'_>,
    dumped: &[(Range<u64>, u32)],
    not_forked: bool,
    regions: &[PageRegion],
    images: &mut ImageSetBuilder,
) -> Vec<PageRun> {
    let (pid, proc_tid) = (task.pid, task.proc_tid);
    let mut runs: Vec<PageRun> = Vec::new();
    let new_run = |range| PageRun {
        pid,
        proc_tid,
        range,
        not_forked,
    };
    let mut push = |range: Range<u64>| match runs.last_mut() {
        Some(last) if last.range.end == range.start && can_extend_run(last) => last.range.end = range.end,
        _ => runs.push(new_run(range)),
    };
    let mut index = 0;
    let mut guard_pages = 0;
    let mut pages_scanned = 0;
    for region in regions {
        let page_count = |range: &Range<u64>| (range.end - range.start) / PAGE_SIZE;
        while index < dumped.len() && dumped[index].0.end <= region.range.start {
            index += 1;
        }
        // A region may span several mappings, some of them without a vma.
        for (range, kind) in dumped[index..]
            .iter()
            .take_while(|(range, _)| range.start < region.range.end)
        {
            if *kind & status::VDSO != 0 {
                continue;
            }
            let overlap = range.start.max(region.range.start)..range.end.min(region.range.end);
            pages_scanned += page_count(&overlap);
            if region.categories.is_guard() {
                guard_pages += page_count(&overlap);
            } else {
                let is_clean = *kind & status::FILE_PRIVATE != 0 && region.categories.is_file();
                if !is_clean && !region.categories.is_zero() {
                    push(overlap);
                }
            }
        }
    }
    if guard_pages > 0 {
        task.unsupported(format_args!("{guard_pages} guard pages (MADV_GUARD_INSTALL)"));
    }
    // The vdso is dumped in full, because its pages may be missing from the page table.
    for (range, _) in dumped.iter().filter(|(_, kind)| kind & status::VDSO != 0) {
        pages_scanned += (range.end - range.start) / PAGE_SIZE;
        runs.push(new_run(range.clone()));
    }
    images.pages_scanned += pages_scanned;
    runs.sort_by_key(|run| run.range.start);
    runs
}

/// The older of the two page counts in a pagemap entry has 32 bits.
fn can_extend_run(run: &PageRun) -> bool {
    (run.range.end - run.range.start) / PAGE_SIZE < u64::from(u32::MAX / 2)
}

fn mm_entry(
    task: &mut TaskCtx<'_>,
    fork_state: Option<&ForkState>,
    mappings: &[Mapping],
    vmas: Vec<VmaEntry>,
    files: &mut Files,
) -> Result<MmEntry, Error> {
    let proc_tid = task.proc_tid;
    let stat = proc_files::stat(proc_tid).map_err(task.error("stat"))?;
    let start_brk = stat.start_brk.unwrap_or(0);
    // If the process could not be queried, the end of the heap mapping replaces the exact brk.
    let heap_mapping_end = || {
        mappings
            .iter()
            .filter(|mapping| mapping.name.as_os_str() == "[heap]")
            .map(|mapping| mapping.range.end)
            .max()
            .unwrap_or(start_brk as u64)
    };
    let auxv = proc_files::auxv(proc_tid).map_err(task.error("auxv"))?;
    let status = proc_files::status(proc_tid).map_err(task.error("status"))?;
    Ok(MmEntry {
        mm_start_code: stat.startcode,
        mm_end_code: stat.endcode,
        mm_start_data: stat.start_data.unwrap_or(0) as u64,
        mm_end_data: stat.end_data.unwrap_or(0) as u64,
        mm_start_stack: stat.startstack,
        mm_start_brk: start_brk as u64,
        mm_brk: fork_state.map_or_else(heap_mapping_end, |fork_state| fork_state.brk),
        mm_arg_start: stat.arg_start.unwrap_or(0) as u64,
        mm_arg_end: stat.arg_end.unwrap_or(0) as u64,
        mm_env_start: stat.env_start.unwrap_or(0) as u64,
        mm_env_end: stat.env_end.unwrap_or(0) as u64,
        exe_file_id: files.link_file(task, "exe")?,
        mm_saved_auxv: truncate_auxv(task, auxv),
        vmas,
        dumpable: Some(fork_state.map_or(1, |fork_state| fork_state.dumpable)),
        aios: Vec::new(),
        thp_disabled: Some(status.thp_enabled == Some(false)),
    })
}

/// Truncates the auxiliary vector to its AT_NULL entry and to the maximum length in CRIU's images.
fn truncate_auxv(task: &mut TaskCtx<'_>, mut words: Vec<u64>) -> Vec<u64> {
    let end = words.chunks_exact(2).position(|pair| pair[0] == 0);
    words.truncate(end.map_or(words.len(), |pairs| pairs * 2));
    if words.len() > MAX_AUXV_WORDS {
        let rest = words.split_off(MAX_AUXV_WORDS);
        task.unsupported(format_args!("the last {} words of its auxiliary vector", rest.len()));
    }
    // Restorers terminate the vector themselves, so the AT_NULL entry may be missing.
    if words.len() + 2 <= MAX_AUXV_WORDS {
        words.extend([0, 0]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_midpoint_lies_on_a_page_boundary() {
        let page = |pages: u64| pages * PAGE_SIZE;
        let (small, large) = (page(1)..page(2), page(100)..page(110));
        assert_eq!(midpoint(&[&large]), page(105));
        // Half of eleven pages: the small range and 4.5 pages of the large one, rounded down.
        assert_eq!(midpoint(&[&small, &large]), page(104));
        assert_eq!(midpoint(&[&large, &(page(200)..page(210))]), page(110));
        assert_eq!(midpoint(&[&small]), page(1));
    }
}
