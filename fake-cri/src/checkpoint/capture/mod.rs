//! What CRIU's images say of a container that stands still, read through `/proc` and ptrace alone.
//!
//! ```text
//!  while all stand
//!   [`find`]
//!     tree        who is whose child                     pstree.img
//!     core        registers and signals, by ptrace
//!     space       mappings, and what no fork carries
//!   [`Found::read`], while processes answer to what they are asked ([`talk`]), and are copied
//!     core        credentials, limits, scheduling        core-TID.img      (registers: one file an architecture)
//!     ids         what it shares with others             ids-PID.img
//!     files       descriptors, directories               fdinfo-N.img, fs-PID.img, files.img
//!     shared      shared anonymous memory                pagemap-shmem-N.img, pages-N.img
//!     inventory, seccomp, tty-info
//!  of those that stand, or of copies that forks made ([`Standing::finish`])
//!     inherited   what a fork keeps
//!     space       the pages                              pagemap-PID.img, pages-N.img
//!     foreseen    the mappings' flags                    mm-PID.img
//! ```
//!
//! Pages are not read here: the page maps say which there are, and [`super::pages`] moves them. What these two sources do not
//! tell (signal handlers, timers, the alternate signal stack, the address that a thread clears at its end) the process is
//! asked itself ([`asked`]).

mod asked;
mod core;
mod files;
mod foreseen;
mod ids;
mod inherited;
mod owner;
mod page_map;
mod registers;
mod seccomp;
mod shared;
mod sockets;
mod space;
mod talk;
mod tree;
mod uncarried;
mod vma;

use std::collections::HashMap;

use cri_proto::criu::{
    Kind, encode,
    message::{CoreEntry, FsEntry, InventoryEntry, Lsmtype},
};

pub(super) use self::{
    asked::unasked,
    talk::{Answers, Talk},
    tree::Node,
    vma::status as vma_status,
};
use self::{
    core::Stopped,
    files::{Files, Numbers},
    ids::Ids,
    inherited::Inherited,
    seccomp::Seccomp,
    shared::SharedMemory,
    tree::Tree,
};
pub(crate) use self::{foreseen::Foreseen, space::Space, uncarried::Surroundings};
use super::{
    error::Error, freeze::Frozen, log::DumpLog, outlook::Outlook, pages::PagesFile, twin::Twins, watch::Watch,
};
use crate::process::{ProcessId, family, proc};

/// Where a processor keeps its state.
#[cfg(target_arch = "x86_64")]
pub(super) mod xsave {
    pub(in crate::checkpoint) use super::registers::{Part, place};
}

/// `CRTOOLS_IMAGES_V1_1`: images with two magics.
const IMAGE_VERSION: u32 = 2;
/// The one set of cgroups that images without `cgroup.img` can name: the one the restoring process is in.
const CGROUP_SET: u32 = 1;

/// One image file.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its name.
    pub(crate) name: String,
    /// Its content.
    pub(crate) bytes: Vec<u8>,
}

/// All that the archive says of the container, but for the pages themselves.
#[derive(Debug)]
pub(crate) struct Capture {
    /// The images.
    pub(crate) images: Vec<Image>,
    /// The images that come behind the pages.
    pub(crate) foreseen: Vec<Foreseen>,
    /// The pages files, to be filled while the container stands.
    pub(crate) pages: Vec<PagesFile>,
    /// Where descriptors 0 to 2 of the first process point.
    pub(crate) descriptors: serde_json::Value,
    /// How many processes there are, zombies included.
    pub(crate) processes: usize,
    /// How many threads.
    pub(crate) threads: usize,
    /// Pages of private mappings that the kernel named as holding something.
    pub(crate) pages_scanned: u64,
    /// The same of shared anonymous memory.
    pub(crate) shared_pages_scanned: u64,
}

impl Capture {
    /// Pages in the archive.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.iter().map(PagesFile::pages).sum()
    }

    /// Those of private memory.
    pub(crate) fn private_pages(&self) -> u64 {
        self.pages
            .iter()
            .filter(|file| !file.shared)
            .map(PagesFile::pages)
            .sum()
    }
}

