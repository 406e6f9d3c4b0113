//! The process that is checkpointed: memory without a pattern, in 4 KiB pages, and a fork when it is asked for one.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use fake_cri::process::workload_syscalls;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
    wait::waitpid,
};

/// Fills the memory, says `ready`, and says `fork MICROSECONDS` for each SIGUSR1.
pub(crate) fn run(bytes: u64) -> anyhow::Result<()> {
    prctl::set_thp_disable(true).context("ask for small pages")?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block().context("block SIGUSR1")?;
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
        let Some(child) = workload_syscalls::fork().context("fork")? else {
            // Its memory is what it was forked for.
            std::process::exit(i32::from(memory.is_empty()));
        };
        let took = began.elapsed();
        waitpid(child, None).context("wait for the child")?;
        println!("fork {}", took.as_micros());
    }
}
