//! Scheduling: settings of a thread besides policy, priority and nice value.

use super::TaskCtx;
use crate::process::{
    Tid,
    syscalls::{self, Scheduling},
};

/// Policies with parameters besides a priority (linux/sched.h), and the flag that can be set with a policy.
const SCHED_DEADLINE: u32 = 6;
const SCHED_EXT: u32 = 7;
const SCHED_RESET_ON_FORK: u32 = 1 << 30;
/// The classes of I/O priority (linux/ioprio.h).
const IO_NONE: u32 = 0;
const IO_REALTIME: u32 = 1;
const IO_BEST_EFFORT: u32 = 2;
const IO_IDLE: u32 = 3;

/// Reports the scheduling settings of a thread besides policy, priority and nice value.
pub(in super::super) fn report_scheduling(task: &mut TaskCtx<'_>, tid: Tid, scheduling: &Scheduling) {
    match scheduling.policy & !SCHED_RESET_ON_FORK {
        SCHED_DEADLINE => task.unsupported(format_args!(
            "runtime, deadline and period of thread {tid} (SCHED_DEADLINE)"
        )),
        SCHED_EXT => task.unsupported(format_args!("the scheduler of thread {tid} (SCHED_EXT)")),
        _ => {}
    }
    if let Ok((class, level)) = syscalls::io_priority(tid)
        && !is_derived(class, level, scheduling)
    {
        task.unsupported(format_args!(
            "the I/O priority of thread {tid} (class {class}, level {level})"
        ));
    }
}

/// Whether the I/O priority is unset, or follows from the thread's scheduling.
fn is_derived(class: u32, level: u32, scheduling: &Scheduling) -> bool {
    // As the kernel does it (task_nice_ioclass and task_nice_ioprio of linux/ioprio.h).
    let policy_class = match (scheduling.policy & !SCHED_RESET_ON_FORK).cast_signed() {
        libc::SCHED_IDLE => IO_IDLE,
        libc::SCHED_FIFO | libc::SCHED_RR => IO_REALTIME,
        _ => IO_BEST_EFFORT,
    };
    let nice_level = (scheduling.nice + 20).unsigned_abs() / 5;
    class == IO_NONE || (class == policy_class && level == nice_level)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{super::tests::unsupported_lines, *};
    use crate::process::Pid;

    #[test]
    fn deadline_and_io_priority_are_reported() {
        // A separate child: the settings must not affect other tests.
        let child = || {
            Command::new("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .expect("spawn sleep")
        };
        let scheduling_of = |tid: Tid| syscalls::scheduling(tid).expect("scheduling");
        let mut plain = child();
        let pid = Pid::from_raw(plain.id() as i32);
        let tid = pid.main_thread();
        let lines = unsupported_lines(pid, |task| report_scheduling(task, tid, &scheduling_of(tid)));
        let deadline = Scheduling {
            policy: SCHED_DEADLINE | SCHED_RESET_ON_FORK,
            ..scheduling_of(tid)
        };
        let deadline_lines = unsupported_lines(pid, |task| report_scheduling(task, tid, &deadline));
        let set = Command::new("ionice")
            .args(["-c", "2", "-n", "7", "-p", &pid.to_string()])
            .status();
        let ionice_lines = unsupported_lines(pid, |task| report_scheduling(task, tid, &scheduling_of(tid)));
        plain.kill().unwrap();
        plain.wait().unwrap();
        assert_eq!(lines, None);
        let deadline_lines = deadline_lines.expect("a line for SCHED_DEADLINE");
        assert!(
            deadline_lines.contains("runtime, deadline and period"),
            "{deadline_lines}"
        );
        if !set.is_ok_and(|status| status.success()) {
            eprintln!("skipped: ionice failed");
            return;
        }
        let ionice_lines = ionice_lines.expect("an I/O priority");
        assert!(ionice_lines.contains("(class 2, level 7)"), "{ionice_lines}");
    }

    #[test]
    fn derived_io_priorities_are_recognized() {
        let with_policy = |policy: i32, nice| Scheduling {
            policy: policy.cast_unsigned(),
            priority: 0,
            nice,
        };
        assert!(is_derived(IO_NONE, 0, &with_policy(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 4, &with_policy(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 7, &with_policy(libc::SCHED_BATCH, 19)));
        assert!(is_derived(IO_IDLE, 4, &with_policy(libc::SCHED_IDLE, 0)));
        assert!(!is_derived(IO_BEST_EFFORT, 0, &with_policy(libc::SCHED_OTHER, 0)));
        assert!(!is_derived(IO_IDLE, 4, &with_policy(libc::SCHED_OTHER, 0)));
    }
}
