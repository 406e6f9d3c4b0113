//! Of the address spaces: mappings, page maps and the files of pages.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::{MmEntry, VmaEntry, core_entry::March};

use super::given::{ArchiveCase, Complaints, Mappings, case, living, maps, none, pointers, source, tree, whole};
use crate::{
    archive::{Images, Inspected, Pagemap},
    case::{Judgement, Stop, fail, pass},
};

/// The page of x86-64, and the one that page maps of every machine count in unless it is larger.
const PAGE: u64 = 4096;
/// `VMA_ANON_PRIVATE` of CRIU's `image.h`.
const ANON_PRIVATE: u32 = 1 << 9;
/// How many words of the auxiliary vector CRIU keeps.
const AUXV_WORDS: usize = 44;

const PAGEMAP: &str = "CRIU images/pagemap.proto";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "memory/mappings",
        Reference,
        "CRIU images/vma.proto",
        "The mappings of an address space are page aligned, in order and do not overlap.",
        "mappings in order",
        |archive| each_mm(archive, mappings)
    ),
    case!(
        "memory/layout",
        Robust,
        "CRIU images/mm.proto",
        "Code, data, heap, arguments and environment of a process lie in order and within its mappings.",
        "bounds in order, within mappings",
        |archive| each_mm(archive, layout)
    ),
    case!(
        "memory/auxv",
        Reference,
        "CRIU images/mm.proto, AT_VECTOR_SIZE",
        "The auxiliary vector is made of pairs and no longer than CRIU takes.",
        "at most 44 words, an even number",
        |archive| each_mm(archive, |mm| {
            let words = mm.mm_saved_auxv.len();
            (words > AUXV_WORDS || words % 2 != 0)
                .then(|| format!("{words} words"))
                .into_iter()
                .collect()
        })
    ),
    case!(
        "memory/page-files",
        Reference,
        PAGEMAP,
        "Every page map has a file of pages of its own, and every file of pages a page map.",
        "one pages-ID.img for each page map",
        page_files
    ),
    case!(
        "memory/page-counts",
        Reference,
        source::PAGE,
        "Every file of pages holds as many pages as its page map says: all memory is there, and nothing else.",
        "size = pages * page size",
        page_counts
    ),
    case!(
        "memory/page-blocks",
        Reference,
        "criu#2895",
        "Compressed pages must decompress: every block to exactly the pages that the page map says.",
        "LZ4 blocks of the sizes in the page map",
        page_blocks
    ),
    case!(
        "memory/page-order",
        Reference,
        PAGEMAP,
        "The entries of a page map are page aligned, in order, and do not overlap.",
        "entries in order",
        |archive| each_map(archive, |map| map.disorder.clone())
    ),
    case!(
        "memory/page-present",
        Reference,
        "CRIU criu/pagemap.c; checkpointctl: go-criu ignores the flags when it computes offsets",
        "Every entry of a page map must have its pages in the file of pages: none in a parent checkpoint, none to be fetched from the source.",
        "the PRESENT flag in each",
        |archive| each_map(archive, |map| map.not_present.clone())
    ),
    case!(
        "memory/page-both-counts",
        Robust,
        "checkpointctl panics on a page map of another age; CRIU 4.2 changed the field",
        "An entry of a page map says its pages in both fields, so that readers of both ages find them.",
        "nr_pages = compat_nr_pages",
        |archive| each_map(archive, |map| map.counts.clone())
    ),
    case!(
        "memory/page-mapped",
        Reference,
        "CRIU criu/pagemap.c",
        "Every page lies within a mapping of its process.",
        "pages within mappings",
        page_mapped
    ),
    case!(
        "memory/stacks",
        Reference,
        source::PAGE,
        "The stack of every thread is in the archive.",
        "pages in the mapping of each stack pointer",
        stacks
    ),
    case!(
        "memory/vdso",
        Reference,
        "CRIU criu/vdso.c: a restore compares the code with its own",
        "The pages of a process's vdso are in the archive.",
        "the pages of each vdso mapping",
        vdso
    ),
    case!(
        "memory/vvar",
        Reference,
        "CRIU criu/proc_parse.c: [vvar_vclock] is a part of [vvar]",
        "A process has one mapping of the kernel's time pages, though newer kernels show two.",
        "one vvar mapping in an address space",
        vvar
    ),
    case!(
        "memory/shared",
        Reference,
        "CRIU criu/shmem.c",
        "Memory that processes share has a page map of its own.",
        "pagemap-shmem-ID.img for each id",
        shared
    ),
    case!(
        "memory/arguments",
        Reference,
        "checkpointctl --ps-tree-cmd",
        "The arguments that every process was started with are in the archive.",
        "the pages at arg_start",
        arguments
    ),
    case!(
        "memory/canary",
        Reference,
        source::PAGE,
        "What stood in the memory of the container stands in the pages of the archive.",
        "the expected bytes in a file of pages",
        |archive| {
            whole(archive)?;
            if archive.members.is_empty() {
                return Err(Stop::Blocked("archive/tar/not-empty"));
            }
            match &archive.memory {
                Some(None) if !archive.images.unread_pages.is_disjoint(&compressed(&archive.images)) => Err(
                    Stop::Skip("compressed pages of a stream stood before their page map".to_owned()),
                ),
                None => Err(Stop::Skip("no bytes of the container's memory are known".to_owned())),
                Some(Some(found)) => pass(format!("{} at byte {}", found.member, found.offset)),
                Some(None) => fail("not in any file of pages"),
            }
        }
    ),
];

