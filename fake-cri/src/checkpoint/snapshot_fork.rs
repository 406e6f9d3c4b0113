//! Every process that stands is asked about itself, and copies itself behind its answers, where that harms nobody.
//!
//! ```text
//!   begin     each process is given its calls, the last of which is a clone     --> runs through them
//!             the tracer reads what else there is                                   each copy waits at its birth
//!   end       answers; each copy closes descriptors and unmaps what is shared, while its original is put back
//! ```
//!
//! Where a copy could be noticed, or could make the container fail, none is made, and the container stands still until all is
//! read: [`Unfit`] says why.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    time::Duration,
};

use nix::{errno::Errno, unistd::gettid};

use super::{
    Host,
    dump::{FrozenScan, Mm, PstreeNode, TaskQuery, TaskQueryResult, log_unqueryable},
    dump_log::DumpLog,
    error::Error,
    freeze::FrozenContainer,
    prescan::Prescan,
    resources::{self, InsufficientResources},
    snapshot::{self, SavedRseq, Snapshot, SnapshotSet, snapshot_error},
};
use crate::process::{
    ProcessId, proc_files, pstree,
    remote_syscalls::{PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer, SyscallInsn},
};

/// More shared mappings than this are not unmapped one by one while the container stands. With what a process is asked they fit
/// into one list.
const MAX_SHARED_MAPPINGS: usize = 224;
const _: () = assert!(MAX_SHARED_MAPPINGS + TaskQuery::MAX_CALLS < SyscallBuffer::CAPACITY);
/// More bytes of private memory that a fork does not carry are not held while the container runs on.
const MAX_NOT_FORKED_BYTES: u64 = 16 << 20;

/// Why the container is not copied but stands still until all is read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotRefused {
    #[error("that was asked for")]
    DisabledByFlag,
    #[error("a fault or a delay wants it to stand still")]
    FaultOrDelay,
    #[error("{0}")]
    Resources(#[from] InsufficientResources),
    #[error("process {pid}: {source}")]
    RemoteSyscall { pid: i32, source: RemoteSyscallError },
    #[error("process {pid}: {call}: {errno}")]
    Syscall { pid: i32, call: &'static str, errno: Errno },
    #[error("process {0} handles page faults of its own (userfaultfd), and may be told of a fork")]
    Userfaultfd(i32),
    #[error("process {0} has its children begin in another namespace")]
    ChildNamespace(i32),
    #[error("process {0} has {1} shared mappings")]
    SharedMappings(i32, usize),
    #[error("process {0} cannot be made to call the kernel")]
    NoSyscallInsn(i32),
    #[error("{0} bytes of private memory are not for forks (MADV_DONTFORK, MADV_WIPEONFORK, huge pages)")]
    NotForkedMemory(u64),
}

/// A process that answers.
struct PendingFork {
    original: ProcessId,
    proc_tid: i32,
    syscall_insn: Option<SyscallInsn>,
    query: TaskQuery,
    saved_rseqs: Vec<SavedRseq>,
    /// What its copy has to do.
    snapshot_calls: Vec<Syscall>,
}

/// What all processes are asked is under way. Dropped, they stand as they stood, and no copy is left.
pub(crate) struct SnapshotBuilder<'a> {
    pending_forks: Vec<PendingFork>,
    refused: Option<SnapshotRefused>,
    snapshots: Option<SnapshotSet<'a>>,
    /// The container's processes.
    members: BTreeSet<i32>,
}

/// What the processes said, by the thread that each is seen through, and their copies, or why there are none.
pub(crate) type ForkOutcome<'a> = (HashMap<i32, TaskQueryResult>, Result<SnapshotSet<'a>, SnapshotRefused>);

impl<'a> SnapshotBuilder<'a> {
    /// Begins to ask every process. Without an prescan none is copied, for this reason. An original that runs again later has to
    /// stand within the bound.
    ///
    /// # Errors
    ///
    /// A process that ended meanwhile, or that could not be put back.
    pub(crate) fn begin(
        host: &'a dyn Host,
        frozen: &FrozenContainer<'_>,
        frozen_scan: &FrozenScan<'_>,
        prescan: Result<Prescan, SnapshotRefused>,
        bound: Duration,
        log: &mut DumpLog,
    ) -> Result<Self, Error> {
        let mut builder = Self {
            pending_forks: Vec::new(),
            refused: prescan.and_then(|prescan| check_eligible(frozen_scan, &prescan)).err(),
            snapshots: Some(SnapshotSet::new(host, bound)),
            members: frozen.processes().map(|process| process.pid()).collect(),
        };
        if builder.refused.is_none() {
            host.on_snapshot_starting();
        }
        for (node, mm) in frozen_scan.processes() {
            builder.begin_fork(node, mm, log)?;
        }
        Ok(builder)
    }

