//! Process identities and the process tree, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use procfs::process::Stat;

use super::{
    Pid, ProcessId, Tid,
    proc_files::{self, StatusText, has_exited},
};

/// Identity and state of a process: fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Pid and start time.
    pub id: ProcessId,
    /// The state of the thread group leader, one letter: `R`, `S`, `D`, `Z`, `T`, `t`, ...
    pub state: char,
    /// The pid of the parent; 0 when the parent is outside of this pid namespace.
    pub ppid: Pid,
    /// The session id.
    pub sid: Pid,
    /// CPU time, in clock ticks, of the children that have exited and were waited for.
    pub children_cpu_ticks: u64,
    dead: bool,
}

impl ProcStat {
    /// Reads a process. `NotFound` when there is no such process.
    pub fn read(pid: Pid) -> io::Result<Self> {
        let stat = proc_files::stat(pid.main_thread()).map_err(esrch_as_not_found)?;
        let mut process = Self::new(&stat);
        if has_exited(&stat) && !process.dead {
            // The thread count of `stat` also includes exited threads whose tracer has not waited for them.
            process.dead = find_live_thread(pid).is_none();
        }
        Ok(process)
    }

    fn new(stat: &Stat) -> Self {
        Self {
            id: process_id(stat),
            state: stat.state,
            ppid: Pid::from_raw(stat.ppid),
            sid: Pid::from_raw(stat.session),
            children_cpu_ticks: (stat.cutime + stat.cstime).unsigned_abs(),
            dead: has_exited(stat) && stat.num_threads <= 1,
        }
    }

    /// Whether the process has exited and only waits to be reaped. A process whose leader has exited (`pthread_exit` in
    /// `main`) is alive as long as another thread is: the kernel does not let its parent reap it earlier.
    pub fn is_dead(&self) -> bool {
        self.dead
    }
}

fn process_id(stat: &Stat) -> ProcessId {
    ProcessId {
        pid: Pid::from_raw(stat.pid),
        start_time: stat.starttime,
    }
}

impl ProcessId {
    /// The process that has this pid now. `NotFound` when there is none.
    pub fn from_pid(pid: Pid) -> io::Result<Self> {
        proc_files::stat(pid.main_thread())
            .map(|stat| process_id(&stat))
            .map_err(esrch_as_not_found)
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        Self::from_pid(Pid::current())
    }

    /// Whether the process is neither reaped nor a zombie.
    pub fn is_alive(self) -> bool {
        ProcStat::read(self.pid).is_ok_and(|stat| stat.id == self && !stat.is_dead())
    }
}

