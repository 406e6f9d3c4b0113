//! Of the address spaces: mappings, page maps and the files of pages.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::{MmEntry, VmaEntry, core_entry::March};

use super::preconditions::{
    ArchiveCase, Mappings, Problems, case, ip_and_sp, live_processes, pass_unless, require_complete, require_pagemaps,
    require_process_tree, source,
};
use crate::{
    archive::{Images, InspectedArchive, Pagemap},
    engine::{CaseResult, NonPass, fail, pass},
};

/// The page of x86-64, and the one that page maps of every machine count in unless it is larger.
const PAGE_BYTES: u64 = 4096;
/// `VMA_ANON_PRIVATE` of CRIU's `image.h`.
const VMA_ANON_PRIVATE: u32 = 1 << 9;
/// How many words of the auxiliary vector CRIU keeps.
const MAX_AUXV_WORDS: usize = 44;

const PAGEMAP_SOURCE: &str = "CRIU images/pagemap.proto";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/memory/vmas-ordered",
        Reference,
        "CRIU images/vma.proto",
        "The mappings of an address space are page aligned, in order and do not overlap.",
        "mappings in order",
        |archive| check_each_mm(archive, mapping_problems)
    ),
    case!(
        "archive/memory/mm-fields-ordered",
        Robust,
        "CRIU images/mm.proto",
        "Code, data, heap, arguments and environment of a process lie in order and within its mappings.",
        "bounds in order, within mappings",
        |archive| check_each_mm(archive, mm_layout_problems)
    ),
    case!(
        "archive/memory/auxv",
        Reference,
        "CRIU images/mm.proto, AT_VECTOR_SIZE",
        "The auxiliary vector is made of pairs and no longer than CRIU takes.",
        "at most 44 words, an even number",
        |archive| check_each_mm(archive, |mm| {
            let words = mm.mm_saved_auxv.len();
            (words > MAX_AUXV_WORDS || words % 2 != 0)
                .then(|| format!("{words} words"))
                .into_iter()
                .collect()
        })
    ),
    case!(
        "archive/memory/pages-image-per-pagemap",
        Reference,
        PAGEMAP_SOURCE,
        "Every page map has a file of pages of its own, and every file of pages a page map.",
        "one pages-ID.img for each page map",
        page_files
    ),
    case!(
        "archive/memory/pages-match-pagemap",
        Reference,
        source::PAGE,
        "Every file of pages holds as many pages as its page map says: all memory is there, and nothing else.",
        "size = pages * page size",
        page_counts
    ),
    case!(
        "archive/memory/compressed-blocks-valid",
        Reference,
        "criu#2895",
        "Compressed pages must decompress: every block to exactly the pages that the page map says.",
        "LZ4 blocks of the sizes in the page map",
        page_blocks
    ),
    case!(
        "archive/memory/pagemap-ordered",
        Reference,
        PAGEMAP_SOURCE,
        "The entries of a page map are page aligned, in order, and do not overlap.",
        "entries in order",
        |archive| check_each_pagemap(archive, |map| map.unordered_entry.clone())
    ),
    case!(
        "archive/memory/pagemap-entries-present",
        Reference,
        "CRIU criu/pagemap.c; checkpointctl: go-criu ignores the flags when it computes offsets",
        "Every entry of a page map must have its pages in the file of pages: none in a parent checkpoint, none to be fetched from the source.",
        "the PRESENT flag in each",
        |archive| check_each_pagemap(archive, |map| map.absent_entry.clone())
    ),
    case!(
        "archive/memory/page-count-fields-agree",
        Robust,
        "checkpointctl panics on a page map of another age; CRIU 4.2 changed the field",
        "An entry of a page map says its pages in both fields, so that readers of both ages find them.",
        "nr_pages = compat_nr_pages",
        |archive| check_each_pagemap(archive, |map| map.count_mismatch.clone())
    ),
    case!(
        "archive/memory/pages-within-vmas",
        Reference,
        "CRIU criu/pagemap.c",
        "Every page lies within a mapping of its process.",
        "pages within mappings",
        page_mapped
    ),
    case!(
        "archive/memory/thread-stacks",
        Reference,
        source::PAGE,
        "The stack of every thread is in the archive.",
        "pages in the mapping of each stack pointer",
        stack_pages
    ),
    case!(
        "archive/memory/vdso",
        Reference,
        "CRIU criu/vdso.c: a restore compares the code with its own",
        "The pages of a process's vdso are in the archive.",
        "the pages of each vdso mapping",
        vdso_pages
    ),
    case!(
        "archive/memory/single-vvar",
        Reference,
        "CRIU criu/proc_parse.c: [vvar_vclock] is a part of [vvar]",
        "A process has one mapping of the kernel's time pages, though newer kernels show two.",
        "one vvar mapping in an address space",
        single_vvar
    ),
    case!(
        "archive/memory/shared-memory",
        Reference,
        "CRIU criu/shmem.c",
        "Memory that processes share has a page map of its own.",
        "pagemap-shmem-ID.img for each id",
        shared_memory_pagemaps
    ),
    case!(
        "archive/memory/arguments",
        Reference,
        "checkpointctl --ps-tree-cmd",
        "The arguments that every process was started with are in the archive.",
        "the pages at arg_start",
        argument_pages
    ),
    case!(
        "archive/memory/expected-bytes",
        Reference,
        source::PAGE,
        "What stood in the memory of the container stands in the pages of the archive.",
        "the expected bytes in a file of pages",
        |archive| {
            require_complete(archive)?;
            if archive.members.is_empty() {
                return Err(NonPass::Blocked("archive/tar/not-empty"));
            }
            match &archive.memory {
                Some(None)
                    if !archive
                        .images
                        .unread_pages
                        .is_disjoint(&compressed_pages_ids(&archive.images)) =>
                {
                    Err(NonPass::Skip(
                        "compressed pages of a stream stood before their page map".to_owned(),
                    ))
                }
                None => Err(NonPass::Skip("no bytes of the container's memory are known".to_owned())),
                Some(Some(page_match)) => pass(format!("{} at byte {}", page_match.member, page_match.offset)),
                Some(None) => fail("not in any file of pages"),
            }
        }
    ),
];

