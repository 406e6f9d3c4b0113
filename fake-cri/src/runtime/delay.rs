//! The delay model's flags, and the draw of its jitter.
//!
//! `delay = (base + memory / rate) * factor`, where the factor is drawn evenly from `1 - jitter` to `1 + jitter` for each
//! checkpoint, from a seeded generator: the same seed gives the same factors in the same order. The real work counts
//! towards the delay, so no call takes longer than the larger of the two.

use std::{collections::HashMap, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::error::RuntimeError;
use crate::checkpoint::{Delay, DelayMemory, DelayPhase};

/// The pod's or container's annotation that tells the size for `--checkpoint-memory annotation`.
pub const MEMORY_ANNOTATION: &str = "fake-cri.dev/checkpoint-memory";

/// The delay model as the flags tell it.
#[derive(Clone, Debug, PartialEq)]
pub struct DelayModel {
    /// What an empty container takes.
    pub base: Duration,
    /// Bytes a second; `None` is without end.
    pub rate: Option<u64>,
    /// The largest part by which the delay is longer or shorter; 0.1 is 10 percent.
    pub jitter: f64,
    /// Where the draws of the jitter begin.
    pub seed: u64,
    /// Which memory counts.
    pub memory: DelayMemoryArg,
    /// Whether the container stands still meanwhile.
    pub phase: DelayPhaseArg,
}

/// Which memory counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DelayMemoryArg {
    /// Resident pages of all processes of the container.
    #[default]
    Rss,
    /// A shared page counts by its sharers.
    Pss,
    /// What the annotation `fake-cri.dev/checkpoint-memory` says; resident pages where there is none.
    Annotation,
}

/// Where the delay is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DelayPhaseArg {
    /// While the container stands still.
    Freeze,
    /// After the thaw, before the archive appears.
    #[default]
    Write,
}

/// Draws the delays of a model, one after the other.
#[derive(Debug)]
pub(crate) struct DelaySampler {
    model: DelayModel,
    rng: StdRng,
}

impl DelaySampler {
    /// Begins at the model's seed.
    pub(crate) fn new(model: DelayModel) -> DelaySampler {
        DelaySampler {
            rng: StdRng::seed_from_u64(model.seed),
            model,
        }
    }

    /// The next checkpoint's delay.
    ///
    /// # Errors
    ///
    /// `Invalid` for an annotation that is no size.
    pub(crate) fn sample(&mut self, annotated: Option<&str>) -> Result<Delay, RuntimeError> {
        let memory = match (self.model.memory, annotated) {
            (DelayMemoryArg::Annotation, Some(text)) => {
                DelayMemory::Annotated(parse_size(text).map_err(|message| {
                    RuntimeError::InvalidArgument(format!("annotation {MEMORY_ANNOTATION}: {message}"))
                })?)
            }
            (DelayMemoryArg::Rss | DelayMemoryArg::Annotation, _) => DelayMemory::Rss,
            (DelayMemoryArg::Pss, _) => DelayMemory::Pss,
        };
        Ok(Delay {
            base: self.model.base,
            rate: self.model.rate,
            jitter_factor: 1.0 + self.model.jitter * (2.0 * self.rng.random::<f64>() - 1.0),
            memory,
            phase: match self.model.phase {
                DelayPhaseArg::Freeze => DelayPhase::Freeze,
                DelayPhaseArg::Write => DelayPhase::Write,
            },
        })
    }
}

/// What is annotated under a key for a container: its own annotation wins over the pod's, and of either the one with the
/// container's name.
pub(crate) fn find_annotation<'a>(
    key: &str,
    pod: &'a HashMap<String, String>,
    container: &'a HashMap<String, String>,
    name: &str,
) -> Option<&'a str> {
    let container_key = format!("{key}.{name}");
    let lookup =
        |annotations: &'a HashMap<String, String>| annotations.get(&container_key).or_else(|| annotations.get(key));
    lookup(container).or_else(|| lookup(pod)).map(String::as_str)
}

/// Bytes: `65536`, `256Mi`, `1GiB`, `2G`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("{text:?} is not a size such as 256Mi or 1GiB"))
}

/// Bytes a second: `1GiB/s`, `500MB`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(0) => Err("a rate of 0 bytes a second never ends".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_) => Err(format!("{text:?} is not a rate such as 1GiB/s")),
    }
}

/// A part: `10%` or `0.1`, from 0 to 1.
pub fn parse_fraction(text: &str) -> Result<f64, String> {
    let fraction = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match fraction {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(format!("{text:?} is not a part such as 10%, from 0% to 100%")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1GiB/s", Some(1 << 30))]
    #[case("1Gi", Some(1 << 30))]
    #[case("500MB/s", Some(500_000_000))]
    #[case("4096", Some(4096))]
    #[case("0", None)]
    #[case("fast", None)]
    #[case("", None)]
    fn parses_rates(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(parse_rate(text).ok(), expected);
    }

    #[rstest]
    #[case("10%", Some(0.1))]
    #[case("0.25", Some(0.25))]
    #[case("0", Some(0.0))]
    #[case("101%", None)]
    #[case("-1%", None)]
    #[case("NaN", None)]
    fn parses_fractions(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(parse_fraction(text).ok(), expected);
    }

    fn model() -> DelayModel {
        DelayModel {
            base: Duration::from_millis(100),
            rate: Some(1 << 30),
            jitter: 0.1,
            seed: 7,
            memory: DelayMemoryArg::Annotation,
            phase: DelayPhaseArg::Freeze,
        }
    }

    #[test]
    fn a_seed_gives_the_same_factors_within_the_jitter() {
        let draw = || {
            let mut delays = DelaySampler::new(model());
            [(); 50].map(|()| delays.sample(None).unwrap().jitter_factor)
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().all(|factor| (0.9..=1.1).contains(factor)));
        assert!(draw().windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.01));
    }

    #[test]
    fn an_annotation_is_a_size_or_an_error() {
        let mut delays = DelaySampler::new(model());
        assert_eq!(
            delays.sample(Some("64Gi")).unwrap().memory,
            DelayMemory::Annotated(64 << 30)
        );
        assert_eq!(delays.sample(None).unwrap().memory, DelayMemory::Rss);
        assert!(
            delays
                .sample(Some("much"))
                .unwrap_err()
                .to_string()
                .contains(MEMORY_ANNOTATION)
        );
    }

    #[test]
    fn the_most_specific_annotation_wins() {
        let map = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs
                .iter()
                .map(|(key, value)| (format!("{MEMORY_ANNOTATION}{key}"), (*value).to_owned()))
                .collect()
        };
        let pod = map(&[("", "1"), (".app", "2")]);
        assert_eq!(find_annotation(MEMORY_ANNOTATION, &pod, &map(&[]), "other"), Some("1"));
        assert_eq!(find_annotation(MEMORY_ANNOTATION, &pod, &map(&[]), "app"), Some("2"));
        assert_eq!(
            find_annotation(MEMORY_ANNOTATION, &pod, &map(&[("", "3")]), "app"),
            Some("3")
        );
        assert_eq!(find_annotation(MEMORY_ANNOTATION, &map(&[]), &map(&[]), "app"), None);
    }
}