    fn begin_fork(&mut self, node: &PstreeNode<'_>, mm: &Mm, log: &mut DumpLog) -> Result<(), Error> {
        let (original, proc_tid) = (mm.process, mm.proc_tid);
        let pid = original.pid;
        let (mut saved_rseqs, mut snapshot_calls, mut clone) = (Vec::new(), Vec::new(), None);
        if self.refused.is_none() {
            saved_rseqs = SavedRseq::save_all(&node.threads).map_err(|errno| Error::capture(pid, "rseq", errno))?;
            snapshot_calls = cleanup_calls(mm);
            clone = Some((clone_flags(node, proc_tid), snapshot_calls.as_slice()));
        }
        match TaskQuery::start(node, mm, clone, log)? {
            Ok(query) => self.pending_forks.push(PendingFork {
                original,
                proc_tid,
                syscall_insn: mm.syscall_insn,
                query,
                saved_rseqs,
                snapshot_calls,
            }),
            Err(error) => {
                log_unqueryable(pid, &error, log);
                self.refused.get_or_insert(match error {
                    RemoteSyscallError::NoSyscallInsn => SnapshotRefused::NoSyscallInsn(pid),
                    source => SnapshotRefused::RemoteSyscall { pid, source },
                });
            }
        }
        Ok(())
    }

    /// Waits for the answers, and until the copies have let go of all that others could notice.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) fn finish(mut self, log: &mut DumpLog) -> Result<ForkOutcome<'a>, Error> {
        let mut answers = HashMap::new();
        let mut cleaning_up = Vec::new();
        // What fails on the way finds everything in its place, to be put back and removed.
        let Self {
            pending_forks,
            refused,
            snapshots,
            ..
        } = &mut self;
        let snapshots = snapshots.as_mut().expect("they are taken at the end");
        for fork in &mut *pending_forks {
            let pid = fork.original.pid;
            let queried = fork.query.wait(log);
            let snapshot = register(fork, snapshots);
            let (answer, clone_result) = queried?;
            answers.insert(fork.proc_tid, answer);
            match (clone_result, snapshot) {
                (None, _) => {}
                (Some(Err(errno)), _) => {
                    let call = "clone";
                    refused.get_or_insert(SnapshotRefused::Syscall { pid, call, errno });
                }
                (Some(Ok(_)), None) => return Err(Error::capture(pid, "the event of its copy", Errno::EPROTO)),
                (Some(Ok(ns_pid)), Some(snapshot)) => {
                    snapshot.ns_pid = Some(ns_pid);
                    match begin_cleanup(&fork.query, snapshot, &fork.snapshot_calls) {
                        Ok((remote, pending_list)) => cleaning_up.push((snapshot.pid, remote, pending_list)),
                        Err(error) => *refused = Some(classify(pid, error)?),
                    }
                }
            }
        }
        snapshots.publish();
        for fork in pending_forks {
            fork.query.detach()?;
        }
        for (pid, remote, pending_list) in cleaning_up {
            let Some(snapshot) = snapshots.iter_mut().find(|snapshot| snapshot.pid == pid) else {
                continue;
            };
            match end_cleanup(snapshot, remote, pending_list) {
                Ok(None) => {}
                Ok(Some(reason)) => *refused = Some(reason),
                Err(error) => *refused = Some(classify(snapshot.original.pid, error)?),
            }
        }
        let snapshots = self.snapshots.take().expect("nobody took them");
        Ok((answers, self.refused.take().map_or(Ok(snapshots), Err)))
    }
}

impl SnapshotBuilder<'_> {
    /// Ends the copies that nobody told of, since their originals were killed on the way back from making them. Who is traced by
    /// this thread and is none of the container's can be nothing else.
    fn kill_unreported_children(&self, snapshots: &mut SnapshotSet<'_>) {
        let reported: BTreeSet<i32> = snapshots.iter_mut().map(|snapshot| snapshot.pid).collect();
        let tracer = gettid().as_raw();
        let all_processes = pstree::all_processes().unwrap_or_default().into_iter();
        let unknown = all_processes
            .map(|proc_stat| proc_stat.id.pid)
            .filter(|pid| !self.members.contains(pid) && !reported.contains(pid));
        for pid in unknown.filter(|pid| pstree::tracer_tid(*pid) == tracer) {
            snapshot::kill_and_wait(pid);
        }
    }
}

impl Drop for SnapshotBuilder<'_> {
    fn drop(&mut self) {
        let Some(mut snapshots) = self.snapshots.take() else {
            return;
        };
        for fork in &mut self.pending_forks {
            // Whatever failed before says why.
            let _ = fork.query.detach();
            register(fork, &mut snapshots);
        }
        self.kill_unreported_children(&mut snapshots);
    }
}

/// Adds the copy that a process made, if it made one.
fn register<'t>(fork: &mut PendingFork, snapshots: &'t mut SnapshotSet<'_>) -> Option<&'t mut Snapshot> {
    let pid = fork.query.snapshot_pid()?;
    Some(snapshots.register(Snapshot {
        original: fork.original,
        proc_tid: fork.proc_tid,
        syscall_insn: fork.syscall_insn?,
        pid,
        ns_pid: None,
        saved_rseqs: std::mem::take(&mut fork.saved_rseqs),
        buffer: None,
    }))
}

