//! What CRIU's images say of a container that stands still, read through `/proc` and ptrace alone.
//!
//! ```text
//!  while all stand ([`stand`])
//!   tree        who is whose child                     pstree.img
//!   for each process
//!     asked     handlers, timers, what only it knows
//!     core      registers, signals, credentials        core-TID.img      (registers: one file an architecture)
//!     ids       what it shares with others             ids-PID.img
//!     space     mappings, and what no fork carries
//!     files     descriptors, directories               fdinfo-N.img, fs-PID.img, files.img
//!   shared      shared anonymous memory                pagemap-shmem-N.img, pages-N.img
//!   inventory, seccomp, tty-info
//!  of those that stand, or of copies that forks made ([`Standing::finish`])
//!     asked     what a fork keeps
//!     space     the pages                              pagemap-PID.img, pages-N.img
//!     foreseen  the mappings' flags                    mm-PID.img
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
mod owner;
mod page_map;
mod registers;
mod seccomp;
mod shared;
mod sockets;
mod space;
mod tree;
mod uncarried;
mod vma;

use cri_proto::criu::{
    Kind, encode,
    message::{CoreEntry, FsEntry, InventoryEntry, Lsmtype},
};

pub(super) use self::vma::status as vma_status;
use self::{asked::Inherited, files::Files, ids::Ids, seccomp::Seccomp, shared::SharedMemory, tree::Tree};
pub(crate) use self::{foreseen::Foreseen, space::Space, uncarried::Surroundings};
use super::{
    error::Error, freeze::Frozen, log::DumpLog, outlook::Outlook, pages::PagesFile, twin::Twins, watch::Watch,
};
use crate::process::{ProcessId, inject::InjectError, proc};

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
    cores: Vec<(u64, CoreEntry)>,
    /// Whether it could be asked.
    asked: bool,
    /// What it said that its copy could say too, where none is to be made.
    inherited: Option<Inherited>,
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

/// Reads what has to be read while all stand; with an outlook, what has to be read before they are copied.
///
/// # Errors
///
/// A process that ended or cannot be read, the caller, the deadline.
pub(crate) fn stand(
    frozen: &Frozen<'_>,
    init: ProcessId,
    shape: Shape,
    surroundings: &Surroundings,
    outlook: Option<&Outlook>,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Standing, Error> {
    let tree = Tree::of(frozen, init.pid, shape)?;
    let mut images = Images {
        images: Vec::new(),
        pages: Vec::new(),
        scanned: 0,
        userfault: None,
    };
    let mut ids = Ids::new(init.pid);
    let mut files = Files::new();
    let mut seccomp = Seccomp::default();
    let mut shared = SharedMemory::default();
    let mut processes = Vec::new();
    let mut threads = 0;

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

    for node in tree.nodes() {
        watch.check()?;
        let pid = node.process.pid();
        let pid_id = u64::from(node.number(pid));
        let Some(window) = node.process.window() else {
            let zombie = core::zombie(&node.stat);
            images.push(Kind::Core.file_name(pid_id), encode(Kind::Core, [&zombie]));
            continue;
        };
        if window != pid {
            log.lost(format_args!(
                "pid {pid}: its first thread has ended; its state is that of thread {window}"
            ));
        }
        surroundings.process(pid, window, log);
        let headings = proc::mapping_headings(window).map_err(|error| Error::capture(pid, "mappings", error))?;
        let found = (node.process.id, window, node.number(pid));
        let space = Space::stand(found, headings, outlook, &mut images, &mut files, &mut shared, log)?;
        let answers = match space.gate {
            Some(gate) => asked::ask(node, window, gate, log)?,
            None => {
                asked::unasked(pid, &InjectError::NoGate, log);
                None
            }
        };
        let answers = answers.as_ref();
        let mut cores = Vec::with_capacity(node.threads.len());
        for &tid in &node.threads {
            watch.check()?;
            threads += 1;
            surroundings.thread(pid, tid, log);
            let core = core::thread(node, tid, tid == window, answers, &mut seccomp, log)?;
            cores.push((u64::from(node.number(tid)), core));
        }
        if window != pid {
            // Readers look for the core of every process of the tree.
            let leader = core::thread(node, window, true, answers, &mut seccomp, log)?;
            cores.push((pid_id, leader));
        }
        let asked = answers.is_some();
        let inherited = match space.gate.filter(|_| asked && outlook.is_none()) {
            Some(gate) => asked::ask_inherited(pid, window, gate, 0, log)?,
            None => None,
        };
        processes.push(Process {
            space,
            cores,
            asked,
            inherited,
        });

        let entry = ids.of(pid, window, log);
        images.push(Kind::Ids.file_name(pid_id), encode(Kind::Ids, [&entry]));

        let fs = FsEntry {
            cwd_id: files.link(pid, window, "cwd", log)?,
            root_id: files.link(pid, window, "root", log)?,
            umask: proc::status(window)
                .map_err(|error| Error::capture(pid, "status", error))?
                .umask,
        };
        images.push(Kind::Fs.file_name(pid_id), encode(Kind::Fs, [&fs]));
        if ids.first_of_table(&entry) {
            let descriptors = files.table(pid, window, log)?;
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

impl Standing {
    /// The processes that are no zombies.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.processes.iter().map(|process| &process.space)
    }

    /// A process that handles page faults by itself.
    pub(crate) fn userfault(&self) -> Option<i32> {
        self.images.userfault
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
                inherited,
            } = process;
            let pid = space.process.pid;
            let (seen, options) = match eyes {
                Eyes::Originals => (space.window, 0),
                Eyes::Copies(twins) => {
                    let copy = twins.of(space.window).ok_or(Error::Ended { pid })?;
                    (copy, libc::PTRACE_O_EXITKILL)
                }
            };
            let inherited = match space.gate.filter(|_| asked && inherited.is_none()) {
                Some(gate) => asked::ask_inherited(pid, seen, gate, options, log)?,
                None => inherited,
            };
            if let Eyes::Copies(twins) = eyes {
                twins.settle(space.window);
            }
            for (id, mut core) in cores {
                if let Some(inherited) = &inherited {
                    core::complete(&mut core, inherited);
                }
                images.push(Kind::Core.file_name(id), encode(Kind::Core, [&core]));
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