/// What was found of those that stand before anything of them changes, however briefly.
pub(crate) struct Found<'a> {
    tree: Tree<'a>,
    images: Images,
    files: Files,
    seccomp: Seccomp,
    shared: SharedMemory,
    processes: Vec<FoundProcess>,
}

/// A process that is no zombie: the place of its node in the tree, its mappings, and its threads.
struct FoundProcess {
    node: usize,
    space: Space,
    stopped: Vec<Stopped>,
}

/// What was read while all stood, from which the rest follows.
pub(crate) struct Standing {
    images: Images,
    files: Files,
    processes: Vec<Process>,
    descriptors: serde_json::Value,
    zombies: usize,
    threads: usize,
    shared_pages_scanned: u64,
}

/// A process that is no zombie.
struct Process {
    space: Space,
    /// Its threads, by the number in the name of their image.
    cores: Vec<Core>,
    /// Whether it could be asked.
    asked: bool,
    /// What it said that its copy could say too, where there is none.
    inherited: Option<Inherited>,
}

/// A thread that an image is made of.
struct Core {
    /// The number in the image's name.
    id: u64,
    tid: i32,
    entry: CoreEntry,
}

/// Whose memory is looked at.
#[derive(Clone, Copy)]
pub(crate) enum Eyes<'a> {
    /// The processes' own; they still stand.
    Originals,
    /// Their copies'.
    Copies(&'a Twins<'a>),
}

/// The images as they grow, and what is numbered across processes.
struct Images {
    images: Vec<Image>,
    pages: Vec<PagesFile>,
    scanned: u64,
    userfault: Option<i32>,
}

impl Images {
    fn push(&mut self, name: String, bytes: Vec<u8>) {
        self.images.push(Image { name, bytes });
    }

    /// The number of the next pages file.
    fn next_pages_id(&self) -> u32 {
        u32::try_from(self.pages.len() + 1).expect("fewer pages files than processes and segments")
    }
}

/// Faults: what is left out as if it were not there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// All processes but the first.
    pub(crate) first_process_alone: bool,
    /// The last thread of each process that has several.
    pub(crate) without_last_threads: bool,
}

/// Finds what has to be known before any of those that stand is asked something, or copied. An outlook tells the flags of
/// mappings where it can.
///
/// # Errors
///
/// A process that ended or cannot be read, the caller, the deadline.
pub(crate) fn find<'a>(
    frozen: &'a Frozen<'_>,
    init: ProcessId,
    shape: Shape,
    outlook: Option<&Outlook>,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Found<'a>, Error> {
    let tree = Tree::of(frozen, init.pid, shape)?;
    let mut numbers = Numbers::default();
    for node in tree.nodes() {
        let pid = node.process.pid();
        numbers.add(pid, node.number(pid).cast_signed());
    }
    let mut found = Found {
        tree,
        images: Images {
            images: Vec::new(),
            pages: Vec::new(),
            scanned: 0,
            userfault: None,
        },
        files: Files::new(numbers),
        seccomp: Seccomp::default(),
        shared: SharedMemory::default(),
        processes: Vec::new(),
    };
    for (place, node) in found.tree.nodes().iter().enumerate() {
        watch.check()?;
        let Some(window) = node.process.window() else {
            continue;
        };
        let pid = node.process.pid();
        let headings = proc::mapping_headings(window).map_err(|error| Error::capture(pid, "mappings", error))?;
        let space = Space::stand(
            node,
            headings,
            outlook,
            &mut found.images,
            &mut found.files,
            &mut found.shared,
            log,
        )?;
        let stopped = node
            .threads
            .iter()
            .map(|tid| Stopped::look(node, *tid, &mut found.seccomp, log));
        found.processes.push(FoundProcess {
            node: place,
            space,
            stopped: stopped.collect::<Result<_, Error>>()?,
        });
    }
    Ok(found)
}