fn check_each_mm(archive: &InspectedArchive, find_problems: fn(&MmEntry) -> Vec<String>) -> CaseResult {
    let images = require_process_tree(archive)?;
    if images.mms.is_empty() {
        return Err(NonPass::Blocked("archive/processes/mm-images"));
    }
    let problems = images.mms.iter().flat_map(|(pid, mm)| {
        find_problems(mm)
            .into_iter()
            .map(move |problem| format!("mm-{pid}.img: {problem}"))
    });
    pass_unless(problems, format!("{} address spaces", images.mms.len()))
}

fn check_each_pagemap(archive: &InspectedArchive, find_problems: fn(&Pagemap) -> Option<String>) -> CaseResult {
    let images = require_pagemaps(archive)?;
    let private = images
        .pagemaps
        .iter()
        .map(|(pid, map)| (format!("pagemap-{pid}.img"), map));
    let shared = images
        .shared_pagemaps
        .iter()
        .map(|(id, map)| (format!("pagemap-shmem-{id}.img"), map));
    let problems = private
        .chain(shared)
        .filter_map(|(name, map)| Some(format!("{name}: {}", find_problems(map)?)));
    pass_unless(
        problems,
        format!("{} page maps", images.pagemaps.len() + images.shared_pagemaps.len()),
    )
}

/// How many complaints about one address space are made.
const MAX_PROBLEMS_PER_MM: usize = 4;

fn mapping_problems(mm: &MmEntry) -> Vec<String> {
    let misaligned = |vma: &&VmaEntry| {
        vma.start >= vma.end || !vma.start.is_multiple_of(PAGE_BYTES) || !vma.end.is_multiple_of(PAGE_BYTES)
    };
    let misaligned = mm.vmas.iter().filter(misaligned);
    let mut problems: Vec<_> = misaligned
        .map(|vma| format!("mapping {:#x}-{:#x}", vma.start, vma.end))
        .take(MAX_PROBLEMS_PER_MM)
        .collect();
    let pairs = mm.vmas.windows(2).filter(|pair| pair[1].start < pair[0].end);
    let pairs = pairs.map(|pair| format!("mapping at {:#x} before the end of the one before it", pair[1].start));
    problems.extend(pairs.take(MAX_PROBLEMS_PER_MM));
    if mm.vmas.is_empty() {
        problems.push("no mapping".to_owned());
    }
    problems
}

