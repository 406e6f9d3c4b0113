//! `mm-PID.img`, `pagemap-PID.img` and the plan of `pages-N.img`: an address space and what it holds.
//!
//! ```text
//!   while the process stands      its mappings; those that a fork does not carry whole, and the pages of the private ones
//!   of it, or of a copy of it     what all others hold
//!   of a copy, once it was read   their flags ([`super::foreseen`])
//! ```
//!
//! Which pages are carried: those of private mappings that are in memory or in swap and are the process's own. Left out are the
//! clean pages of a private file mapping (the file has them), the kernel's zero page, guards, and what the kernel maps itself but
//! for the vdso, whose pages CRIU wants to compare. Shared anonymous memory goes to [`super::shared`].

use std::{collections::BTreeMap, io, ops::Range, thread};

use cri_proto::criu::{
    Kind,
    message::{MmEntry, VmaEntry},
};
use procfs::process::Stat;

use super::{
    Images,
    files::Files,
    foreseen::{Foreseen, Seen},
    inherited::Inherited,
    page_map::page_map,
    shared::SharedMemory,
    tree::Node,
    uncarried,
    vma::{opened_for, status, vma},
};
use crate::{
    checkpoint::{
        error::Error,
        log::DumpLog,
        outlook::Outlook,
        pages::{PagesFile, Run},
    },
    process::{
        ProcessId,
        inject::Gate,
        pagemap::{PAGE_SIZE, PageMap, Region},
        proc::{self, Mapping},
    },
};

/// How many words of the auxiliary vector CRIU has room for.
const MOST_AUXILIARY: usize = 44;
/// What is worth a second thread, in mapped bytes.
const LARGE: u64 = 16 << 20;
/// The stack of a second thread, which keeps what it finds on the heap.
const STACK: usize = 128 << 10;
/// The highest address a program can have; the vsyscall page lies above.
const TASK_END: u64 = 1 << 47;

/// An address space as it was while the process stood.
#[derive(Debug)]
pub(crate) struct Space {
    /// Whose it is.
    pub(crate) process: ProcessId,
    /// The thread it is seen through.
    pub(crate) window: i32,
    /// Its number in the images.
    number: u32,
    /// Where the process can be made to call the kernel; `None` when it cannot be asked.
    pub(crate) gate: Option<Gate>,
    mappings: Vec<Mapping>,
    /// Whether the flags are those of the mappings as they stand; otherwise they are the outlook's.
    flagged: bool,
    /// What the images say of mappings that a fork does not carry whole, by their first address.
    early: BTreeMap<u64, Option<VmaEntry>>,
    /// Their pages, as far as they are private.
    unforked: Vec<Run>,
}

impl Space {
    /// Looks at the mappings of a process that stands still, which have these headings. `outlook` tells their flags from
    /// shortly before where it can; otherwise they are read here, which takes about as long as a fork.
    pub(super) fn stand(
        node: &Node<'_>,
        headings: Vec<Mapping>,
        outlook: Option<&Outlook>,
        images: &mut Images,
        files: &mut Files,
        shared: &mut SharedMemory,
        log: &mut DumpLog,
    ) -> Result<Self, Error> {
        let process = node.process.id;
        let pid = process.pid;
        let window = node.process.window().ok_or(Error::Ended { pid })?;
        let locked = node.status(window).and_then(|status| status.number("VmLck:"));
        let foreseen = outlook.and_then(|outlook| outlook.with_flags(process, locked, &headings));
        let flagged = foreseen.is_none();
        let mappings = match foreseen {
            Some(mappings) => mappings,
            None => proc::mappings(window).map_err(|error| Error::capture(pid, "mappings", error))?,
        };
        let mut space = Self {
            process,
            window,
            number: node.number(pid),
            gate: Gate::find_in(window, &headings).ok(),
            mappings,
            flagged,
            early: BTreeMap::new(),
            unforked: Vec::new(),
        };
        for mapping in &space.mappings {
            if is_userfault(mapping) {
                images.userfault = Some(pid);
            }
            if !is_early(mapping) {
                if proc::without_deleted(&mapping.name).1 {
                    // Whoever else has it open may change it once all run on.
                    files.mapped(pid, window, mapping, opened_for(window, mapping), log)?;
                }
                continue;
            }
            let vma = vma(pid, window, mapping, files, log)?;
            if let Some(vma) = &vma {
                if vma.status & status::ANON_SHARED != 0 {
                    shared.add(pid, window, mapping, vma.shmid);
                } else if is_carried(vma) {
                    let carried = [(mapping.range.clone(), vma.status)];
                    let regions = regions(window, &mapping.range);
                    let regions = regions.map_err(|error| Error::capture(pid, "page map", error))?;
                    let runs = held_pages((pid, window), &carried, true, &regions, images, log);
                    space.unforked.extend(runs);
                }
            }
            space.early.insert(mapping.range.start, vma);
        }
        Ok(space)
    }