impl<'a> Found<'a> {
    /// The processes that are no zombies, each with its place in the tree.
    pub(super) fn processes(&self) -> impl Iterator<Item = (&Node<'a>, &Space)> {
        self.processes
            .iter()
            .map(|process| (&self.tree.nodes()[process.node], &process.space))
    }

    /// A process that handles page faults by itself.
    pub(crate) fn userfault(&self) -> Option<i32> {
        self.images.userfault
    }

    /// Reads the rest of what has to be read while all stand, though they may be answering and copied meanwhile.
    ///
    /// # Errors
    ///
    /// A process that ended or cannot be read, the caller, the deadline.
    pub(crate) fn read(
        self,
        init: ProcessId,
        surroundings: &Surroundings,
        watch: &Watch<'_>,
        log: &mut DumpLog,
    ) -> Result<Standing, Error> {
        let Self {
            tree,
            mut images,
            mut files,
            seccomp,
            shared,
            processes: found,
        } = self;
        let mut ids = Ids::new(family::living_thread(init.pid));
        let inventory = InventoryEntry {
            img_version: IMAGE_VERSION,
            fdinfo_per_id: Some(true),
            root_ids: Some(ids.own()),
            ns_per_id: Some(true),
            root_cg_set: Some(CGROUP_SET),
            lsmtype: Some(Lsmtype::NoLsm.into()),
            ..InventoryEntry::default()
        };
        images.push(Kind::Inventory.file_name(None), encode(Kind::Inventory, [&inventory]));
        images.push(Kind::Pstree.file_name(None), encode(Kind::Pstree, &tree.entries()));
        for node in tree.nodes().iter().filter(|node| node.process.window().is_none()) {
            let id = u64::from(node.number(node.process.pid()));
            let zombie = core::zombie(&node.stat);
            images.push(Kind::Core.file_name(id), encode(Kind::Core, [&zombie]));
        }
        let mut processes = Vec::with_capacity(found.len());
        let mut threads = 0;
        for FoundProcess { node, space, stopped } in found {
            watch.check()?;
            let node = &tree.nodes()[node];
            let (pid, window) = (space.process.pid, space.window);
            let pid_id = u64::from(node.number(pid));
            if window != pid {
                log.lost(format_args!(
                    "pid {pid}: its first thread has ended; its state is that of thread {window}"
                ));
            }
            surroundings.process((pid, window), &node.stat, node.status(window), log);
            let mut cores = Vec::with_capacity(stopped.len());
            let mut umask = None;
            for stopped in stopped {
                watch.check()?;
                threads += 1;
                let tid = stopped.tid;
                surroundings.thread((pid, window, tid), node.status(tid), log);
                let status = node.whole_status(tid)?;
                if tid == window {
                    umask = status.umask;
                }
                let entry = stopped.core(node, &status, tid == window, log)?;
                cores.push(Core {
                    id: u64::from(node.number(tid)),
                    tid,
                    entry,
                });
            }
            if window != pid {
                // Readers look for the core of every process of the tree.
                let of_window = cores.iter_mut().find(|core| core.tid == window);
                let entry = of_window.map(|core| {
                    let entry = core.entry.clone();
                    // What the process has as a whole stands in its first thread's image alone.
                    core.entry.tc = None;
                    entry
                });
                cores.extend(entry.map(|entry| Core {
                    id: pid_id,
                    tid: space.window,
                    entry,
                }));
            }
            processes.push(Process {
                space,
                cores,
                asked: false,
                inherited: None,
            });

            let entry = ids.of(pid, window, log);
            images.push(Kind::Ids.file_name(pid_id), encode(Kind::Ids, [&entry]));

            let fs = FsEntry {
                cwd_id: files.link(pid, window, "cwd", log)?,
                root_id: files.link(pid, window, "root", log)?,
                umask,
            };
            images.push(Kind::Fs.file_name(pid_id), encode(Kind::Fs, [&fs]));
            if ids.first_of_table(&entry) {
                let descriptors = files.table(pid, window, watch, log)?;
                if !descriptors.is_empty() {
                    images.push(
                        Kind::Fdinfo.file_name(u64::from(entry.files_id)),
                        encode(Kind::Fdinfo, &descriptors),
                    );
                }
            }
        }
        let shared_pages_scanned = shared.capture(&mut images, watch, log)?;
        files.stand(&mut images, log)?;
        images.push(
            Kind::Seccomp.file_name(None),
            encode(Kind::Seccomp, [&seccomp.into_entry()]),
        );
        Ok(Standing {
            descriptors: standard_streams(&tree),
            images,
            files,
            zombies: tree.nodes().len() - processes.len(),
            processes,
            threads,
            shared_pages_scanned,
        })
    }
}

