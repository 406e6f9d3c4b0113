//! Dumps the state of a frozen container to CRIU images, read through `/proc`, ptrace and remote syscalls.
//!
//! ```text
//!  while all tasks are stopped
//!   [`scan_frozen`]
//!     pstree      parents and children                   pstree.img
//!     core        registers and signals, by ptrace
//!     mm          mappings, and memory that fork does not preserve
//!   [`FrozenScan::read`], while the tasks execute the queries of [`task_query`] and fork their snapshots
//!     core        credentials, limits, scheduling        core-TID.img      (registers: one file per architecture)
//!     ids         kernel objects shared with others      ids-PID.img
//!     files       fds, directories                       fdinfo-N.img, fs-PID.img, files.img
//!     shmem       shared anonymous memory                pagemap-shmem-N.img, pages-N.img
//!     inventory, seccomp, tty-info
//!  from the stopped originals, or from the snapshots ([`FrozenDump::finish`])
//!     fork_state  state that fork preserves
//!     mm          the pages                              pagemap-PID.img, pages-N.img
//!     verify_flags  the VmFlags of the mappings          mm-PID.img
//! ```
//!
//! Pages are not read here: the page maps tell which pages exist, and [`super::pages`] copies them. State that neither
//! `/proc` nor ptrace shows (signal handlers, timers, the alternate signal stack, clear_child_tid) is queried in the
//! task itself ([`parasite`]).

mod context;
mod core;
mod files;
mod fork_state;
mod fown;
mod ids;
mod mm;
mod pagemap;
mod parasite;
mod pstree;
mod registers;
mod seccomp;
mod shmem;
mod sigactions;
mod sockets;
mod task_query;
mod unsupported;
mod verify_flags;
mod vma;

use std::collections::HashMap;

use cri_proto::criu::{
    IMAGES_V1_1, Kind, encode,
    message::{CoreEntry, FsEntry, InventoryEntry, Lsmtype},
};

use self::{
    context::TaskCtx,
    core::PtraceState,
    files::{Files, NsPids},
    fork_state::ForkState,
    ids::Ids,
    pstree::Pstree,
    seccomp::SeccompFilters,
    shmem::SharedSegments,
};
pub(crate) use self::{mm::Mm, unsupported::DumperContext, verify_flags::DeferredMm};
pub(super) use self::{
    parasite::{QueryError, log_unqueryable},
    pstree::PstreeNode,
    task_query::{CloneOutcome, QueryOutcome, TaskQuery, TaskQueryResult},
};
use super::{
    cancel::CancelToken,
    dump_log::DumpLog,
    error::Error,
    freeze::FrozenContainer,
    hooks::Hooks,
    pages::PagesFile,
    snapshot::{MemorySource, Prescan},
};
use crate::process::{self, Pid, ProcessId, Tid, proc_files};

/// The only set of cgroups that images without `cgroup.img` can name: that of the restoring process.
const CGROUP_SET: u32 = 1;

#[derive(Debug)]
pub(crate) struct CriuImage {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// All content of the archive that comes from the container, except the pages themselves.
#[derive(Debug)]
pub(crate) struct ImageSet {
    pub(crate) images: Vec<CriuImage>,
    /// The `mm-PID.img` images, which are written after the pages.
    pub(crate) deferred_mms: Vec<DeferredMm>,
    /// The pages files, whose content is copied later.
    pub(crate) pages: Vec<PagesFile>,
    /// The targets of fds 0 to 2 of the init process.
    pub(crate) descriptors: serde_json::Value,
    /// The number of processes, zombies included.
    pub(crate) processes: usize,
    pub(crate) threads: usize,
    /// Present pages of private mappings.
    pub(crate) pages_scanned: u64,
    /// Present pages of shared anonymous memory.
    pub(crate) shared_pages_scanned: u64,
}

impl ImageSet {
    pub(crate) fn pages(&self) -> u64 {
        self.pages.iter().map(PagesFile::pages).sum()
    }

    /// Pages of private memory in the archive.
    pub(crate) fn private_pages(&self) -> u64 {
        self.pages
            .iter()
            .filter(|file| !file.shared)
            .map(PagesFile::pages)
            .sum()
    }
}

/// The state that must be read before any task executes a remote syscall.
pub(crate) struct FrozenScan<'a> {
    tree: Pstree<'a>,
    images: ImageSetBuilder,
    files: Files,
    seccomp: SeccompFilters,
    shared: SharedSegments,
    processes: Vec<TaskScan>,
}