fn each_mm(archive: &Inspected, complain: fn(&MmEntry) -> Vec<String>) -> Judgement {
    let images = tree(archive)?;
    if images.mms.is_empty() {
        return Err(Stop::Blocked("archive/process/mm"));
    }
    let bad = images.mms.iter().flat_map(|(pid, mm)| {
        complain(mm)
            .into_iter()
            .map(move |complaint| format!("mm-{pid}.img: {complaint}"))
    });
    none(bad, format!("{} address spaces", images.mms.len()))
}

fn each_map(archive: &Inspected, complain: fn(&Pagemap) -> Option<String>) -> Judgement {
    let images = maps(archive)?;
    let private = images
        .pagemaps
        .iter()
        .map(|(pid, map)| (format!("pagemap-{pid}.img"), map));
    let shared = images
        .shared_pagemaps
        .iter()
        .map(|(id, map)| (format!("pagemap-shmem-{id}.img"), map));
    let bad = private
        .chain(shared)
        .filter_map(|(name, map)| Some(format!("{name}: {}", complain(map)?)));
    none(
        bad,
        format!("{} page maps", images.pagemaps.len() + images.shared_pagemaps.len()),
    )
}

/// How many complaints about one address space are made.
const OF_ONE_SPACE: usize = 4;

fn mappings(mm: &MmEntry) -> Vec<String> {
    let odd =
        |vma: &&VmaEntry| vma.start >= vma.end || !vma.start.is_multiple_of(PAGE) || !vma.end.is_multiple_of(PAGE);
    let odd = mm.vmas.iter().filter(odd);
    let mut bad: Vec<_> = odd
        .map(|vma| format!("mapping {:#x}-{:#x}", vma.start, vma.end))
        .take(OF_ONE_SPACE)
        .collect();
    let pairs = mm.vmas.windows(2).filter(|pair| pair[1].start < pair[0].end);
    let pairs = pairs.map(|pair| format!("mapping at {:#x} before the end of the one before it", pair[1].start));
    bad.extend(pairs.take(OF_ONE_SPACE));
    if mm.vmas.is_empty() {
        bad.push("no mapping".to_owned());
    }
    bad
}

fn layout(mm: &MmEntry) -> Vec<String> {
    let ranges = [
        ("code", mm.mm_start_code, mm.mm_end_code),
        ("data", mm.mm_start_data, mm.mm_end_data),
        ("heap", mm.mm_start_brk, mm.mm_brk),
        ("arguments", mm.mm_arg_start, mm.mm_arg_end),
        ("environment", mm.mm_env_start, mm.mm_env_end),
    ];
    let mapped = |address: u64| mm.vmas.iter().any(|vma| vma.start <= address && address < vma.end);
    let mut bad: Vec<_> = ranges
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
    bad.extend(
        ends.iter()
            .filter(|(_, at)| !mapped(*at))
            .map(|(name, at)| format!("{name} at {at:#x}, unmapped")),
    );
    bad
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
                .pages
                .get(&map.pages_id)
                .is_none_or(|bytes| Some(*bytes) == map.stored_bytes(*size))
        })
    };
    [PAGE, 4 * PAGE, 16 * PAGE]
        .into_iter()
        .take(if arm { 3 } else { 1 })
        .find(fits)
        .unwrap_or(PAGE)
}

