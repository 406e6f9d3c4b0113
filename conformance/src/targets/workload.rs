//! Parses the log of a workload.
//!
//! ```text
//! test-workload ready pid=7 start=91 memory=1048576 threads=1 children=0
//! canary 3f..64 hex digits..
//! heartbeat 1 pid=7 start=91
//! ```
//!
//! The log of any other program has no such lines. Cases that need them are skipped.

/// The state of a workload, as its log shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The first process's pid in its own pid namespace.
    pub pid: Option<u32>,
    /// The start time of that process, in the kernel's clock ticks since boot.
    pub start_time: Option<u64>,
    /// The random value that the workload generated after its start and keeps in memory, in hex.
    pub canary: Option<String>,
    /// The number of the last heartbeat.
    pub heartbeat: u64,
}

impl Workload {
    /// Whether the log is from a workload.
    pub fn is_test_workload(&self) -> bool {
        self.pid.is_some()
    }

    /// Whether both logs are from the same process.
    pub fn same_process(&self, other: &Workload) -> bool {
        self.pid == other.pid && self.start_time == other.start_time
    }
}

/// Parses a log. If the container was restarted, the last start counts.
pub fn parse(log: &str) -> Workload {
    let mut workload = Workload::default();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("test-workload") if words.next() == Some("ready") => {
                workload = Workload {
                    // The canary line may precede the ready line.
                    canary: workload.canary.filter(|_| workload.pid.is_none()),
                    ..Workload::default()
                };
                (workload.pid, workload.start_time) = identity(words);
            }
            Some("canary") => {
                if let Some(canary) = words.next().filter(|word| is_canary(word)) {
                    workload.canary = Some(canary.to_owned());
                }
            }
            Some("heartbeat") => {
                if let Some(heartbeat) = words.next().and_then(|word| word.parse().ok()) {
                    workload.heartbeat = heartbeat;
                    (workload.pid, workload.start_time) = identity(words);
                }
            }
            _ => {}
        }
    }
    workload
}

fn identity<'a>(words: impl Iterator<Item = &'a str>) -> (Option<u32>, Option<u64>) {
    let (mut pid, mut start) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("pid", value)) => pid = value.parse().ok(),
            Some(("start", value)) => start = value.parse().ok(),
            _ => {}
        }
    }
    (pid, start)
}

fn is_canary(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_run_and_last_heartbeat_win() {
        let (first_canary, second_canary) = ("1".repeat(64), "2".repeat(64));
        let log = format!(
            "test-workload ready pid=7 start=90 memory=1 threads=1 children=0\ncanary {first_canary}\nheartbeat 1 pid=7 start=90\n\
             noise\ntest-workload ready pid=8 start=99 memory=1 threads=1 children=0\ncanary {second_canary}\nheartbeat 1 pid=8 start=99\n\
             heartbeat 2 pid=8 start=99\n"
        );
        let workload = parse(&log);
        let expected = Workload {
            pid: Some(8),
            start_time: Some(99),
            canary: Some(second_canary),
            heartbeat: 2,
        };
        assert_eq!(workload, expected);
        assert!(!workload.same_process(&parse("heartbeat 2 pid=8 start=98")));
    }

    #[test]
    fn ignores_the_output_of_other_programs() {
        let workload = parse("hello\ncanary short\nready pid=3\n");
        assert_eq!(workload, Workload::default());
        assert!(!workload.is_test_workload());
    }
}