    /// The mappings that it shares with others.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &Range<u64>> {
        let shared = self.mappings.iter().filter(|mapping| mapping.shared);
        shared.map(|mapping| &mapping.range)
    }

    /// The private pages that a fork does not carry.
    pub(crate) fn unforked(&self) -> &[Run] {
        &self.unforked
    }

    /// Looks at what is left through a thread of the process, which still stands, or through its copy. `mm-PID.img` is
    /// written behind the pages, since flags that were foreseen have to be looked at in the copy by then.
    pub(super) fn finish(
        mut self,
        eyes: i32,
        inherited: Option<&Inherited>,
        images: &mut Images,
        files: &mut Files,
        log: &mut DumpLog,
    ) -> Result<Foreseen, Error> {
        let pid = self.process.pid;
        if eyes == self.window {
            self.learn_flags()?;
        }
        let regions = self.look(eyes)?;
        uncarried::memory_policy(pid, eyes, log);
        let mut vmas: Vec<VmaEntry> = Vec::with_capacity(self.mappings.len());
        let mut carried = Vec::with_capacity(self.mappings.len());
        let mut foreseen = Vec::new();
        for mapping in &self.mappings {
            let early = self.early.remove(&mapping.range.start);
            let is_late = early.is_none();
            if is_late && !self.flagged {
                foreseen.push(mapping.clone());
            }
            let translated = match early {
                Some(translated) => translated,
                None => vma(pid, eyes, mapping, files, log)?,
            };
            let Some(vma) = translated else {
                continue;
            };
            if let Some(last) = vmas.last_mut()
                && last.status & vma.status & status::VVAR != 0
                && last.end == vma.start
            {
                // The kernel shows its time pages as two mappings (`[vvar]`, `[vvar_vclock]`); CRIU knows one.
                last.end = vma.end;
                continue;
            }
            if is_late && is_carried(&vma) {
                carried.push((mapping.range.clone(), vma.status));
            }
            vmas.push(vma);
        }
        let mut runs = held_pages((pid, self.window), &carried, false, &regions, images, log);
        runs.append(&mut self.unforked);
        runs.sort_by_key(|run| run.range.start);

        let id = u64::from(self.number);
        let entry = mm((pid, eyes), inherited, &self.mappings, vmas, files, log)?;
        let pages_id = images.next_pages_id();
        images.push(
            Kind::Pagemap.file_name(id),
            page_map(pages_id, runs.iter().map(|run| run.range.clone())),
        );
        images.pages.push(PagesFile {
            name: cri_proto::criu::pages_file(pages_id),
            shared: false,
            runs,
            view: None,
        });
        Ok(Foreseen {
            pid,
            window: self.window,
            id,
            entry,
            mappings: foreseen,
        })
    }

    /// The regions of what a fork carries. The kernel walks all pages for them, so those of a large process are walked by two
    /// threads at once.
    fn look(&self, eyes: i32) -> Result<Vec<Region>, Error> {
        let late = |mapping: &&Mapping| mapping.range.end <= TASK_END && !self.early.contains_key(&mapping.range.start);
        let late: Vec<_> = self
            .mappings
            .iter()
            .filter(late)
            .map(|mapping| &mapping.range)
            .collect();
        let (Some(first), Some(last)) = (late.first(), late.last()) else {
            return Ok(Vec::new());
        };
        let middle = middle(&late);
        let (lower, upper) = (first.start..middle, middle..last.end);
        let regions = thread::scope(|scope| {
            let walk = (late.iter().map(|range| range.end - range.start).sum::<u64>() >= LARGE).then(|| {
                let builder = thread::Builder::new().name("page map".to_owned()).stack_size(STACK);
                builder.spawn_scoped(scope, || regions(eyes, &upper))
            });
            let below = regions(eyes, &lower);
            let above = match walk {
                // Where no thread can be started, this one does it after the other.
                None | Some(Err(_)) => regions(eyes, &upper),
                Some(Ok(walk)) => walk.join().map_err(|_| Error::Panicked)?,
            };
            Ok(below.and_then(|mut regions| {
                regions.extend(above?);
                Ok(regions)
            }))
        })?;
        regions.map_err(|error| Error::capture(self.process.pid, "page map", error))
    }

    /// Takes the flags of the mappings that a fork carries, if they were only foreseen, from the process itself.
    fn learn_flags(&mut self) -> Result<(), Error> {
        if self.flagged {
            return Ok(());
        }
        let seen = Seen::of(self.process.pid, self.window)?;
        for mapping in &mut self.mappings {
            if !self.early.contains_key(&mapping.range.start) {
                let known = seen.find(mapping).ok_or_else(|| seen.missed(mapping))?;
                mapping.flags.clone_from(&known.flags);
                mapping.protection_key = known.protection_key;
            }
        }
        self.flagged = true;
        Ok(())
    }
}