pub(super) fn page_files(archive: &Inspected) -> Judgement {
    let images = maps(archive)?;
    let mut owners = BTreeMap::<u32, usize>::new();
    let mut bad = Complaints::default();
    for map in images.pagemaps.values().chain(images.shared_pagemaps.values()) {
        *owners.entry(map.pages_id).or_default() += 1;
        if map.present > 0 && !images.pages.contains_key(&map.pages_id) {
            bad.add(|| format!("no pages-{}.img", map.pages_id));
        }
    }
    for (id, maps) in owners.iter().filter(|(_, maps)| **maps > 1) {
        bad.add(|| format!("pages-{id}.img of {maps} page maps"));
    }
    for id in images.pages.keys().filter(|id| !owners.contains_key(id)) {
        bad.add(|| format!("pages-{id}.img of no page map"));
    }
    bad.judge(format!("{} files of pages", images.pages.len()))
}

/// The ids of files of pages that are compressed.
fn compressed(images: &Images) -> BTreeSet<u32> {
    images.compressed().map(|(id, _)| id).collect()
}

/// The one page map of each file of pages; where there are several, `page-files` says so.
fn page_map_of_each(images: &Images) -> BTreeMap<u32, Option<&Pagemap>> {
    let mut owners = BTreeMap::new();
    for map in images.pagemaps.values().chain(images.shared_pagemaps.values()) {
        let several = owners.contains_key(&map.pages_id);
        owners.insert(map.pages_id, (!several).then_some(map));
    }
    owners
}

fn page_blocks(archive: &Inspected) -> Judgement {
    let images = maps(archive)?;
    let maps: Vec<_> = images.compressed().collect();
    if maps.is_empty() {
        return Err(Stop::Skip("no page is compressed".to_owned()));
    }
    let mut bad = Complaints::default();
    for (id, map) in &maps {
        if let Some(flaw) = &map.bad_blocks {
            bad.add(|| format!("the page map of pages-{id}.img: {flaw}"));
        }
    }
    if images.undecompressed.count > 0 {
        bad.add(|| images.undecompressed.summary());
    }
    bad.judge(format!("{} files of pages, compressed by LZ4", maps.len()))
}

pub(super) fn page_counts(archive: &Inspected) -> Judgement {
    let images = maps(archive)?;
    let size = page_size(images);
    let expected = page_map_of_each(images);
    if images.compressed().any(|(_, map)| map.bad_blocks.is_some()) {
        return Err(Stop::Blocked("archive/memory/page-blocks"));
    }
    let bad = expected.iter().filter_map(|(id, map)| {
        let (bytes, map) = (*images.pages.get(id)?, (*map)?);
        let stored = map.stored_bytes(size);
        (Some(bytes) != stored).then(|| match (map.compressed, stored) {
            (true, Some(stored)) => format!("pages-{id}.img has {bytes} bytes for {stored} compressed ones"),
            _ => format!("pages-{id}.img has {bytes} bytes for {} pages", map.present),
        })
    });
    let total = images
        .pages
        .values()
        .fold(0_u64, |total, bytes| total.saturating_add(*bytes));
    let ids: BTreeSet<_> = expected.keys().collect();
    none(bad, format!("{total} bytes in {} files", ids.len()))
}

fn page_mapped(archive: &Inspected) -> Judgement {
    let images = maps(archive)?;
    // A page map that says wrong numbers says wrong places.
    if page_counts(archive).is_err() {
        return Err(Stop::Blocked("archive/memory/page-counts"));
    }
    let size = page_size(images);
    let mut bad = Complaints::default();
    for (pid, map) in &images.pagemaps {
        let Some(mm) = images.mms.get(pid) else {
            continue;
        };
        // Mappings in order are judged elsewhere; here any order will do.
        let mut vmas: Vec<_> = mm.vmas.iter().map(|vma| (vma.start, vma.end)).collect();
        vmas.sort_unstable();
        for run in &map.runs {
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
                bad.add(|| format!("pagemap-{pid}.img: nothing is mapped at {covered:#x}"));
            }
        }
    }
    bad.judge(format!("{} page maps", images.pagemaps.len()))
}

/// The page maps, all of whose pages are in the archive.
fn present(archive: &Inspected) -> Result<&Images, Stop> {
    let images = maps(archive)?;
    match images.pagemaps.values().any(|map| map.not_present.is_some()) {
        true => Err(Stop::Blocked("archive/memory/page-present")),
        false => Ok(images),
    }
}

