//! Queries the state of every frozen process by remote syscalls, and forks a snapshot of each if no process can notice.
//!
//! ```text
//!   begin     each process gets a syscall list that ends with a clone          --> executes the list
//!             the tracer reads the remaining state from /proc                   each snapshot stops at its start
//!   finish    results; each snapshot closes fds and unmaps shared memory, while its original is restored
//! ```
//!
//! If a snapshot could be noticed, or could make the container fail, no snapshot is made and the container stays frozen
//! until all of its memory is dumped. [`SnapshotRefused`] gives the reason.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    time::Duration,
};

use nix::errno::Errno;

use super::{
    SavedRseq, Snapshot, SnapshotSet, kill_and_wait,
    plan::{SnapshotPlan, SnapshotRefused},
    prescan::Prescan,
    resources, snapshot_error,
};
use crate::{
    checkpoint::{
        Host,
        dump::{
            CloneOutcome, FrozenScan, Mm, PstreeNode, QueryError, QueryOutcome, TaskQuery, TaskQueryResult,
            log_unqueryable,
        },
        dump_log::DumpLog,
        error::Error,
        freeze::FrozenContainer,
    },
    process::{
        Pid, ProcessId, Tid, proc_files, pstree,
        remote_syscalls::{PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer, SyscallInsn},
    },
};

/// Processes with more shared mappings than this are not snapshotted, because each mapping needs an munmap during the
/// freeze. With the parasite query, all calls must fit into one syscall list.
const MAX_SHARED_MAPPINGS: usize = 224;
const _: () = assert!(MAX_SHARED_MAPPINGS + TaskQuery::MAX_CALLS < SyscallBuffer::CAPACITY);
/// Processes with more private memory that fork does not preserve are not snapshotted, because fake-cri keeps this
/// memory until it is written.
const MAX_NOT_FORKED_BYTES: u64 = 16 << 20;

/// A process with a query in flight.
struct PendingFork {
    original: ProcessId,
    proc_tid: Tid,
    syscall_insn: Option<SyscallInsn>,
    query: TaskQuery,
    saved_rseqs: Vec<SavedRseq>,
    /// The system calls that the snapshot executes after the fork.
    snapshot_calls: Vec<Syscall>,
}

/// The queries and forks in flight. Drop restores all processes and kills their snapshots.
pub(crate) struct SnapshotBuilder<'a> {
    pending_forks: Vec<PendingFork>,
    refused: Option<SnapshotRefused>,
    snapshots: Option<SnapshotSet<'a>>,
    /// The pids of the container.
    members: BTreeSet<Pid>,
}

/// What [`SnapshotBuilder::finish`] returns.
pub(crate) struct ForkOutcome<'a> {
    /// The query results, by the `proc_tid` of the process.
    pub(crate) query_results: HashMap<Tid, TaskQueryResult>,
    /// The snapshots, or the reason why there are none.
    pub(crate) snapshots: Result<SnapshotSet<'a>, SnapshotRefused>,
}

