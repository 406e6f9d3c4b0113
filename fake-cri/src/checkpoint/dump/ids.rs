//! `ids-PID.img`: ids of kernel objects, which are equal if processes share the object.

use std::{collections::HashMap, fs};

use cri_proto::criu::message::TaskKobjIdsEntry;

use super::context::TaskCtx;
use crate::process::{
    Pid, Tid,
    syscalls::{KcmpType, kcmp_equal},
};

/// The namespaces that a container has only because it was restored: a restored init can have its old pid only in a new
/// pid namespace. The next restore creates such namespaces anyway, so they are dumped as if they were the dumper's.
pub(super) fn restored_namespaces(init: Tid) -> &'static [&'static str] {
    let dumper = Pid::current().main_thread();
    match namespace(init, "pid") == namespace(dumper, "pid") {
        true => &[],
        false => &["mnt", "pid", "pid_for_children"],
    }
}

fn namespace(tid: Tid, name: &str) -> Option<String> {
    let target = fs::read_link(format!("/proc/{tid}/ns/{name}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

pub(super) struct Ids {
    /// The namespaces of a restored container, each with the dumper's namespace that replaces it in the images.
    dumper_namespaces: HashMap<String, String>,
    namespaces: HashMap<String, u32>,
    processes: Vec<(Tid, TaskKobjIdsEntry)>,
}

impl Ids {
    /// `init` is a live thread of the container's init process.
    pub(super) fn new(init: Tid) -> Self {
        let dumper = Pid::current().main_thread();
        let replaced = |name: &&str| Some((namespace(init, name)?, namespace(dumper, name)?));
        Self {
            dumper_namespaces: restored_namespaces(init).iter().filter_map(replaced).collect(),
            namespaces: HashMap::new(),
            processes: Vec::new(),
        }
    }

    /// The ids of the dumper's namespaces. A container process in the same namespace shares the host's, and a restore
    /// puts it into the restorer's.
    pub(super) fn dumper_ids(&mut self) -> TaskKobjIdsEntry {
        // The dumper's own objects have no meaning for a reader; CRIU writes 0 too.
        self.with_namespaces(Pid::current().main_thread(), [0; 4])
    }

    /// The ids of a process of the container.
    pub(super) fn task_ids(&mut self, task: &mut TaskCtx<'_>) -> TaskKobjIdsEntry {
        let proc_tid = task.proc_tid;
        let next_id = u32::try_from(self.processes.len() + 1).expect("fewer processes than pids");
        let shared_id = |kcmp_type, id_of: fn(&TaskKobjIdsEntry) -> u32| {
            self.processes
                .iter()
                .find(|(other_tid, _)| kcmp_equal(proc_tid, *other_tid, kcmp_type) == Some(true))
                .map_or(next_id, |(_, entry)| id_of(entry))
        };
        let objects = [
            shared_id(KcmpType::Vm, |entry| entry.vm_id),
            shared_id(KcmpType::Files, |entry| entry.files_id),
            shared_id(KcmpType::Fs, |entry| entry.fs_id),
            shared_id(KcmpType::Sighand, |entry| entry.sighand_id),
        ];
        let [memory, _, directories, handlers] = objects;
        for (id, object) in [
            (memory, "its memory"),
            (directories, "its root, working directory and umask"),
            (handlers, "its signal handlers"),
        ] {
            if id != next_id {
                task.unsupported(format_args!("sharing of {object} with another process"));
            }
        }
        let entry = self.with_namespaces(proc_tid, objects);
        self.processes.push((proc_tid, entry));
        entry
    }

    /// Whether the process of this entry, which was added last, is the first with its fd table.
    pub(super) fn is_first_of_fd_table(&self, entry: &TaskKobjIdsEntry) -> bool {
        self.processes
            .iter()
            .filter(|(_, other)| other.files_id == entry.files_id)
            .count()
            == 1
    }

    fn with_namespaces(&mut self, tid: Tid, [vm_id, files_id, fs_id, sighand_id]: [u32; 4]) -> TaskKobjIdsEntry {
        let mut namespace = |name: &str| {
            let target = namespace(tid, name)?;
            let target = self.dumper_namespaces.get(&target).cloned().unwrap_or(target);
            let next_id = u32::try_from(self.namespaces.len() + 1).expect("few namespaces");
            Some(*self.namespaces.entry(target).or_insert(next_id))
        };
        TaskKobjIdsEntry {
            vm_id,
            files_id,
            fs_id,
            sighand_id,
            pid_ns_id: namespace("pid"),
            net_ns_id: namespace("net"),
            ipc_ns_id: namespace("ipc"),
            uts_ns_id: namespace("uts"),
            mnt_ns_id: namespace("mnt"),
            user_ns_id: namespace("user"),
            cgroup_ns_id: namespace("cgroup"),
            time_ns_id: namespace("time"),
        }
    }
}