fn mm_layout_problems(mm: &MmEntry) -> Vec<String> {
    let ranges = [
        ("code", mm.mm_start_code, mm.mm_end_code),
        ("data", mm.mm_start_data, mm.mm_end_data),
        ("heap", mm.mm_start_brk, mm.mm_brk),
        ("arguments", mm.mm_arg_start, mm.mm_arg_end),
        ("environment", mm.mm_env_start, mm.mm_env_end),
    ];
    let mapped = |address: u64| mm.vmas.iter().any(|vma| vma.start <= address && address < vma.end);
    let mut problems: Vec<_> = ranges
        .iter()
        .filter(|(_, start, end)| start > end)
        .map(|(name, start, end)| format!("{name} from {start:#x} to {end:#x}"))
        .collect();
    // A process may unmap its program, but its stack is where its arguments are.
    let ends = [
        ("arguments", mm.mm_arg_start),
        ("environment", mm.mm_env_start),
        ("stack", mm.mm_start_stack),
    ];
    problems.extend(
        ends.iter()
            .filter(|(_, at)| !mapped(*at))
            .map(|(name, at)| format!("{name} at {at:#x}, unmapped")),
    );
    problems
}

/// How large a page is: of aarch64 the archive does not say it, but the sizes of its files do.
fn page_size(images: &Images) -> u64 {
    let arm = images
        .cores
        .values()
        .any(|core| core.mtype == i32::from(March::Aarch64));
    let fits = |size: &u64| {
        let mut maps = images.pagemaps.values().chain(images.shared_pagemaps.values());
        maps.all(|map| {
            images
                .pages_file_bytes
                .get(&map.pages_id)
                .is_none_or(|bytes| Some(*bytes) == map.stored_bytes(*size))
        })
    };
    [PAGE_BYTES, 4 * PAGE_BYTES, 16 * PAGE_BYTES]
        .into_iter()
        .take(if arm { 3 } else { 1 })
        .find(fits)
        .unwrap_or(PAGE_BYTES)
}

pub(super) fn page_files(archive: &InspectedArchive) -> CaseResult {
    let images = require_pagemaps(archive)?;
    let mut owners = BTreeMap::<u32, usize>::new();
    let mut problems = Problems::default();
    for map in images.pagemaps.values().chain(images.shared_pagemaps.values()) {
        *owners.entry(map.pages_id).or_default() += 1;
        if map.present_pages > 0 && !images.pages_file_bytes.contains_key(&map.pages_id) {
            problems.add(|| format!("no pages-{}.img", map.pages_id));
        }
    }
    for (id, maps) in owners.iter().filter(|(_, maps)| **maps > 1) {
        problems.add(|| format!("pages-{id}.img of {maps} page maps"));
    }
    for id in images.pages_file_bytes.keys().filter(|id| !owners.contains_key(id)) {
        problems.add(|| format!("pages-{id}.img of no page map"));
    }
    problems.into_result(format!("{} files of pages", images.pages_file_bytes.len()))
}

/// The ids of files of pages that are compressed.
fn compressed_pages_ids(images: &Images) -> BTreeSet<u32> {
    images.compressed_pagemaps().map(|(id, _)| id).collect()
}

/// The one page map of each file of pages; where there are several, `pages-image-per-pagemap` says so.
fn pagemap_by_pages_id(images: &Images) -> BTreeMap<u32, Option<&Pagemap>> {
    let mut owners = BTreeMap::new();
    for map in images.pagemaps.values().chain(images.shared_pagemaps.values()) {
        let several = owners.contains_key(&map.pages_id);
        owners.insert(map.pages_id, (!several).then_some(map));
    }
    owners
}

