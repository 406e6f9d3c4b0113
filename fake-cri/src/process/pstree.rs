//! Process identities and the process tree, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use super::ProcessId;

/// Identity and state of a process: fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Pid and start time.
    pub id: ProcessId,
    /// The state of the thread group leader, one letter: `R`, `S`, `D`, `Z`, `T`, `t`, ...
    pub state: u8,
    /// Whether at least one thread has not exited.
    pub alive: bool,
    /// The pid of the parent; 0 when the parent is outside of this pid namespace.
    pub ppid: i32,
    /// The process group id.
    pub pgid: i32,
    /// The session id.
    pub sid: i32,
    /// CPU time, in clock ticks, of the children that have exited and were waited for.
    pub children_cpu_ticks: u64,
}

impl ProcStat {
    /// Reads a process. `NotFound` when there is no such process.
    pub fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).map_err(esrch_as_not_found)?;
        let mut stat = Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))?;
        if stat.alive && !stat.is_leader_alive() {
            // The thread count of `stat` also includes exited threads whose tracer has not waited for them.
            stat.alive = find_live_thread(pid).is_some();
        }
        Ok(stat)
    }

    /// The name in parentheses may contain anything, even parentheses and newlines, so the fields start after the last
    /// parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
        // The first element is field 3 of the manual page.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let parse_field = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        let state = *fields.first()?.as_bytes().first()?;
        Some(Self {
            id: ProcessId {
                pid,
                start_time: u64::try_from(parse_field(22)?).ok()?,
            },
            state,
            alive: is_thread_alive(state) || parse_field(20)? > 1,
            ppid: parse_field(4)?.try_into().ok()?,
            pgid: parse_field(5)?.try_into().ok()?,
            sid: parse_field(6)?.try_into().ok()?,
            children_cpu_ticks: u64::try_from(parse_field(16)? + parse_field(17)?).ok()?,
        })
    }

    /// Whether the process has exited and only waits to be reaped. A process whose leader has exited (`pthread_exit` in
    /// `main`) is alive as long as another thread is: the kernel does not let its parent reap it earlier.
    pub fn is_dead(&self) -> bool {
        !self.alive
    }

    fn is_leader_alive(&self) -> bool {
        is_thread_alive(self.state)
    }
}

fn is_thread_alive(state: u8) -> bool {
    !matches!(state, b'Z' | b'X')
}

impl ProcessId {
    /// The process that has this pid now. `NotFound` when there is none.
    pub fn from_pid(pid: i32) -> io::Result<Self> {
        ProcStat::read(pid).map(|stat| stat.id)
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        Self::from_pid(nix::unistd::getpid().as_raw())
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
pub fn children(pid: i32) -> io::Result<Vec<ProcStat>> {
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
pub fn descendants(pid: i32) -> io::Result<Vec<ProcStat>> {
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
pub fn descendants_of(all: &[ProcStat], roots: &HashSet<i32>) -> HashSet<i32> {
    let parents: HashMap<i32, i32> = all.iter().map(|stat| (stat.id.pid, stat.ppid)).collect();
    let descends = |pid: i32| {
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

/// The tid of a thread that has not exited: the leader, or another thread if the leader has exited. Returns `pid` when
/// there is none.
pub fn live_thread(pid: i32) -> i32 {
    find_live_thread(pid).unwrap_or(pid)
}

fn find_live_thread(pid: i32) -> Option<i32> {
    let is_live = |tid: &i32| {
        let stat = fs::read(format!("/proc/{pid}/task/{tid}/stat"))
            .ok()
            .and_then(|text| ProcStat::parse(&text));
        stat.is_some_and(|stat| stat.is_leader_alive())
    };
    if is_live(&pid) {
        return Some(pid);
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut tids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    tids.find(is_live)
}

/// Reads a file that depends on the address space. For an exited leader such a file is empty or cannot be read, so
/// another thread's file is read.
fn read_mm_file(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/{name}")) {
        Ok(text) if !text.is_empty() => Ok(text),
        leader_file => match live_thread(pid) {
            live_tid if live_tid == pid => leader_file,
            live_tid => fs::read(format!("/proc/{pid}/task/{live_tid}/{name}")),
        },
    }
}

/// Whether the environment at the start of a process contains exactly `name=value`. False when it cannot be read.
pub fn environ_has(pid: i32, name: &str, value: &str) -> bool {
    let expected = format!("{name}={value}");
    read_mm_file(pid, "environ")
        .is_ok_and(|text| text.split(|&byte| byte == 0).any(|entry| entry == expected.as_bytes()))
}

/// Resident memory of a process in bytes; 0 when it has exited.
pub fn resident_bytes(pid: i32) -> u64 {
    let pages = |tid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/statm")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let resident_pages = match pages(pid) {
        // All zero when the leader has exited.
        None | Some(0) => pages(live_thread(pid)),
        some => some,
    };
    resident_pages.unwrap_or(0) * page_size()
}

/// The tid of the tracer of the thread group leader, or 0.
pub fn tracer_tid(pid: i32) -> i32 {
    parse_tracer_pid(Path::new(&format!("/proc/{pid}/status")))
}

/// Whether any thread of a process is traced. The leader may have exited before the others.
pub fn is_traced(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .into_iter()
        .any(|thread| parse_tracer_pid(&thread.path().join("status")) != 0)
}

fn parse_tracer_pid(status: &Path) -> i32 {
    let status = fs::read_to_string(status).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
        .unwrap_or(0)
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// A process that exits between open and read causes ESRCH, one that is gone earlier ENOENT. Both become `NotFound`.
fn esrch_as_not_found(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ESRCH) {
        io::ErrorKind::NotFound.into()
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_with_parentheses_is_parsed() {
        let text = b"42 (a) (b\n) S 7 42 41 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 1 0 987654 1 2 3\n";
        let stat = ProcStat::parse(text).expect("a stat line");
        assert_eq!(
            stat.id,
            ProcessId {
                pid: 42,
                start_time: 987_654
            }
        );
        assert_eq!((stat.state, stat.ppid, stat.pgid, stat.sid), (b'S', 7, 42, 41));
        assert_eq!((stat.children_cpu_ticks, stat.alive), (78, true));
    }

    #[test]
    fn dead_leader_with_live_threads_is_alive() {
        let zombie =
            |threads| format!("42 (a) Z 7 42 41 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 {threads} 0 987654 1 2 3\n");
        assert!(ProcStat::parse(zombie(1).as_bytes()).expect("a stat line").is_dead());
        assert!(!ProcStat::parse(zombie(2).as_bytes()).expect("a stat line").is_dead());
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
            id: ProcessId { pid, start_time: 1 },
            state: b'S',
            alive: true,
            ppid: parent,
            pgid: pid,
            sid: pid,
            children_cpu_ticks: 0,
        };
        let all = [stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1)];
        assert_eq!(descendants_of(&all, &HashSet::from([2])), HashSet::from([3, 4]));
    }
}
