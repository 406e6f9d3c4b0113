//! Address spaces: mappings, page maps and page files.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::{
    MAX_AUXV_WORDS,
    message::{MmEntry, VmaEntry, core_entry::March},
    shmem_pagemap_file_name, vma_status,
};

use super::preconditions::{
    ArchiveCase, IMAGES, Mappings, Problems, ip_and_sp, live_processes, pass_unless, process_tree_case,
    require_complete, require_pagemaps, require_process_tree,
};
use crate::{
    archive::{Images, InspectedArchive, Pagemap},
    engine::{Capability, CaseResult, Level, NonPass, case, fail, pass, skip},
    suites::authority,
};

/// The page size of x86-64. Page maps of other architectures use the same unit unless their pages are larger.
const PAGE_BYTES: u64 = 4096;

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/memory/vmas-ordered", Level::Reference)
        .requirement("The mappings of an address space must be page aligned, in ascending order and without overlap.")
        .authority(authority::criu_file("images/vma.proto"))
        .expected("mappings in order")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pstree", "archive/processes/mm-images"])
        .check(|archive| check_each_mm(archive, mapping_problems)),
    case("archive/memory/mm-fields-ordered", Level::Robust)
        .requirement(
            "The code, data, heap, argument and environment ranges of a process must be ordered and within \
            its mappings.",
        )
        .authority(authority::criu_file("images/mm.proto"))
        .expected("ordered ranges within mappings")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pstree", "archive/processes/mm-images"])
        .check(|archive| check_each_mm(archive, mm_layout_problems)),
    case("archive/memory/auxv", Level::Reference)
        .requirement("The auxiliary vector must consist of pairs and fit into CRIU's buffer.")
        .authority(authority::criu_file("images/mm.proto, AT_VECTOR_SIZE"))
        .expected("an even number of words, at most 44")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pstree", "archive/processes/mm-images"])
        .check(|archive| {
            check_each_mm(archive, |mm| {
                let words = mm.mm_saved_auxv.len();
                (words > MAX_AUXV_WORDS || words % 2 != 0)
                    .then(|| format!("{words} words"))
                    .into_iter()
                    .collect()
            })
        }),
    case("archive/memory/pages-image-per-pagemap", Level::Reference)
        .requirement("Every page map must have its own page file, and every page file a page map.")
        .authority(authority::criu_file("images/pagemap.proto"))
        .expected("one pages-ID.img for each page map")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(page_files),
    case("archive/memory/pages-match-pagemap", Level::Reference)
        .requirement("Every page file must contain exactly the pages of its page map.")
        .authority(authority::API_INTRODUCTION)
        .expected("size = pages * page size")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pagemap-images",
            "archive/memory/compressed-blocks-valid",
        ])
        .check(page_counts),
    case("archive/memory/compressed-blocks-valid", Level::Reference)
        .requirement("Every block of compressed pages must decompress to exactly the pages of its page map entry.")
        .authority(authority::CRIU_COMPRESSION)
        .expected("LZ4 blocks with the sizes in the page map")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(page_blocks),
    case("archive/memory/pagemap-ordered", Level::Reference)
        .requirement("The entries of a page map must be page aligned, in ascending order and without overlap.")
        .authority(authority::criu_file("images/pagemap.proto"))
        .expected("entries in order")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(|archive| check_each_pagemap(archive, |map| map.unordered_entry.clone())),
    case("archive/memory/pagemap-entries-present", Level::Reference)
        .requirement(
            "Every entry of a page map must have its pages in the page file, not in a parent checkpoint or at \
            the source of a lazy migration.",
        )
        .authority(authority::criu_file(
            "criu/pagemap.c; checkpointctl: go-criu ignores the flags when it computes offsets",
        ))
        .expected("the PRESENT flag in each entry")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(|archive| check_each_pagemap(archive, |map| map.absent_entry.clone())),
    case("archive/memory/page-count-fields-agree", Level::Robust)
        .requirement(
            "An entry of a page map must have the number of pages in both fields, for readers of either CRIU \
            version.",
        )
        .authority(
            authority::CHECKPOINTCTL
                .with_section("checkpointctl panics on a page map of another CRIU version; CRIU 4.2 changed the field"),
        )
        .expected("nr_pages = compat_nr_pages")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(|archive| check_each_pagemap(archive, |map| map.count_mismatch.clone())),
    case("archive/memory/pages-within-vmas", Level::Reference)
        .requirement("Every page must be within a mapping of its process.")
        .authority(authority::criu_file("criu/pagemap.c"))
        .expected("pages within mappings")
        .depends_on(&["archive/memory/pages-match-pagemap"])
        .check(page_mapped),
    case("archive/memory/thread-stacks", Level::Reference)
        .requirement("The stack of every thread must be in the archive.")
        .authority(authority::API_INTRODUCTION)
        .expected("pages in the mapping of each stack pointer")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pagemap-images",
            "archive/processes/registers-within-vmas",
            "archive/memory/pagemap-entries-present",
        ])
        .check(stack_pages),
    case("archive/memory/vdso", Level::Reference)
        .requirement("The pages of each process's vdso must be in the archive.")
        .authority(authority::criu_file(
            "criu/vdso.c: a restore compares the code with its own",
        ))
        .expected("the pages of each vdso mapping")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pagemap-images",
            "archive/memory/pagemap-entries-present",
        ])
        .check(vdso_pages),
    process_tree_case("archive/memory/single-vvar", Level::Reference)
        .requirement("A process must have a single vvar mapping, although newer kernels show two.")
        .authority(authority::criu_file(
            "criu/proc_parse.c: [vvar_vclock] is a part of [vvar]",
        ))
        .expected("one vvar mapping per address space")
        .check(single_vvar),
    case("archive/memory/shared-memory", Level::Reference)
        .requirement("Every segment of shared memory must have a page map of its own.")
        .authority(authority::criu_file("criu/shmem.c"))
        .expected("pagemap-shmem-ID.img for each segment")
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pagemap-images"])
        .check(shared_memory_pagemaps),
    case("archive/memory/arguments", Level::Reference)
        .requirement("The pages with the command-line arguments of every process must be in the archive.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --ps-tree-cmd"))
        .expected("the pages at arg_start")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pagemap-images",
            "archive/memory/pagemap-entries-present",
        ])
        .check(argument_pages),
    case("archive/memory/expected-bytes", Level::Reference)
        .requirement("Bytes that were in the container's memory must be in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("the expected bytes in a page file")
        .requires(&[Capability::KnownMemory])
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| {
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
                    skip("requires an archive file: in this stream, compressed pages precede their page map")
                }
                None => Err(NonPass::Missing(Capability::KnownMemory)),
                Some(Some(page_match)) => pass(format!("{} at byte {}", page_match.member, page_match.offset)),
                Some(None) => fail("not in any page file"),
            }
        }),
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
        .map(|(id, map)| (shmem_pagemap_file_name(u64::from(*id)), map));
    let problems = private
        .chain(shared)
        .filter_map(|(name, map)| Some(format!("{name}: {}", find_problems(map)?)));
    pass_unless(
        problems,
        format!("{} page maps", images.pagemaps.len() + images.shared_pagemaps.len()),
    )
}

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
    let pairs = pairs.map(|pair| format!("mapping at {:#x} overlaps the mapping before it", pair[1].start));
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
    // A process may unmap its program, but its arguments are on its stack.
    let ends = [
        ("arguments", mm.mm_arg_start),
        ("environment", mm.mm_env_start),
        ("stack", mm.mm_start_stack),
    ];
    problems.extend(
        ends.iter()
            .filter(|(_, at)| !mapped(*at))
            .map(|(name, at)| format!("{name} at {at:#x} is not mapped")),
    );
    problems
}