/// The address, at a page, below which half of these mapped bytes lie.
fn middle(ranges: &[&Range<u64>]) -> u64 {
    let mut left = ranges.iter().map(|range| range.end - range.start).sum::<u64>() / 2;
    for range in ranges {
        let bytes = range.end - range.start;
        if left <= bytes {
            return range.start + left / PAGE_SIZE * PAGE_SIZE;
        }
        left -= bytes;
    }
    ranges.last().map_or(0, |range| range.end)
}

/// Whether pages of this mapping go into the process's pages file.
fn is_carried(vma: &VmaEntry) -> bool {
    vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0
        && vma.status & (status::VSYSCALL | status::VVAR) == 0
        && vma.end <= TASK_END
}

/// Whether a copy of the process, as fork(2) makes it, would not hold its pages, or would not keep them: `MADV_DONTFORK`,
/// `MADV_WIPEONFORK`, `MAP_DROPPABLE`, huge pages, of which the original takes the copy's when there are no more.
fn is_early(mapping: &Mapping) -> bool {
    mapping.shared || [b"dc", b"wf", b"dp", b"ht"].into_iter().any(|flag| mapping.has(flag))
}

/// Whether page faults are handled by the program (userfaultfd).
fn is_userfault(mapping: &Mapping) -> bool {
    [b"um", b"uw", b"ui"].into_iter().any(|flag| mapping.has(flag))
}

/// What a part of an address space holds, seen through a thread.
fn regions(eyes: i32, span: &Range<u64>) -> io::Result<Vec<Region>> {
    let mut regions = Vec::new();
    PageMap::of(eyes)?.scan(span.clone(), |region| regions.push(region))?;
    Ok(regions)
}

/// The held pages of the mappings, as runs of the process of `window`. Mappings and regions are in the order of their addresses.
fn held_pages(
    (pid, window): (i32, i32),
    carried: &[(Range<u64>, u32)],
    early: bool,
    regions: &[Region],
    images: &mut Images,
    log: &mut DumpLog,
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let run = |range| Run {
        pid,
        window,
        range,
        early,
    };
    let mut push = |range: Range<u64>| match runs.last_mut() {
        Some(last) if last.range.end == range.start && run_has_room(last) => last.range.end = range.end,
        _ => runs.push(run(range)),
    };
    let mut at = 0;
    let mut guards = 0;
    let mut scanned = 0;
    for region in regions {
        let bytes = |range: &Range<u64>| (range.end - range.start) / PAGE_SIZE;
        while at < carried.len() && carried[at].0.end <= region.range.start {
            at += 1;
        }
        // A region may reach over several mappings, and into some that are not carried.
        for (range, kind) in carried[at..]
            .iter()
            .take_while(|(range, _)| range.start < region.range.end)
        {
            if *kind & status::VDSO != 0 {
                continue;
            }
            let part = range.start.max(region.range.start)..range.end.min(region.range.end);
            scanned += bytes(&part);
            if region.categories.guard() {
                guards += bytes(&part);
            } else {
                let clean = *kind & status::FILE_PRIVATE != 0 && region.categories.of_file();
                if !clean && !region.categories.zero() {
                    push(part);
                }
            }
        }
    }
    if guards > 0 {
        log.lost(format_args!("pid {pid}: {guards} guard pages (MADV_GUARD_INSTALL)"));
    }
    // The vdso is carried whole: no page table need know its pages.
    for (range, _) in carried.iter().filter(|(_, kind)| kind & status::VDSO != 0) {
        scanned += (range.end - range.start) / PAGE_SIZE;
        runs.push(run(range.clone()));
    }
    images.scanned += scanned;
    runs.sort_by_key(|run| run.range.start);
    runs
}