fn page_blocks(archive: &InspectedArchive) -> CaseResult {
    let images = require_pagemaps(archive)?;
    let maps: Vec<_> = images.compressed_pagemaps().collect();
    if maps.is_empty() {
        return Err(NonPass::Skip("no page is compressed".to_owned()));
    }
    let mut problems = Problems::default();
    for (id, map) in &maps {
        if let Some(error) = &map.invalid_blocks {
            problems.add(|| format!("the page map of pages-{id}.img: {error}"));
        }
    }
    if images.corrupt_blocks.count > 0 {
        problems.add(|| images.corrupt_blocks.summary());
    }
    problems.into_result(format!("{} files of pages, compressed by LZ4", maps.len()))
}

pub(super) fn page_counts(archive: &InspectedArchive) -> CaseResult {
    let images = require_pagemaps(archive)?;
    let size = page_size(images);
    let expected = pagemap_by_pages_id(images);
    if images
        .compressed_pagemaps()
        .any(|(_, map)| map.invalid_blocks.is_some())
    {
        return Err(NonPass::Blocked("archive/memory/compressed-blocks-valid"));
    }
    let problems = expected.iter().filter_map(|(id, map)| {
        let (bytes, map) = (*images.pages_file_bytes.get(id)?, (*map)?);
        let stored = map.stored_bytes(size);
        (Some(bytes) != stored).then(|| match (map.compressed, stored) {
            (true, Some(stored)) => format!("pages-{id}.img has {bytes} bytes for {stored} compressed ones"),
            _ => format!("pages-{id}.img has {bytes} bytes for {} pages", map.present_pages),
        })
    });
    let total = images
        .pages_file_bytes
        .values()
        .fold(0_u64, |total, bytes| total.saturating_add(*bytes));
    let ids: BTreeSet<_> = expected.keys().collect();
    pass_unless(problems, format!("{total} bytes in {} files", ids.len()))
}

fn page_mapped(archive: &InspectedArchive) -> CaseResult {
    let images = require_pagemaps(archive)?;
    // A page map that says wrong numbers says wrong places.
    if page_counts(archive).is_err() {
        return Err(NonPass::Blocked("archive/memory/pages-match-pagemap"));
    }
    let size = page_size(images);
    let mut problems = Problems::default();
    for (pid, map) in &images.pagemaps {
        let Some(mm) = images.mms.get(pid) else {
            continue;
        };
        // Mappings in order are judged elsewhere; here any order will do.
        let mut vmas: Vec<_> = mm.vmas.iter().map(|vma| (vma.start, vma.end)).collect();
        vmas.sort_unstable();
        for run in &map.ranges {
            let end = run.start.saturating_add(run.pages.saturating_mul(size));
            let mut covered = run.start;
            let first = vmas.partition_point(|(_, end)| *end <= run.start);
            for (start, stop) in &vmas[first..] {
                if *start > covered || covered >= end {
                    break;
                }
                covered = covered.max(*stop);
            }
            if covered < end {
                problems.add(|| format!("pagemap-{pid}.img: nothing is mapped at {covered:#x}"));
            }
        }
    }
    problems.into_result(format!("{} page maps", images.pagemaps.len()))
}

/// The page maps, all of whose pages are in the archive.
fn require_present_pages(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_pagemaps(archive)?;
    match images.pagemaps.values().any(|map| map.absent_entry.is_some()) {
        true => Err(NonPass::Blocked("archive/memory/pagemap-entries-present")),
        false => Ok(images),
    }
}

fn stack_pages(archive: &InspectedArchive) -> CaseResult {
    let images = require_present_pages(archive)?;
    let mut problems = Problems::default();
    let mut checked_count = 0;
    for (process, _) in live_processes(images) {
        let (Some(mm), Some(map)) = (images.mms.get(&process.pid), images.pagemaps.get(&process.pid)) else {
            continue;
        };
        let mappings = Mappings::from_mm(mm);
        for tid in &process.threads {
            let Some((_, sp)) = images.cores.get(tid).and_then(ip_and_sp) else {
                continue;
            };
            let Some(stack) = mappings
                .mapping_at(sp)
                .filter(|vma| vma.status & VMA_ANON_PRIVATE != 0 && map.complete)
            else {
                continue;
            };
            checked_count += 1;
            if !map.contains_any(stack.start, stack.end) {
                problems.add(|| format!("thread {tid}: no page of {:#x}-{:#x}", stack.start, stack.end));
            }
        }
    }
    if checked_count == 0 {
        return Err(NonPass::Blocked("archive/processes/registers-within-vmas"));
    }
    problems.into_result(format!("{checked_count} threads"))
}

