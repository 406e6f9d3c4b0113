//! Of the scheduler: what a thread has beyond policy, priority and nice value.

use crate::{
    checkpoint::log::DumpLog,
    process::kernel::{self, Scheduling},
};

/// The policies that have more to them than a priority (linux/sched.h), and the flag beside a policy.
const SCHED_DEADLINE: u32 = 6;
const SCHED_EXT: u32 = 7;
const SCHED_RESET_ON_FORK: u32 = 1 << 30;
/// The classes of I/O priority (linux/ioprio.h).
const IO_NONE: u32 = 0;
const IO_REALTIME: u32 = 1;
const IO_BEST_EFFORT: u32 = 2;
const IO_IDLE: u32 = 3;

/// Says what a thread's scheduling is beyond policy, priority and nice value.
pub(in super::super) fn scheduling(pid: i32, tid: i32, scheduling: &Scheduling, log: &mut DumpLog) {
    match scheduling.policy & !SCHED_RESET_ON_FORK {
        SCHED_DEADLINE => log.lost(format_args!(
            "pid {pid}: runtime, deadline and period of thread {tid} (SCHED_DEADLINE)"
        )),
        SCHED_EXT => log.lost(format_args!("pid {pid}: the scheduler of thread {tid} (SCHED_EXT)")),
        _ => {}
    }
    if let Ok((class, level)) = kernel::io_priority(tid)
        && !is_derived(class, level, scheduling)
    {
        log.lost(format_args!(
            "pid {pid}: the I/O priority of thread {tid} (class {class}, level {level})"
        ));
    }
}

/// Whether an I/O priority follows from how the thread is scheduled, or is none.
fn is_derived(class: u32, level: u32, scheduling: &Scheduling) -> bool {
    // As the kernel does it (task_nice_ioclass and task_nice_ioprio of linux/ioprio.h).
    let of_policy = match (scheduling.policy & !SCHED_RESET_ON_FORK).cast_signed() {
        libc::SCHED_IDLE => IO_IDLE,
        libc::SCHED_FIFO | libc::SCHED_RR => IO_REALTIME,
        _ => IO_BEST_EFFORT,
    };
    let of_nice = (scheduling.nice + 20).unsigned_abs() / 5;
    class == IO_NONE || (class == of_policy && level == of_nice)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{super::tests::said, *};

    #[test]
    fn scheduling_beyond_policy_and_nice_value_is_said() {
        // A child of its own: what is set here must not be another test's.
        let child = || {
            Command::new("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .expect("sleep is everywhere")
        };
        let scheduling_of = |pid: i32| kernel::scheduling(pid).expect("scheduling");
        let mut plain = child();
        let pid = plain.id() as i32;
        let lost = said(|log| scheduling(pid, pid, &scheduling_of(pid), log));
        let deadline = Scheduling {
            policy: SCHED_DEADLINE | SCHED_RESET_ON_FORK,
            ..scheduling_of(pid)
        };
        let all = said(|log| scheduling(pid, pid, &deadline, log));
        let set = Command::new("ionice")
            .args(["-c", "2", "-n", "7", "-p", &pid.to_string()])
            .status();
        let other = said(|log| scheduling(pid, pid, &scheduling_of(pid), log));
        plain.kill().unwrap();
        plain.wait().unwrap();
        assert_eq!(lost, None);
        let all = all.expect("what a deadline takes");
        assert!(all.contains("runtime, deadline and period"), "{all}");
        if !set.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no ionice");
            return;
        }
        let other = other.expect("an I/O priority");
        assert!(other.contains("(class 2, level 7)"), "{other}");
    }

    #[test]
    fn io_priorities_that_follow_from_the_rest_are_none_of_their_own() {
        let of = |policy: i32, nice| Scheduling {
            policy: policy.cast_unsigned(),
            priority: 0,
            nice,
        };
        assert!(is_derived(IO_NONE, 0, &of(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 4, &of(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 7, &of(libc::SCHED_BATCH, 19)));
        assert!(is_derived(IO_IDLE, 4, &of(libc::SCHED_IDLE, 0)));
        assert!(!is_derived(IO_BEST_EFFORT, 0, &of(libc::SCHED_OTHER, 0)));
        assert!(!is_derived(IO_IDLE, 4, &of(libc::SCHED_OTHER, 0)));
    }
}
