//! The checkpointed process: fills memory with random data in 4 KiB pages, and forks on request.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use fake_cri::process::workload_syscalls;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
    wait::waitpid,
};

/// Fills the memory and prints `ready`. Then prints `fork MICROSECONDS` for each SIGUSR1.
pub(crate) fn run(bytes: u64) -> anyhow::Result<()> {
    prctl::set_thp_disable(true).context("failed to disable huge pages")?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block().context("failed to block SIGUSR1")?;
    let mut memory = vec![0_u64; usize::try_from(bytes)? / 8];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for word in &mut memory {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        *word = random;
    }
    println!("ready");
    loop {
        if workload_syscalls::wait_for_signal(&signals, Instant::now() + Duration::from_secs(3600))?.is_none() {
            continue;
        }
        let began = Instant::now();
        let Some(child) = workload_syscalls::fork().context("failed to fork")? else {
            // Uses the memory, so that the compiler keeps it until the fork.
            std::process::exit(i32::from(memory.is_empty()));
        };
        let took = began.elapsed();
        waitpid(nix::unistd::Pid::from(child), None).context("failed to wait for the child")?;
        println!("fork {}", took.as_micros());
    }
}