/// The page size. An archive of aarch64 does not contain it, but the sizes of the page files do.
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
        problems.add(|| format!("pages-{id}.img without a page map"));
    }
    problems.into_result(format!("{} page files", images.pages_file_bytes.len()))
}

fn compressed_pages_ids(images: &Images) -> BTreeSet<u32> {
    images.compressed_pagemaps().map(|(id, _)| id).collect()
}

/// The page map of each page file; `None` if there are several, which `pages-image-per-pagemap` reports.
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
        return skip("requires compressed pages");
    }
    let mut problems = Problems::default();
    for (id, map) in &maps {
        if let Some(error) = &map.invalid_blocks {
            problems.add(|| format!("page map of pages-{id}.img: {error}"));
        }
    }
    if images.corrupt_blocks.count > 0 {
        problems.add(|| images.corrupt_blocks.summary());
    }
    problems.into_result(format!("{} page files with LZ4 compression", maps.len()))
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
            (true, Some(stored)) => format!(
                "pages-{id}.img has {bytes} bytes instead of {stored} bytes of \
                compressed pages"
            ),
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
    // A page map with wrong page counts also has wrong addresses.
    if page_counts(archive).is_err() {
        return Err(NonPass::Blocked("archive/memory/pages-match-pagemap"));
    }
    let size = page_size(images);
    let mut problems = Problems::default();
    for (pid, map) in &images.pagemaps {
        let Some(mm) = images.mms.get(pid) else {
            continue;
        };
        // Sorts the mappings, because another case checks their order.
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
                problems.add(|| format!("pagemap-{pid}.img: {covered:#x} is not mapped"));
            }
        }
    }
    problems.into_result(format!("{} page maps", images.pagemaps.len()))
}