/// A process that is not a zombie: the index of its node in the tree, its mappings, and its threads.
struct TaskScan {
    node_index: usize,
    mm: Mm,
    ptrace_states: Vec<PtraceState>,
}

/// The state that was read while all tasks were stopped.
pub(crate) struct FrozenDump {
    images: ImageSetBuilder,
    files: Files,
    processes: Vec<TaskDump>,
    descriptors: serde_json::Value,
    zombies: usize,
    threads: usize,
    shared_pages_scanned: u64,
}

/// A process that is not a zombie.
struct TaskDump {
    mm: Mm,
    /// The threads, by the id in the name of their image.
    cores: Vec<CoreImage>,
    /// Whether the parasite query succeeded.
    queried: bool,
    /// The result of [`fork_state::query`] in the original, if there is no snapshot.
    fork_state: Option<ForkState>,
}

/// The content of a `core-ID.img`.
struct CoreImage {
    /// The id in the name of the image.
    id: u64,
    tid: Tid,
    entry: CoreEntry,
}

/// The images so far, and counters across all processes.
struct ImageSetBuilder {
    images: Vec<CriuImage>,
    pages: Vec<PagesFile>,
    pages_scanned: u64,
    userfaultfd_pid: Option<Pid>,
}

impl ImageSetBuilder {
    fn push(&mut self, name: String, bytes: Vec<u8>) {
        self.images.push(CriuImage { name, bytes });
    }

    /// The id of the next pages file.
    fn next_pages_id(&self) -> u32 {
        u32::try_from(self.pages.len() + 1).expect("fewer than 2^32 pages files")
    }
}

/// Reads the state that must be known before any task executes a remote syscall or is snapshotted. A prescan provides
/// the flags of mappings where possible.
///
/// # Errors
///
/// A process exited or cannot be read, the caller cancelled, or the deadline passed.
pub(crate) fn scan_frozen<'a>(
    frozen: &'a FrozenContainer<'_>,
    init: ProcessId,
    hooks: &dyn Hooks,
    prescan: Option<&Prescan>,
    cancel: &CancelToken<'_>,
    log: &mut DumpLog,
) -> Result<FrozenScan<'a>, Error> {
    let tree = Pstree::build(frozen, init.pid, hooks)?;
    let mut ns_pids = NsPids::default();
    for node in tree.nodes() {
        ns_pids.insert(node.process.pid(), node.ns_pid());
    }
    let mut scan = FrozenScan {
        tree,
        images: ImageSetBuilder {
            images: Vec::new(),
            pages: Vec::new(),
            pages_scanned: 0,
            userfaultfd_pid: None,
        },
        files: Files::new(ns_pids),
        seccomp: SeccompFilters::default(),
        shared: SharedSegments::default(),
        processes: Vec::new(),
    };
    for (index, node) in scan.tree.nodes().iter().enumerate() {
        cancel.check()?;
        let Some(proc_tid) = node.process.proc_tid() else {
            continue;
        };
        let task = &mut TaskCtx::new(node.process.pid(), proc_tid, log);
        let (images, files, shared) = (&mut scan.images, &mut scan.files, &mut scan.shared);
        let mm = Mm::scan_frozen(task, node, prescan, images, files, shared)?;
        let tids = node.threads.iter();
        let ptrace_states = tids.map(|tid| PtraceState::read(task, node, *tid, &mut scan.seccomp));
        scan.processes.push(TaskScan {
            node_index: index,
            mm,
            ptrace_states: ptrace_states.collect::<Result<_, Error>>()?,
        });
    }
    Ok(scan)
}

impl<'a> FrozenScan<'a> {
    /// The processes that are not zombies, with their nodes in the tree.
    pub(super) fn processes(&self) -> impl Iterator<Item = (&PstreeNode<'a>, &Mm)> {
        self.processes
            .iter()
            .map(|process| (&self.tree.nodes()[process.node_index], &process.mm))
    }

    /// A process that handles its own page faults with userfaultfd.
    pub(crate) fn userfaultfd_pid(&self) -> Option<Pid> {
        self.images.userfaultfd_pid
    }