/// The older of the two counts has 32 bits.
fn run_has_room(run: &Run) -> bool {
    (run.range.end - run.range.start) / PAGE_SIZE < u64::from(u32::MAX / 2)
}

/// `mm-PID.img`.
fn mm(
    (pid, window): (i32, i32),
    inherited: Option<&Inherited>,
    mappings: &[Mapping],
    vmas: Vec<VmaEntry>,
    files: &mut Files,
    log: &mut DumpLog,
) -> Result<MmEntry, Error> {
    let stat: &Stat = &proc::stat(window).map_err(|error| Error::capture(pid, "stat", error))?;
    let start_brk = stat.start_brk.unwrap_or(0);
    // Of a process that cannot be asked, the mapping tells the end of the heap to the page.
    let of_mapping = || {
        mappings
            .iter()
            .filter(|mapping| mapping.name.as_os_str() == "[heap]")
            .map(|mapping| mapping.range.end)
            .max()
            .unwrap_or(start_brk as u64)
    };
    let auxiliary = proc::auxiliary_vector(window).map_err(|error| Error::capture(pid, "auxv", error))?;
    let status = proc::status(window).map_err(|error| Error::capture(pid, "status", error))?;
    Ok(MmEntry {
        mm_start_code: stat.startcode,
        mm_end_code: stat.endcode,
        mm_start_data: stat.start_data.unwrap_or(0) as u64,
        mm_end_data: stat.end_data.unwrap_or(0) as u64,
        mm_start_stack: stat.startstack,
        mm_start_brk: start_brk as u64,
        mm_brk: inherited.map_or_else(of_mapping, |inherited| inherited.heap_end),
        mm_arg_start: stat.arg_start.unwrap_or(0) as u64,
        mm_arg_end: stat.arg_end.unwrap_or(0) as u64,
        mm_env_start: stat.env_start.unwrap_or(0) as u64,
        mm_env_end: stat.env_end.unwrap_or(0) as u64,
        exe_file_id: files.link(pid, window, "exe", log)?,
        mm_saved_auxv: fit_auxiliary(pid, auxiliary, log),
        vmas,
        dumpable: Some(inherited.map_or(1, |inherited| inherited.dumpable)),
        aios: Vec::new(),
        thp_disabled: Some(status.thp_enabled == Some(false)),
    })
}

/// Cuts the auxiliary vector to its end and to what CRIU has room for.
fn fit_auxiliary(pid: i32, mut words: Vec<u64>, log: &mut DumpLog) -> Vec<u64> {
    let end = words.chunks_exact(2).position(|pair| pair[0] == 0);
    words.truncate(end.map_or(words.len(), |pairs| pairs * 2));
    if words.len() > MOST_AUXILIARY {
        let rest = words.split_off(MOST_AUXILIARY);
        log.lost(format_args!(
            "pid {pid}: the last {} words of its auxiliary vector",
            rest.len()
        ));
    }
    // The pair of zeroes at the end need not be there: who restores the vector ends it anyway.
    if words.len() + 2 <= MOST_AUXILIARY {
        words.extend([0, 0]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_parts_the_bytes_and_no_page() {
        let page = |pages: u64| pages * PAGE_SIZE;
        let (small, large) = (page(1)..page(2), page(100)..page(110));
        assert_eq!(middle(&[&large]), page(105));
        // Half of eleven pages: one and four and a half.
        assert_eq!(middle(&[&small, &large]), page(104));
        assert_eq!(middle(&[&large, &(page(200)..page(210))]), page(110));
        assert_eq!(middle(&[&small]), page(1));
    }
}