/// Blocks the calling case unless all pages of the page maps are in the archive.
fn require_present_pages(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_pagemaps(archive)?;
    if images.pagemaps.values().any(|map| map.absent_entry.is_some()) {
        return Err(NonPass::Blocked("archive/memory/pagemap-entries-present"));
    }
    Ok(images)
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
                .filter(|vma| vma.status & vma_status::ANON_PRIVATE != 0 && map.complete)
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
            .filter(|vma| vma.status & vma_status::VDSO != 0 && map.complete)
        {
            checked_count += 1;
            if !map.contains(vma.start) {
                problems.add(|| format!("process {}: no page at {:#x}", process.pid, vma.start));
            }
        }
    }
    if checked_count == 0 {
        return skip("requires a process with a vdso");
    }
    problems.into_result(format!("{checked_count} mappings"))
}

fn single_vvar(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let of = |mm: &MmEntry| mm.vmas.iter().filter(|vma| vma.status & vma_status::VVAR != 0).count();
    let counts: Vec<_> = live_processes(images)
        .filter_map(|(process, _)| Some((process.pid, of(images.mms.get(&process.pid)?))))
        .filter(|(_, count)| *count > 0)
        .collect();
    if counts.is_empty() {
        return skip("requires a process with a vvar mapping");
    }
    let several = counts.iter().filter(|(_, count)| *count > 1);
    pass_unless(
        several.map(|(pid, count)| format!("process {pid} has {count} vvar mappings")),
        format!("one vvar mapping in each of {} processes", counts.len()),
    )
}

fn shared_memory_pagemaps(archive: &InspectedArchive) -> CaseResult {
    /// SYSVIPC has images of its own. The id of a MEMFD mapping is that of a file; memfd.img has the id of the segment.
    const VMA_OTHER_SHARED_MASK: u32 = vma_status::SYSVIPC | vma_status::MEMFD;
    let images = require_pagemaps(archive)?;
    let segments: BTreeSet<_> = live_processes(images)
        .filter_map(|(process, _)| images.mms.get(&process.pid))
        .flat_map(|mm| &mm.vmas)
        .filter(|vma| vma.status & vma_status::ANON_SHARED != 0 && vma.status & VMA_OTHER_SHARED_MASK == 0)
        .map(|vma| vma.shmid)
        .chain(images.memfds.iter().map(|id| u64::from(*id)))
        .collect();
    if segments.is_empty() {
        return skip("requires processes with shared memory");
    }
    let known = |id: &u64| u32::try_from(*id).is_ok_and(|id| images.shared_pagemaps.contains_key(&id));
    let missing = segments.iter().filter(|id| !known(id));
    pass_unless(
        missing.map(|id| format!("no {}", shmem_pagemap_file_name(*id))),
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