/// Has a new copy make its calls.
fn begin_cleanup(
    query: &TaskQuery,
    snapshot: &mut Snapshot,
    snapshot_calls: &[Syscall],
) -> Result<(RemoteSyscalls, PendingList), RemoteSyscallError> {
    let (mut remote, buffer, behind) = query.attach_snapshot(snapshot.pid)?;
    snapshot.buffer = buffer;
    let pending_list = remote.run_child_list(snapshot.buffer.as_mut(), behind, snapshot_calls.to_vec())?;
    Ok((remote, pending_list))
}

/// Waits until a copy has made its calls and stands; which failed.
fn end_cleanup(
    snapshot: &mut Snapshot,
    mut remote: RemoteSyscalls,
    pending_list: PendingList,
) -> Result<Option<SnapshotRefused>, RemoteSyscallError> {
    let answers = remote.finish_list(snapshot.buffer.as_mut(), pending_list)?;
    remote.finish()?;
    let calls = ["close_range"].into_iter().chain(std::iter::repeat("munmap"));
    let refusal = answers.iter().zip(calls).find_map(|(answer, call)| {
        answer.result.err().map(|errno| SnapshotRefused::Syscall {
            pid: snapshot.original.pid,
            call,
            errno,
        })
    });
    Ok(refusal)
}

/// What a copy has to let go of, since others could notice it.
fn cleanup_calls(mm: &Mm) -> Vec<Syscall> {
    let max_fd = u64::from(u32::MAX);
    // MADV_DONTFORK mappings are not there to be unmapped, which is no error of munmap.
    let unmap_calls = mm.shared_ranges().map(|range| {
        let length = range.end - range.start;
        Syscall::new(libc::SYS_munmap, [range.start, length, 0, 0, 0, 0])
    });
    let close_call = Syscall::new(libc::SYS_close_range, [0, max_fd, 0, 0, 0, 0]);
    [close_call].into_iter().chain(unmap_calls).collect()
}

/// How a process makes its copy: a child of ours makes a child of ours. The first process of a namespace may not.
fn clone_flags(node: &PstreeNode<'_>, proc_tid: i32) -> u64 {
    let is_our_child = node.stat.ppid.cast_unsigned() == std::process::id();
    match is_our_child && !node.is_ns_init(proc_tid) {
        true => libc::CLONE_PARENT as u64,
        false => 0,
    }
}

/// What of the failure of a copy makes its process refused, and what ends the checkpoint.
fn classify(pid: i32, error: RemoteSyscallError) -> Result<SnapshotRefused, Error> {
    match error {
        RemoteSyscallError::Exited | RemoteSyscallError::TimedOut(_) => Err(snapshot_error(pid, error)),
        source => Ok(SnapshotRefused::RemoteSyscall { pid, source }),
    }
}

/// Whether copies of all processes harm nobody.
fn check_eligible(frozen_scan: &FrozenScan<'_>, prescan: &Prescan) -> Result<(), SnapshotRefused> {
    if let Some(pid) = frozen_scan.userfaultfd_pid() {
        return Err(SnapshotRefused::Userfaultfd(pid));
    }
    let not_forked = frozen_scan.processes().flat_map(|(_, mm)| mm.not_forked_runs());
    let bytes = not_forked.map(|run| run.range.end - run.range.start).sum();
    if bytes > MAX_NOT_FORKED_BYTES {
        return Err(SnapshotRefused::NotForkedMemory(bytes));
    }
    let count = frozen_scan.processes().count() as u64;
    frozen_scan
        .processes()
        .try_for_each(|(_, mm)| check_process(mm, count, prescan))
}

/// Whether a copy of this process, one of so many, harms nobody.
fn check_process(mm: &Mm, snapshot_count: u64, prescan: &Prescan) -> Result<(), SnapshotRefused> {
    let (pid, proc_tid) = (mm.process.pid, mm.proc_tid);
    let shared = mm.shared_ranges().count();
    if shared > MAX_SHARED_MAPPINGS {
        return Err(SnapshotRefused::SharedMappings(pid, shared));
    }
    if !prescan.contains(mm.process) {
        // It came just before the freeze, and was not looked at then.
        let status = proc_files::status(proc_tid).ok();
        let bytes = status.map_or(0, |status| status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0));
        resources::check(pid, snapshot_count, bytes * 1024)?;
    }
    for (own_ns, children_ns) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
        let namespace = |name: &str| fs::read_link(format!("/proc/{proc_tid}/ns/{name}")).ok();
        // A namespace that has no process yet cannot be read, which is no name of the own one either.
        if namespace(own_ns).is_some() && namespace(own_ns) != namespace(children_ns) {
            return Err(SnapshotRefused::ChildNamespace(pid));
        }
    }
    Ok(())
}