/// All processes visible in `/proc`. Processes that exit meanwhile are omitted.
pub fn all_processes() -> io::Result<Vec<ProcStat>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match ProcStat::read(pid) {
            Ok(stat) => all.push(stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The children of all threads of a process. Without `CONFIG_PROC_CHILDREN`, this function scans all processes.
///
/// The kernel guarantees a complete list only while no child exits and no process forks. A caller that needs all
/// children must repeat the call until nothing new appears.
pub fn children(pid: Pid) -> io::Result<Vec<ProcStat>> {
    let mut stats = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(esrch_as_not_found)? {
        let text = match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => text,
            Err(_) if fs::exists("/proc/self/task")? && !fs::exists("/proc/thread-self/children")? => {
                return Ok(all_processes()?.into_iter().filter(|stat| stat.ppid == pid).collect());
            }
            // The thread has exited; its children have another parent now.
            Err(_) => continue,
        };
        for child in text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            match ProcStat::read(child) {
                Ok(stat) => stats.push(stat),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(stats)
}

/// The descendants of a process, without the process itself, parents before children.
pub fn descendants(pid: Pid) -> io::Result<Vec<ProcStat>> {
    let mut stats: Vec<ProcStat> = Vec::new();
    let mut visited = HashSet::from([pid]);
    let mut level = children(pid)?;
    while !level.is_empty() {
        level.retain(|stat| visited.insert(stat.id.pid));
        stats.extend_from_slice(&level);
        let mut next_level = Vec::new();
        for stat in &level {
            match children(stat.id.pid) {
                Ok(more) => next_level.extend(more),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        level = next_level;
    }
    Ok(stats)
}

/// The pids in `all` that descend from one of `roots`, without the roots.
pub fn descendants_of(all: &[ProcStat], roots: &HashSet<Pid>) -> HashSet<Pid> {
    let parents: HashMap<Pid, Pid> = all.iter().map(|stat| (stat.id.pid, stat.ppid)).collect();
    let descends = |pid: Pid| {
        let mut ancestor = pid;
        // A chain of parents is not longer than the number of processes; more steps would be a cycle.
        for _ in 0..all.len() {
            match parents.get(&ancestor) {
                Some(parent) if roots.contains(parent) => return true,
                Some(parent) => ancestor = *parent,
                None => return false,
            }
        }
        false
    };
    all.iter()
        .map(|stat| stat.id.pid)
        .filter(|pid| !roots.contains(pid) && descends(*pid))
        .collect()
}

/// A thread that has not exited: the leader, or another thread if the leader has exited. Returns the leader when there
/// is none.
pub fn live_thread(pid: Pid) -> Tid {
    find_live_thread(pid).unwrap_or(pid.main_thread())
}

fn find_live_thread(pid: Pid) -> Option<Tid> {
    let is_live = |tid: &Tid| proc_files::stat(*tid).is_ok_and(|stat| !has_exited(&stat));
    if is_live(&pid.main_thread()) {
        return Some(pid.main_thread());
    }
    proc_files::threads(pid).ok()?.into_iter().find(is_live)
}

/// Whether the environment at the start of a process contains exactly `name=value`. False when it cannot be read.
pub fn environ_has(pid: Pid, name: &str, value: &str) -> bool {
    let expected = format!("{name}={value}");
    let environ = match proc_files::read(pid.main_thread(), "environ") {
        // Empty, or not readable, when the leader has exited.
        Ok(environ) if !environ.is_empty() => Ok(environ),
        _ => proc_files::read(live_thread(pid), "environ"),
    };
    environ.is_ok_and(|environ| {
        environ
            .split(|&byte| byte == 0)
            .any(|entry| entry == expected.as_bytes())
    })
}

/// Resident memory of a process in bytes; 0 when it has exited.
pub fn resident_bytes(pid: Pid) -> u64 {
    let resident = |tid: Tid| proc_files::statm(tid).map_or(0, |statm| statm.resident);
    let pages = match resident(pid.main_thread()) {
        // All zero when the leader has exited.
        0 => resident(live_thread(pid)),
        pages => pages,
    };
    pages * procfs::page_size()
}

/// The tracer of a thread. `None` when the thread is not traced, or by a thread of another pid namespace.
pub fn tracer_tid(tid: Tid) -> Option<Tid> {
    let tracer = StatusText::read(tid).ok()?.value("TracerPid:")?;
    tracer.try_into().ok().filter(|tid| *tid != 0).map(Tid::from_raw)
}

/// Whether any thread of a process is traced. The leader may have exited before the others.
pub fn is_traced(pid: Pid) -> bool {
    let threads = proc_files::threads(pid).unwrap_or_default();
    threads.into_iter().any(|tid| tracer_tid(tid).is_some())
}

/// A process that exits between open and read causes ESRCH, one that is gone earlier ENOENT. Both become `NotFound`.
pub(super) fn esrch_as_not_found(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ESRCH) {
        io::ErrorKind::NotFound.into()
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    fn parse(state: char, threads: u32) -> ProcStat {
        let text = format!(
            "42 (a) (b\n) {state} 7 42 41 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 {threads} 0 987654 1 2 3 4 5 6 7 8 9 10 11 \
             12 13 14 15\n"
        );
        ProcStat::new(&Stat::from_read(text.as_bytes()).expect("a stat line"))
    }

    #[test]
    fn comm_with_parentheses_is_parsed() {
        let stat = parse('S', 1);
        let (pid, start_time) = (Pid::from_raw(42), 987_654);
        assert_eq!(stat.id, ProcessId { pid, start_time });
        assert_eq!((stat.state, stat.ppid.as_raw(), stat.sid.as_raw()), ('S', 7, 41));
        assert_eq!((stat.children_cpu_ticks, stat.is_dead()), (78, false));
    }

    #[test]
    fn dead_leader_with_live_threads_is_alive() {
        assert!(parse('Z', 1).is_dead());
        assert!(!parse('Z', 2).is_dead());
    }

    #[test]
    fn current_process_is_found() {
        let me = ProcessId::current().expect("/proc is mounted");
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start_time: me.start_time + 1,
                ..me
            }
            .is_alive()
        );
        assert!(
            all_processes()
                .expect("/proc is mounted")
                .iter()
                .any(|stat| stat.id == me)
        );
    }

    #[test]
    fn descendants_of_walks_all_levels() {
        let stat = |pid, parent| ProcStat {
            id: ProcessId {
                pid: Pid::from_raw(pid),
                start_time: 1,
            },
            state: 'S',
            ppid: Pid::from_raw(parent),
            sid: Pid::from_raw(pid),
            children_cpu_ticks: 0,
            dead: false,
        };
        let all = [stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1)];
        let set = |pids: &[i32]| -> HashSet<Pid> { pids.iter().copied().map(Pid::from_raw).collect() };
        assert_eq!(descendants_of(&all, &set(&[2])), set(&[3, 4]));
    }
}
