//! The delay model: how long a checkpoint takes at least.
//!
//! ```text
//!   time = (base + memory / rate) * factor          factor = 1 + jitter * u,  u drawn from [-1, 1)
//! ```
//!
//! The time counts from the job's arrival, and the real work is part of it. Only the remainder is slept, in the freeze
//! (just before the thaw) or in the write (after the thaw, before the archive appears). So a call takes the longer of
//! the two, and a process of 1 MiB can take as long as one of 64 GiB. A draw of the jitter is a pure function of a seed
//! and a counter. For one draw, the time never falls when memory grows.

use std::time::Duration;

use super::{Delay, DelayMemory};

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

    /// One draw of the jitter factor: uniform in `1 - percent/100 .. 1 + percent/100`, never below 0. The same seed and
    /// draw give the same factor on every machine.
    pub fn draw_jitter(seed: u64, draw: u64, percent: f64) -> f64 {
        let bits = splitmix64(splitmix64(seed).wrapping_add(draw));
        // A double holds 53 bits exactly.
        let fraction = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        (1.0 + percent / 100.0 * (2.0 * fraction - 1.0)).max(0.0)
    }

    /// The bytes that count. Calls `rss` or `pss` only if needed.
    pub(crate) fn counted_memory(&self, rss: impl FnOnce() -> u64, pss: impl FnOnce() -> u64) -> u64 {
        match self.memory {
            DelayMemory::Rss => rss(),
            DelayMemory::Pss => pss(),
            DelayMemory::Annotated(bytes) => bytes,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads a counter over all 64 bits.
fn splitmix64(counter: u64) -> u64 {
    let mut bits = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
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
            (seed, draw) in any::<(u64, u64)>(),
            percent in 0.0..300.0,
            (a, b) in any::<(u64, u64)>(),
        ) {
            let delay = delay(base_ms, rate, Delay::draw_jitter(seed, draw, percent));
            prop_assert!(delay.duration(a.min(b)) <= delay.duration(a.max(b)));
        }

        #[test]
        fn jitter_stays_within_its_percentage(seed: u64, draw: u64, percent in 0.0..100.0) {
            let factor = Delay::draw_jitter(seed, draw, percent);
            prop_assert!((factor - 1.0).abs() <= percent / 100.0 + 1e-12);
            prop_assert_eq!(factor.to_bits(), Delay::draw_jitter(seed, draw, percent).to_bits());
        }

        #[test]
        fn delay_never_panics(base in any::<u32>(), rate in proptest::option::of(any::<u64>()), factor in any::<f64>(), memory: u64) {
            let _ = delay(u64::from(base), rate, factor).duration(memory);
        }
    }

    #[test]
    fn jitter_draws_differ() {
        let mut factors: Vec<_> = (0..100)
            .map(|draw| Delay::draw_jitter(7, draw, 10.0).to_bits())
            .collect();
        factors.sort_unstable();
        factors.dedup();
        assert_eq!(factors.len(), 100);
    }
}