impl<'a> SnapshotBuilder<'a> {
    /// Starts the query of every process, and the snapshots if `plan` says so. An original that runs again later must
    /// stop within `bound` to reap its snapshot.
    ///
    /// # Errors
    ///
    /// A process exited meanwhile, or its registers could not be restored.
    pub(crate) fn begin(
        host: &'a dyn Host,
        frozen: &FrozenContainer<'_>,
        frozen_scan: &FrozenScan<'_>,
        plan: SnapshotPlan,
        bound: Duration,
        log: &mut DumpLog,
    ) -> Result<Self, Error> {
        let refused = match plan {
            SnapshotPlan::Snapshots(prescan) => check_eligible(frozen_scan, &prescan).err(),
            SnapshotPlan::FullFreeze(refused) => Some(refused),
        };
        let mut builder = Self {
            pending_forks: Vec::new(),
            refused,
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
        match TaskQuery::start(node, mm, clone, log) {
            Ok(query) => self.pending_forks.push(PendingFork {
                original,
                proc_tid,
                syscall_insn: mm.syscall_insn,
                query,
                saved_rseqs,
                snapshot_calls,
            }),
            Err(QueryError::Unqueryable(error)) => {
                log_unqueryable(pid, &error, log);
                self.refused.get_or_insert(match error {
                    RemoteSyscallError::NoSyscallInsn => SnapshotRefused::NoSyscallInsn(pid),
                    source => SnapshotRefused::RemoteSyscall { pid, source },
                });
            }
            Err(QueryError::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    /// Waits for the query results, and until the snapshots have closed and unmapped everything that others could
    /// notice.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) fn finish(mut self, log: &mut DumpLog) -> Result<ForkOutcome<'a>, Error> {
        let mut query_results = HashMap::new();
        let mut cleaning_up = Vec::new();
        // On an error, Drop needs all fields in place to restore the originals and kill the snapshots.
        let Self {
            pending_forks,
            refused,
            snapshots,
            ..
        } = &mut self;
        let snapshots = snapshots.as_mut().expect("taken only at the end of finish");
        for fork in &mut *pending_forks {
            let pid = fork.original.pid;
            let queried = fork.query.wait(log);
            let snapshot = register(fork, snapshots);
            let QueryOutcome { result, clone } = queried?;
            query_results.insert(fork.proc_tid, result);
            match (clone, snapshot) {
                (CloneOutcome::NotRequested, _) => {}
                (CloneOutcome::Failed(errno), _) => {
                    let call = "clone";
                    refused.get_or_insert(SnapshotRefused::Syscall { pid, call, errno });
                }
                (CloneOutcome::Cloned(_), None) => {
                    return Err(Error::capture(pid, "the snapshot's clone event", Errno::EPROTO));
                }
                (CloneOutcome::Cloned(ns_pid), Some(snapshot)) => {
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
        let snapshots = self.snapshots.take().expect("taken only here");
        Ok(ForkOutcome {
            query_results,
            snapshots: self.refused.take().map_or(Ok(snapshots), Err),
        })
    }
}

impl SnapshotBuilder<'_> {
    /// Kills the snapshots that were not reported because their originals were killed during the clone. A process that
    /// this thread traces and that is not a member of the container can only be such a snapshot.
    fn kill_unreported_children(&self, snapshots: &mut SnapshotSet<'_>) {
        let reported: BTreeSet<Pid> = snapshots.iter_mut().map(|snapshot| snapshot.pid).collect();
        let tracer = Tid::current();
        let all_processes = pstree::all_processes().unwrap_or_default().into_iter();
        let unknown = all_processes
            .map(|proc_stat| proc_stat.id.pid)
            .filter(|pid| !self.members.contains(pid) && !reported.contains(pid));
        for pid in unknown.filter(|pid| pstree::tracer_tid(pid.main_thread()) == Some(tracer)) {
            kill_and_wait(pid);
        }
    }
}

impl Drop for SnapshotBuilder<'_> {
    fn drop(&mut self) {
        let Some(mut snapshots) = self.snapshots.take() else {
            return;
        };
        for fork in &mut self.pending_forks {
            // The error that caused the drop was already reported.
            let _ = fork.query.detach();
            register(fork, &mut snapshots);
        }
        self.kill_unreported_children(&mut snapshots);
    }
}

/// Adds the snapshot of a process to the set, if there is one.
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

/// Starts the cleanup calls in a new snapshot.
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

/// Waits until a snapshot has executed its cleanup calls and is stopped. Returns the call that failed.
fn end_cleanup(
    snapshot: &mut Snapshot,
    mut remote: RemoteSyscalls,
    pending_list: PendingList,
) -> Result<Option<SnapshotRefused>, RemoteSyscallError> {
    let results = remote.finish_list(snapshot.buffer.as_mut(), pending_list)?;
    remote.finish()?;
    let calls = ["close_range"].into_iter().chain(std::iter::repeat("munmap"));
    let refusal = results.iter().zip(calls).find_map(|(result, call)| {
        result.result.err().map(|errno| SnapshotRefused::Syscall {
            pid: snapshot.original.pid,
            call,
            errno,
        })
    });
    Ok(refusal)
}

/// The system calls by which a snapshot drops everything that others could notice.
fn cleanup_calls(mm: &Mm) -> Vec<Syscall> {
    let max_fd = u64::from(u32::MAX);
    // A MADV_DONTFORK mapping is absent in the snapshot. munmap of an absent mapping is no error.
    let unmap_calls = mm.shared_ranges().map(|range| {
        let length = range.end - range.start;
        Syscall::new(libc::SYS_munmap, [range.start, length, 0, 0, 0, 0])
    });
    let close_call = Syscall::new(libc::SYS_close_range, [0, max_fd, 0, 0, 0, 0]);
    [close_call].into_iter().chain(unmap_calls).collect()
}

/// A child of this process makes its snapshot a child of this process too. The init of a pid namespace may not use
/// `CLONE_PARENT`.
fn clone_flags(node: &PstreeNode<'_>, proc_tid: Tid) -> u64 {
    let is_our_child = node.stat.ppid == Pid::current().as_raw();
    match is_our_child && !node.is_ns_init(proc_tid) {
        true => libc::CLONE_PARENT as u64,
        false => 0,
    }
}

/// Classifies the failure of a snapshot: a reason not to make snapshots, or an error that ends the checkpoint.
fn classify(pid: Pid, error: RemoteSyscallError) -> Result<SnapshotRefused, Error> {
    match error {
        RemoteSyscallError::Exited | RemoteSyscallError::TimedOut(_) => Err(snapshot_error(pid, error)),
        source => Ok(SnapshotRefused::RemoteSyscall { pid, source }),
    }
}

/// Checks that no process can notice the snapshots, and that no limit is exceeded.
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

/// Checks one process, where `snapshot_count` snapshots are made in all.
fn check_process(mm: &Mm, snapshot_count: u64, prescan: &Prescan) -> Result<(), SnapshotRefused> {
    let (pid, proc_tid) = (mm.process.pid, mm.proc_tid);
    let shared = mm.shared_ranges().count();
    if shared > MAX_SHARED_MAPPINGS {
        return Err(SnapshotRefused::SharedMappings(pid, shared));
    }
    if !prescan.contains(mm.process) {
        // The process started after the prescan, so its resources were not checked then.
        let status = proc_files::status(proc_tid).ok();
        let bytes = status.map_or(0, |status| status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0));
        resources::check(pid, snapshot_count, bytes * 1024)?;
    }
    for (own_ns, children_ns) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
        let namespace = |name: &str| fs::read_link(format!("/proc/{proc_tid}/ns/{name}")).ok();
        // A namespace without a process cannot be read. Its link then also differs from that of the process's own
        // namespace.
        if namespace(own_ns).is_some() && namespace(own_ns) != namespace(children_ns) {
            return Err(SnapshotRefused::ChildNamespace(pid));
        }
    }
    Ok(())
}
