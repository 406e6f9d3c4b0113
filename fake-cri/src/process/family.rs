//! Who a process is and who descends from it, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use super::ProcessId;

/// The fields of `/proc/PID/stat` that say who a process is (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    /// Who it is.
    pub id: ProcessId,
    /// The state of its first thread, one letter: `R`, `S`, `D`, `Z`, `T`, `t`, ...
    pub state: u8,
    /// Whether one of its threads has not ended.
    pub lives: bool,
    /// Its parent's number; 0 when the parent is not visible here.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Clock ticks of CPU time of its children that ended and were waited for.
    pub children_ticks: u64,
}

impl Kin {
    /// Reads a process. `NotFound` when there is none (any more).
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).map_err(gone)?;
        let mut kin = Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))?;
        if kin.lives && !kin.first_thread_lives() {
            // Its other threads are counted too when they have ended and a tracer has not waited for them.
            kin.lives = first_living_thread(pid).is_some();
        }
        Ok(kin)
    }

    /// The name in parentheses may hold anything, parentheses and line ends too, so the fields count from the last one.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
        // The first of these is field 3 of the manual page.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        let state = *fields.first()?.as_bytes().first()?;
        Some(Self {
            id: ProcessId {
                pid,
                start_time: u64::try_from(number(22)?).ok()?,
            },
            state,
            lives: thread_lives(state) || number(20)? > 1,
            parent: number(4)?.try_into().ok()?,
            group: number(5)?.try_into().ok()?,
            session: number(6)?.try_into().ok()?,
            children_ticks: u64::try_from(number(16)? + number(17)?).ok()?,
        })
    }

    /// Whether it has ended and only waits to be reaped. A process whose first thread has ended (`pthread_exit` in `main`) runs as
    /// long as another one does: the kernel lets nobody wait for it before.
    pub fn ended(&self) -> bool {
        !self.lives
    }

    fn first_thread_lives(&self) -> bool {
        thread_lives(self.state)
    }
}

/// Whether a thread in this state has not ended.
fn thread_lives(state: u8) -> bool {
    !matches!(state, b'Z' | b'X')
}