    /// Reads the remaining state that needs stopped tasks. The tasks may execute queries and fork snapshots meanwhile.
    ///
    /// # Errors
    ///
    /// A process exited or cannot be read, the caller cancelled, or the deadline passed.
    pub(crate) fn read(
        self,
        init: ProcessId,
        dumper: &DumperContext,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<FrozenDump, Error> {
        let Self {
            tree,
            mut images,
            mut files,
            seccomp,
            shared,
            processes: task_scans,
        } = self;
        let mut ids = Ids::new(process::pstree::live_thread(init.pid));
        let inventory = InventoryEntry {
            img_version: IMAGES_V1_1,
            fdinfo_per_id: Some(true),
            root_ids: Some(ids.dumper_ids()),
            ns_per_id: Some(true),
            root_cg_set: Some(CGROUP_SET),
            lsmtype: Some(Lsmtype::NoLsm.into()),
            ..InventoryEntry::default()
        };
        images.push(Kind::Inventory.file_name(None), encode(Kind::Inventory, [&inventory]));
        images.push(Kind::Pstree.file_name(None), encode(Kind::Pstree, &tree.entries()));
        for node in tree.nodes().iter().filter(|node| node.process.proc_tid().is_none()) {
            let id = u64::from(node.ns_pid());
            let zombie = core::zombie_core(&node.stat);
            images.push(Kind::Core.file_name(id), encode(Kind::Core, [&zombie]));
        }
        let mut processes = Vec::with_capacity(task_scans.len());
        let mut threads = 0;
        for TaskScan {
            node_index: node,
            mm,
            ptrace_states,
        } in task_scans
        {
            cancel.check()?;
            let node = &tree.nodes()[node];
            let (pid, proc_tid) = (mm.process.pid, mm.proc_tid);
            let task = &mut TaskCtx::new(pid, proc_tid, log);
            let pid_id = u64::from(node.ns_pid());
            if proc_tid != pid.main_thread() {
                task.unsupported(format_args!(
                    "its first thread has ended; its state is that of thread {proc_tid}"
                ));
            }
            dumper.report_process(task, &node.stat, node.status(proc_tid));
            let mut cores = Vec::with_capacity(ptrace_states.len());
            let mut umask = None;
            for ptrace_state in ptrace_states {
                cancel.check()?;
                threads += 1;
                let tid = ptrace_state.tid;
                dumper.report_thread(task, tid, node.status(tid));
                let status = node.parsed_status(tid)?;
                if tid == proc_tid {
                    umask = status.umask;
                }
                let entry = ptrace_state.core(task, node, &status, tid == proc_tid)?;
                cores.push(CoreImage {
                    id: u64::from(node.ns_tid(tid)),
                    tid,
                    entry,
                });
            }
            if proc_tid != pid.main_thread() {
                // Readers expect a core for every pid of the tree.
                let proc_core = cores.iter_mut().find(|core| core.tid == proc_tid);
                let entry = proc_core.map(|core| {
                    let entry = core.entry.clone();
                    // The state of the whole process belongs into the core of its pid only.
                    core.entry.tc = None;
                    entry
                });
                cores.extend(entry.map(|entry| CoreImage {
                    id: pid_id,
                    tid: mm.proc_tid,
                    entry,
                }));
            }
            processes.push(TaskDump {
                mm,
                cores,
                queried: false,
                fork_state: None,
            });

            let entry = ids.task_ids(task);
            images.push(Kind::Ids.file_name(pid_id), encode(Kind::Ids, [&entry]));

            let fs = FsEntry {
                cwd_id: files.link_file(task, "cwd")?,
                root_id: files.link_file(task, "root")?,
                umask,
            };
            images.push(Kind::Fs.file_name(pid_id), encode(Kind::Fs, [&fs]));
            if ids.is_first_of_fd_table(&entry) {
                let descriptors = files.fd_table(task, cancel)?;
                if !descriptors.is_empty() {
                    images.push(
                        Kind::Fdinfo.file_name(u64::from(entry.files_id)),
                        encode(Kind::Fdinfo, &descriptors),
                    );
                }
            }
        }
        let shared_pages_scanned = shared.plan_pages(&mut images, cancel, log)?;
        files.dump_frozen(&mut images, log)?;
        images.push(
            Kind::Seccomp.file_name(None),
            encode(Kind::Seccomp, [&seccomp.into_entry()]),
        );
        Ok(FrozenDump {
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

impl FrozenDump {
    /// The address spaces of the processes that are not zombies.
    pub(crate) fn mms(&self) -> impl Iterator<Item = &Mm> {
        self.processes.iter().map(|process| &process.mm)
    }

    /// Adds the query results, by the `proc_tid` of their process.
    pub(crate) fn merge_query_results(&mut self, results: &HashMap<Tid, TaskQueryResult>) {
        for process in &mut self.processes {
            let Some(results) = results.get(&process.mm.proc_tid) else {
                continue;
            };
            process.queried = true;
            for core in &mut process.cores {
                core::apply_query_result(&mut core.entry, core.tid, results);
            }
        }
    }

    /// Queries the originals for the state that would otherwise be queried in their snapshots. The originals stay
    /// frozen until all of their memory is dumped.
    ///
    /// # Errors
    ///
    /// A process exited or is no longer stopped.
    pub(crate) fn query_fork_states(&mut self, log: &mut DumpLog) -> Result<(), Error> {
        for process in self.processes.iter_mut().filter(|process| process.queried) {
            let Mm {
                process: id,
                proc_tid,
                syscall_insn,
                ..
            } = process.mm;
            if let Some(syscall_insn) = syscall_insn {
                let task = &mut TaskCtx::new(id.pid, proc_tid, log);
                process.fork_state = fork_state::query(task, syscall_insn, None, 0)?;
            }
        }
        Ok(())
    }

    /// The pages files of shared memory.
    pub(crate) fn shmem_pages_files(&self) -> &[PagesFile] {
        &self.images.pages
    }

    /// Dumps the remaining state from the originals or from their snapshots.
    ///
    /// # Errors
    ///
    /// A process exited or cannot be read, the caller cancelled, or the deadline passed.
    pub(crate) fn finish(
        self,
        source: MemorySource<'_>,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<ImageSet, Error> {
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
        let mut deferred_mms = Vec::new();
        for process in self.processes {
            cancel.check()?;
            let TaskDump {
                mm,
                cores,
                queried,
                mut fork_state,
            } = process;
            let pid = mm.process.pid;
            let source_tid = match source {
                MemorySource::Originals => mm.proc_tid,
                MemorySource::Snapshots(snapshots) => {
                    let snapshot_pid = snapshots.pid_of(mm.proc_tid).ok_or(Error::TaskExited { pid })?;
                    if let Some(syscall_insn) = mm.syscall_insn.filter(|_| queried) {
                        let (buffer, options) = (snapshots.buffer(snapshot_pid), libc::PTRACE_O_EXITKILL);
                        let task = &mut TaskCtx::new(pid, snapshot_pid.main_thread(), log);
                        fork_state = fork_state::query(task, syscall_insn, buffer, options)?;
                    }
                    snapshot_pid.main_thread()
                }
            };
            if let MemorySource::Snapshots(snapshots) = source {
                snapshots.restore_rseq(mm.proc_tid);
            }
            for CoreImage { id, mut entry, .. } in cores {
                if let Some(fork_state) = &fork_state {
                    core::apply_fork_state(&mut entry, fork_state);
                }
                images.push(Kind::Core.file_name(id), encode(Kind::Core, [&entry]));
            }
            deferred_mms.push(mm.finish(source_tid, fork_state.as_ref(), &mut images, &mut files, log)?);
        }
        files.push_images(&mut images);
        Ok(ImageSet {
            descriptors,
            images: images.images,
            deferred_mms,
            pages: images.pages,
            processes,
            threads,
            pages_scanned: images.pages_scanned,
            shared_pages_scanned,
        })
    }
}

/// `descriptors.json`, as runc writes it: the targets of fds 0 to 2 of the init process, empty for a closed fd.
fn standard_streams(tree: &Pstree<'_>) -> serde_json::Value {
    let proc_tid = tree.nodes().first().and_then(|node| node.process.proc_tid());
    (0..3)
        .map(|fd| {
            proc_tid
                .and_then(|tid| proc_files::read_link(tid, &format!("fd/{fd}")).ok())
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect::<Vec<_>>()
        .into()
}