fn stacks(archive: &Inspected) -> Judgement {
    let images = present(archive)?;
    let mut bad = Complaints::default();
    let mut judged = 0;
    for (process, _) in living(images) {
        let (Some(mm), Some(map)) = (images.mms.get(&process.pid), images.pagemaps.get(&process.pid)) else {
            continue;
        };
        let mappings = Mappings::of(mm);
        for tid in &process.threads {
            let Some((_, sp)) = images.cores.get(tid).and_then(pointers) else {
                continue;
            };
            let Some(stack) = mappings
                .at(sp)
                .filter(|vma| vma.status & ANON_PRIVATE != 0 && map.whole)
            else {
                continue;
            };
            judged += 1;
            if !map.holds_any(stack.start, stack.end) {
                bad.add(|| format!("thread {tid}: no page of {:#x}-{:#x}", stack.start, stack.end));
            }
        }
    }
    if judged == 0 {
        return Err(Stop::Blocked("archive/process/registers"));
    }
    bad.judge(format!("{judged} threads"))
}

fn vdso(archive: &Inspected) -> Judgement {
    /// `VMA_AREA_VDSO`.
    const VDSO: u32 = 1 << 3;
    let images = present(archive)?;
    let mut judged = 0;
    let mut bad = Complaints::default();
    for (process, _) in living(images) {
        let (Some(mm), Some(map)) = (images.mms.get(&process.pid), images.pagemaps.get(&process.pid)) else {
            continue;
        };
        for vma in mm.vmas.iter().filter(|vma| vma.status & VDSO != 0 && map.whole) {
            judged += 1;
            if !map.holds(vma.start) {
                bad.add(|| format!("process {}: no page at {:#x}", process.pid, vma.start));
            }
        }
    }
    if judged == 0 {
        return Err(Stop::Skip("no process has a vdso".to_owned()));
    }
    bad.judge(format!("{judged} mappings"))
}

fn vvar(archive: &Inspected) -> Judgement {
    /// `VMA_AREA_VVAR`.
    const VVAR: u32 = 1 << 12;
    let images = tree(archive)?;
    let of = |mm: &MmEntry| mm.vmas.iter().filter(|vma| vma.status & VVAR != 0).count();
    let counts: Vec<_> = living(images)
        .filter_map(|(process, _)| Some((process.pid, of(images.mms.get(&process.pid)?))))
        .filter(|(_, count)| *count > 0)
        .collect();
    if counts.is_empty() {
        return Err(Stop::Skip("no process has a vvar mapping".to_owned()));
    }
    let several = counts.iter().filter(|(_, count)| *count > 1);
    none(
        several.map(|(pid, count)| format!("process {pid} has {count}")),
        format!("one in each of {} processes", counts.len()),
    )
}

fn shared(archive: &Inspected) -> Judgement {
    /// `VMA_ANON_SHARED`.
    const SHARED: u32 = 1 << 8;
    /// `VMA_AREA_SYSVIPC`, which has images of its own, and `VMA_AREA_MEMFD`, whose id is that of a file; memfd.img has the
    /// segment's.
    const OF_ANOTHER_KIND: u32 = 1 << 10 | 1 << 14;
    let images = maps(archive)?;
    let segments: BTreeSet<_> = living(images)
        .filter_map(|(process, _)| images.mms.get(&process.pid))
        .flat_map(|mm| &mm.vmas)
        .filter(|vma| vma.status & SHARED != 0 && vma.status & OF_ANOTHER_KIND == 0)
        .map(|vma| vma.shmid)
        .chain(images.memfds.iter().map(|id| u64::from(*id)))
        .collect();
    if segments.is_empty() {
        return Err(Stop::Skip("no process shares memory".to_owned()));
    }
    let known = |id: &u64| u32::try_from(*id).is_ok_and(|id| images.shared_pagemaps.contains_key(&id));
    let missing = segments.iter().filter(|id| !known(id));
    none(
        missing.map(|id| format!("no pagemap-shmem-{id}.img")),
        format!("{} segments", segments.len()),
    )
}

fn arguments(archive: &Inspected) -> Judgement {
    let images = present(archive)?;
    let spaces = living(images).filter_map(|(process, _)| {
        let (mm, map) = (images.mms.get(&process.pid)?, images.pagemaps.get(&process.pid)?);
        (mm.mm_arg_start < mm.mm_arg_end && map.whole).then_some((process.pid, mm.mm_arg_start, map))
    });
    let spaces: Vec<_> = spaces.collect();
    let bad = spaces.iter().filter(|(_, start, map)| !map.holds(*start));
    none(
        bad.map(|(pid, start, _)| format!("process {pid}: no page at {start:#x}")),
        format!("{} processes", spaces.len()),
    )
}