impl ProcessId {
    /// Who has this number now. `NotFound` when nobody has.
    pub fn of(pid: i32) -> io::Result<Self> {
        Kin::of(pid).map(|kin| kin.id)
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    /// Whether it still runs: neither gone nor waiting to be reaped.
    pub fn alive(self) -> bool {
        Kin::of(self.pid).is_ok_and(|kin| kin.id == self && !kin.ended())
    }
}

/// Every process that is visible here. Processes that end meanwhile are left out.
pub fn everyone() -> io::Result<Vec<Kin>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match Kin::of(pid) {
            Ok(kin) => all.push(kin),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The children of a process, of all its threads. A kernel without `CONFIG_PROC_CHILDREN` makes this a walk over all
/// processes.
///
/// The kernel promises a complete list only while nobody forks or ends; a caller that needs all of them asks again until
/// nothing is new.
pub fn children(pid: i32) -> io::Result<Vec<Kin>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)? {
        let text = match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => text,
            Err(_) if fs::exists("/proc/self/task")? && !fs::exists("/proc/thread-self/children")? => {
                return Ok(everyone()?.into_iter().filter(|kin| kin.parent == pid).collect());
            }
            // The thread has ended; its children belong to another one now.
            Err(_) => continue,
        };
        for child in text.split_ascii_whitespace().filter_map(|number| number.parse().ok()) {
            match Kin::of(child) {
                Ok(kin) => found.push(kin),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// The descendants of a process, itself left out, parents before their children.
pub fn descendants(pid: i32) -> io::Result<Vec<Kin>> {
    let mut found: Vec<Kin> = Vec::new();
    let mut seen = HashSet::from([pid]);
    let mut next = children(pid)?;
    while !next.is_empty() {
        next.retain(|kin| seen.insert(kin.id.pid));
        found.extend_from_slice(&next);
        let mut below = Vec::new();
        for kin in &next {
            match children(kin.id.pid) {
                Ok(more) => below.extend(more),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        next = below;
    }
    Ok(found)
}

/// Those of `all` that descend from one of `roots`, the roots left out.
pub fn below(all: &[Kin], roots: &HashSet<i32>) -> HashSet<i32> {
    let parents: HashMap<i32, i32> = all.iter().map(|kin| (kin.id.pid, kin.parent)).collect();
    let descends = |pid: i32| {
        let mut at = pid;
        // No line of parents is longer than there are processes; more steps would be a circle.
        for _ in 0..all.len() {
            match parents.get(&at) {
                Some(parent) if roots.contains(parent) => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    all.iter()
        .map(|kin| kin.id.pid)
        .filter(|pid| !roots.contains(pid) && descends(*pid))
        .collect()
}

/// A thread of a process that has not ended: the first one, or another when that has. The process's number when there is none.
pub fn living_thread(pid: i32) -> i32 {
    first_living_thread(pid).unwrap_or(pid)
}

fn first_living_thread(pid: i32) -> Option<i32> {
    let lives = |tid: &i32| {
        let kin = fs::read(format!("/proc/{pid}/task/{tid}/stat"))
            .ok()
            .and_then(|text| Kin::parse(&text));
        kin.is_some_and(|kin| kin.first_thread_lives())
    };
    if lives(&pid) {
        return Some(pid);
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    numbers.find(lives)
}

/// A file of a process that shows its memory, which a first thread that has ended shows no more: then it is empty, or refused.
fn of_memory(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/{name}")) {
        Ok(text) if !text.is_empty() => Ok(text),
        first => match living_thread(pid) {
            other if other == pid => first,
            other => fs::read(format!("/proc/{pid}/task/{other}/{name}")),
        },
    }
}

/// Whether the environment a process was started with holds exactly `name=value`. False too when it may not be read.
pub fn started_with(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    of_memory(pid, "environ").is_ok_and(|text| text.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Resident memory of a process in bytes; 0 when it has ended.
pub fn resident_bytes(pid: i32) -> u64 {
    let pages = |tid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/statm")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let of_process = match pages(pid) {
        // All zero when the first thread has ended.
        None | Some(0) => pages(living_thread(pid)),
        some => some,
    };
    of_process.unwrap_or(0) * page_size()
}

/// The thread that traces a process (its first thread), or 0.
pub fn tracer(pid: i32) -> i32 {
    tracer_in(Path::new(&format!("/proc/{pid}/status")))
}

/// Whether any thread of a process is traced. The first one may have ended before the others.
pub fn traced(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .into_iter()
        .any(|thread| tracer_in(&thread.path().join("status")) != 0)
}

fn tracer_in(status: &Path) -> i32 {
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

/// A process that ends between opening and reading its files gives ESRCH, one that is gone before gives ENOENT: both say the
/// same.
fn gone(error: io::Error) -> io::Error {
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
    fn a_name_full_of_parentheses_does_not_shift_the_fields() {
        let text = b"42 (a) (b\n) S 7 42 41 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 1 0 987654 1 2 3\n";
        let kin = Kin::parse(text).expect("a stat line");
        assert_eq!(
            kin.id,
            ProcessId {
                pid: 42,
                start_time: 987_654
            }
        );
        assert_eq!((kin.state, kin.parent, kin.group, kin.session), (b'S', 7, 42, 41));
        assert_eq!((kin.children_ticks, kin.lives), (78, true));
    }

    #[test]
    fn a_process_runs_as_long_as_one_of_its_threads_does() {
        let zombie =
            |threads| format!("42 (a) Z 7 42 41 0 -1 4194304 1 2 3 4 5 6 70 8 20 0 {threads} 0 987654 1 2 3\n");
        assert!(Kin::parse(zombie(1).as_bytes()).expect("a stat line").ended());
        assert!(!Kin::parse(zombie(2).as_bytes()).expect("a stat line").ended());
    }

    #[test]
    fn this_process_knows_itself() {
        let me = ProcessId::current().expect("/proc is there");
        assert!(me.alive());
        assert!(
            !ProcessId {
                start_time: me.start_time + 1,
                ..me
            }
            .alive()
        );
        assert!(everyone().expect("/proc is there").iter().any(|kin| kin.id == me));
    }

    #[test]
    fn descent_is_followed_over_several_steps() {
        let kin = |pid, parent| Kin {
            id: ProcessId { pid, start_time: 1 },
            state: b'S',
            lives: true,
            parent,
            group: pid,
            session: pid,
            children_ticks: 0,
        };
        let all = [kin(2, 1), kin(3, 2), kin(4, 3), kin(5, 1)];
        assert_eq!(below(&all, &HashSet::from([2])), HashSet::from([3, 4]));
    }
}
