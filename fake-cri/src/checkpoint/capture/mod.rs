//! What CRIU's images say of a container that stands still, read through `/proc` and ptrace alone.
//!
//! ```text
//!   tree        who is whose child                     pstree.img
//!   for each process
//!     asked     handlers, timers, what only it knows
//!     core      registers, signals, credentials        core-TID.img      (registers: one file an architecture)
//!     ids       what it shares with others             ids-PID.img
//!     space     mappings, and the pages they hold      mm-PID.img, pagemap-PID.img, pages-N.img
//!     files     descriptors, executable, directories   fdinfo-N.img, fs-PID.img, files.img
//!   shared      shared anonymous memory                pagemap-shmem-N.img, pages-N.img
//!   inventory, seccomp, tty-info
//! ```
//!
//! Pages are not read here: the page maps say which there are, and [`super::pages`] moves them. What these two sources do not
//! tell (signal handlers, timers, the alternate signal stack, the address that a thread clears at its end) the process is
//! asked itself ([`asked`]), before its mappings are read.

mod asked;
mod core;
mod files;
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

use cri_proto::criu::{
    Kind, encode,
    message::{FsEntry, InventoryEntry, Lsmtype},
};

pub(super) use self::space::status as vma_status;
use self::{files::Files, ids::Ids, seccomp::Seccomp, shared::SharedMemory, tree::Tree, uncarried::Surroundings};
use super::{error::Error, freeze::Frozen, log::DumpLog, pages::PagesFile, watch::Watch};
use crate::process::{ProcessId, proc};

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

/// The images as they grow, and what is numbered across processes.
struct Images {
    images: Vec<Image>,
    pages: Vec<PagesFile>,
    scanned: u64,
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

/// Reads everything.
///
/// # Errors
///
/// A process that ended or cannot be read, the caller, the deadline.
pub(crate) fn capture(
    frozen: &Frozen<'_>,
    init: ProcessId,
    shape: Shape,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Capture, Error> {
    let tree = Tree::of(frozen, init.pid, shape)?;
    let mut images = Images {
        images: Vec::new(),
        pages: Vec::new(),
        scanned: 0,
    };
    let mut ids = Ids::new(init.pid);
    let mut files = Files::new();
    let mut seccomp = Seccomp::default();
    let mut shared = SharedMemory::default();
    let surroundings = Surroundings::own(init.pid);
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
        let answers = asked::ask(node, window, log)?;
        surroundings.process(pid, window, log);
        let answers = answers.as_ref();
        for &tid in &node.threads {
            watch.check()?;
            threads += 1;
            surroundings.thread(pid, tid, log);
            let core = core::thread(node, tid, tid == window, answers, &mut seccomp, log)?;
            images.push(
                Kind::Core.file_name(u64::from(node.number(tid))),
                encode(Kind::Core, [&core]),
            );
        }
        if window != pid {
            // Readers look for the core of every process of the tree.
            let leader = core::thread(node, window, true, answers, &mut seccomp, log)?;
            images.push(Kind::Core.file_name(pid_id), encode(Kind::Core, [&leader]));
        }

        let entry = ids.of(pid, window, log);
        images.push(Kind::Ids.file_name(pid_id), encode(Kind::Ids, [&entry]));
        let owner = space::Owner { node, window, answers };
        space::capture(owner, &mut images, &mut files, &mut shared, log, watch)?;

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
    files.images(&mut images, log)?;
    images.push(
        Kind::Seccomp.file_name(None),
        encode(Kind::Seccomp, [&seccomp.into_entry()]),
    );
    Ok(Capture {
        descriptors: standard_streams(&tree),
        images: images.images,
        pages: images.pages,
        processes: tree.nodes().len(),
        threads,
        pages_scanned: images.scanned,
        shared_pages_scanned,
    })
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