fn vdso_pages(archive: &InspectedArchive) -> CaseResult {
    /// `VMA_AREA_VDSO`.
    const VMA_AREA_VDSO: u32 = 1 << 3;
    let images = require_present_pages(archive)?;
    let mut checked_count = 0;
    let mut problems = Problems::default();
    for (process, _) in live_processes(images) {
        let (Some(mm), Some(map)) = (images.mms.get(&process.pid), images.pagemaps.get(&process.pid)) else {
            continue;
        };
        for vma in mm
            .vmas
            .iter()
            .filter(|vma| vma.status & VMA_AREA_VDSO != 0 && map.complete)
        {
            checked_count += 1;
            if !map.contains(vma.start) {
                problems.add(|| format!("process {}: no page at {:#x}", process.pid, vma.start));
            }
        }
    }
    if checked_count == 0 {
        return Err(NonPass::Skip("no process has a vdso".to_owned()));
    }
    problems.into_result(format!("{checked_count} mappings"))
}

fn single_vvar(archive: &InspectedArchive) -> CaseResult {
    /// `VMA_AREA_VVAR`.
    const VMA_AREA_VVAR: u32 = 1 << 12;
    let images = require_process_tree(archive)?;
    let of = |mm: &MmEntry| mm.vmas.iter().filter(|vma| vma.status & VMA_AREA_VVAR != 0).count();
    let counts: Vec<_> = live_processes(images)
        .filter_map(|(process, _)| Some((process.pid, of(images.mms.get(&process.pid)?))))
        .filter(|(_, count)| *count > 0)
        .collect();
    if counts.is_empty() {
        return Err(NonPass::Skip("no process has a vvar mapping".to_owned()));
    }
    let several = counts.iter().filter(|(_, count)| *count > 1);
    pass_unless(
        several.map(|(pid, count)| format!("process {pid} has {count}")),
        format!("one in each of {} processes", counts.len()),
    )
}

fn shared_memory_pagemaps(archive: &InspectedArchive) -> CaseResult {
    /// `VMA_ANON_SHARED`.
    const VMA_ANON_SHARED: u32 = 1 << 8;
    /// `VMA_AREA_SYSVIPC`, which has images of its own, and `VMA_AREA_MEMFD`, whose id is that of a file; memfd.img has the
    /// segment's.
    const VMA_OTHER_SHARED_MASK: u32 = 1 << 10 | 1 << 14;
    let images = require_pagemaps(archive)?;
    let segments: BTreeSet<_> = live_processes(images)
        .filter_map(|(process, _)| images.mms.get(&process.pid))
        .flat_map(|mm| &mm.vmas)
        .filter(|vma| vma.status & VMA_ANON_SHARED != 0 && vma.status & VMA_OTHER_SHARED_MASK == 0)
        .map(|vma| vma.shmid)
        .chain(images.memfds.iter().map(|id| u64::from(*id)))
        .collect();
    if segments.is_empty() {
        return Err(NonPass::Skip("no process shares memory".to_owned()));
    }
    let known = |id: &u64| u32::try_from(*id).is_ok_and(|id| images.shared_pagemaps.contains_key(&id));
    let missing = segments.iter().filter(|id| !known(id));
    pass_unless(
        missing.map(|id| format!("no pagemap-shmem-{id}.img")),
        format!("{} segments", segments.len()),
    )
}

fn argument_pages(archive: &InspectedArchive) -> CaseResult {
    let images = require_present_pages(archive)?;
    let spaces = live_processes(images).filter_map(|(process, _)| {
        let (mm, map) = (images.mms.get(&process.pid)?, images.pagemaps.get(&process.pid)?);
        (mm.mm_arg_start < mm.mm_arg_end && map.complete).then_some((process.pid, mm.mm_arg_start, map))
    });
    let spaces: Vec<_> = spaces.collect();
    let problems = spaces.iter().filter(|(_, start, map)| !map.contains(*start));
    pass_unless(
        problems.map(|(pid, start, _)| format!("process {pid}: no page at {start:#x}")),
        format!("{} processes", spaces.len()),
    )
}