impl Standing {
    /// The processes that are no zombies.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.processes.iter().map(|process| &process.space)
    }

    /// What the processes said of themselves, by the thread that each is seen through.
    pub(crate) fn told(&mut self, answers: &HashMap<i32, Answers>) {
        for process in &mut self.processes {
            let Some(answers) = answers.get(&process.space.window) else {
                continue;
            };
            process.asked = true;
            for core in &mut process.cores {
                core::tell(&mut core.entry, core.tid, answers);
            }
        }
    }

    /// Asks the processes what their copies could say too, if there were any. They stand as they stood then until all is read.
    ///
    /// # Errors
    ///
    /// A process that ended, or does not stand still any more.
    pub(crate) fn ask_inherited(&mut self, log: &mut DumpLog) -> Result<(), Error> {
        for process in self.processes.iter_mut().filter(|process| process.asked) {
            let Space {
                process: id,
                window,
                gate,
                ..
            } = process.space;
            if let Some(gate) = gate {
                process.inherited = inherited::ask((id.pid, window), gate, None, 0, log)?;
            }
        }
        Ok(())
    }

    /// The pages files of shared memory.
    pub(crate) fn shared_pages(&self) -> &[PagesFile] {
        &self.images.pages
    }

    /// Reads the rest.
    ///
    /// # Errors
    ///
    /// A process that ended or cannot be read, the caller, the deadline.
    pub(crate) fn finish(self, eyes: Eyes<'_>, watch: &Watch<'_>, log: &mut DumpLog) -> Result<Capture, Error> {
        let Self {
            mut images,
            mut files,
            descriptors,
            zombies,
            threads,
            shared_pages_scanned,
            ..
        } = self;
        let processes = self.processes.len() + zombies;
        let mut foreseen = Vec::new();
        for process in self.processes {
            watch.check()?;
            let Process {
                space,
                cores,
                asked,
                mut inherited,
            } = process;
            let pid = space.process.pid;
            let seen = match eyes {
                Eyes::Originals => space.window,
                Eyes::Copies(twins) => {
                    let copy = twins.of(space.window).ok_or(Error::Ended { pid })?;
                    if let Some(gate) = space.gate.filter(|_| asked) {
                        let (area, options) = (twins.area(copy), libc::PTRACE_O_EXITKILL);
                        inherited = inherited::ask((pid, copy), gate, area, options, log)?;
                    }
                    copy
                }
            };
            if let Eyes::Copies(twins) = eyes {
                twins.settle(space.window);
            }
            for Core { id, mut entry, .. } in cores {
                if let Some(inherited) = &inherited {
                    core::complete(&mut entry, inherited);
                }
                images.push(Kind::Core.file_name(id), encode(Kind::Core, [&entry]));
            }
            foreseen.push(space.finish(seen, inherited.as_ref(), &mut images, &mut files, log)?);
        }
        files.images(&mut images);
        Ok(Capture {
            descriptors,
            images: images.images,
            foreseen,
            pages: images.pages,
            processes,
            threads,
            pages_scanned: images.scanned,
            shared_pages_scanned,
        })
    }
}

/// `descriptors.json`, as runc writes it: where 0 to 2 of the first process point, empty for a closed one.
fn standard_streams(tree: &Tree<'_>) -> serde_json::Value {
    let window = tree.nodes().first().and_then(|node| node.process.window());
    (0..3)
        .map(|fd| {
            window
                .and_then(|tid| proc::link(tid, &format!("fd/{fd}")).ok())
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect::<Vec<_>>()
        .into()
}
