//! The delay model: how long a checkpoint takes at least.
//!
//! ```text
//!   time = (base + memory / rate) * factor
//! ```
//!
//! The time counts from the job's arrival, and the real work is part of it. Only the remainder is slept, in the freeze
//! (just before the thaw) or in the write (after the thaw, before the archive appears). So a call takes the longer of
//! the two, and a process of 1 MiB can take as long as one of 64 GiB. The factor is the jitter that the runtime drew. For
//! one factor, the time never falls when memory grows.

use std::time::{Duration, Instant};

use super::{Delay, DelayMemory, freeze::FrozenContainer};
use crate::process::{Tid, proc_files};

impl Delay {
    /// The minimum duration of a checkpoint of this many bytes. Never panics: a time too long for [`Duration`] is
    /// [`Duration::MAX`].
    pub fn duration(&self, memory: u64) -> Duration {
        let transfer = match self.rate {
            None => 0.0,
            // A rate of 0 would never end.
            Some(rate) => memory as f64 / rate.max(1) as f64,
        };
        let seconds = (self.base.as_secs_f64() + transfer) * self.jitter_factor.max(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(if seconds.is_nan() {
            Duration::ZERO
        } else {
            Duration::MAX
        })
    }

    /// When a checkpoint of these processes may end at the earliest; `None` if that is too far for the clock.
    pub(crate) fn end(&self, started: Instant, frozen: &FrozenContainer<'_>) -> Option<Instant> {
        let memory = match self.memory {
            DelayMemory::Rss => sum_over_processes(frozen, |tid| {
                let status = proc_files::status(tid).ok()?;
                Some(status.vmrss.unwrap_or(0) * 1024)
            }),
            DelayMemory::Pss => sum_over_processes(frozen, proc_files::pss_bytes),
            DelayMemory::Annotated(bytes) => bytes,
        };
        started.checked_add(self.duration(memory))
    }
}

fn sum_over_processes(frozen: &FrozenContainer<'_>, bytes: impl Fn(Tid) -> Option<u64>) -> u64 {
    frozen
        .processes()
        .filter_map(|process| bytes(process.proc_tid()?))
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::checkpoint::DelayPhase;

    fn delay(base_ms: u64, rate: Option<u64>, factor: f64) -> Delay {
        Delay {
            base: Duration::from_millis(base_ms),
            rate,
            jitter_factor: factor,
            memory: DelayMemory::Rss,
            phase: DelayPhase::Write,
        }
    }

    #[rstest]
    #[case(100, Some(1 << 30), 1.0, 1 << 30, 1100)]
    #[case(100, Some(1 << 30), 1.0, 0, 100)]
    #[case(0, Some(1 << 30), 2.0, 1 << 29, 1000)]
    #[case(250, None, 1.0, u64::MAX, 250)]
    #[case(250, None, 0.0, 7, 0)]
    fn delay_follows_the_formula(
        #[case] base_ms: u64,
        #[case] rate: Option<u64>,
        #[case] factor: f64,
        #[case] memory: u64,
        #[case] expected_ms: u64,
    ) {
        assert_eq!(
            delay(base_ms, rate, factor).duration(memory),
            Duration::from_millis(expected_ms)
        );
    }

    proptest! {
        #[test]
        fn delay_grows_with_memory(
            base_ms in 0_u64..100_000,
            rate in proptest::option::of(0_u64..),
            factor in 0.0..4.0,
            (a, b) in any::<(u64, u64)>(),
        ) {
            let delay = delay(base_ms, rate, factor);
            prop_assert!(delay.duration(a.min(b)) <= delay.duration(a.max(b)));
        }

        #[test]
        fn delay_never_panics(base in any::<u32>(), rate in proptest::option::of(any::<u64>()), factor in any::<f64>(), memory: u64) {
            let _ = delay(u64::from(base), rate, factor).duration(memory);
        }
    }
}
