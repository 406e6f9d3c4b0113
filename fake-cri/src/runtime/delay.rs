//! The options of the delay model and the sampling of its jitter.
//!
//! `delay = (base + memory / rate) * factor`. The factor of each checkpoint is uniformly distributed between `1 -
//! jitter` and `1 + jitter`. The generator is seeded: the same seed gives the same sequence of factors. The time of the
//! real work counts towards the delay: a checkpoint takes the longer of the two.

use std::{collections::HashMap, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::error::RuntimeError;
use crate::checkpoint::{Delay, DelayMemory, DelayPhase};

/// The annotation, on the pod or the container, with the memory size for `--checkpoint-memory annotation`.
pub const MEMORY_ANNOTATION: &str = "fake-cri.dev/checkpoint-memory";

/// The options of the delay model.
#[derive(Clone, Debug, PartialEq)]
pub struct DelayModel {
    /// The delay of a container without memory.
    pub base: Duration,
    /// Bytes per second; `None` is infinite.
    pub rate: Option<u64>,
    /// The largest relative deviation of the delay, from 0 to 1; 0.1 is 10 percent.
    pub jitter: f64,
    /// The seed of the jitter.
    pub seed: u64,
    /// Which memory counts.
    pub memory: DelayMemoryArg,
    /// The phase that the delay extends.
    pub phase: DelayPhase,
}

/// Which memory the delay model counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DelayMemoryArg {
    /// Resident pages of all processes of the container.
    #[default]
    Rss,
    /// Proportional set size: a page that N processes share counts 1/N for each.
    Pss,
    /// The size in the annotation `fake-cri.dev/checkpoint-memory`; resident pages without the annotation.
    Annotation,
}

#[derive(Debug)]
pub(crate) struct DelaySampler {
    model: DelayModel,
    rng: StdRng,
}

impl DelaySampler {
    pub(crate) fn new(model: DelayModel) -> DelaySampler {
        DelaySampler {
            rng: StdRng::seed_from_u64(model.seed),
            model,
        }
    }

    /// Returns the delay of the next checkpoint.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the annotation is not a size.
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
            phase: self.model.phase,
        })
    }
}

/// Finds an annotation of a container. The container's annotations take precedence over the pod's, and in both the key
/// `KEY.CONTAINER_NAME` takes precedence over `KEY`.
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

/// Parses a size in bytes: `65536`, `256Mi`, `1GiB`, `2G`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("{text:?} is not a size such as 256Mi or 1GiB"))
}

/// Parses a rate in bytes per second: `1GiB/s`, `500MB`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(0) => Err("the rate must be greater than 0 bytes per second".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_) => Err(format!("{text:?} is not a rate such as 1GiB/s")),
    }
}

/// Parses a fraction from 0 to 1: `10%` or `0.1`.
pub fn parse_fraction(text: &str) -> Result<f64, String> {
    let fraction = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match fraction {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(format!("{text:?} is not a fraction such as 10%, from 0% to 100%")),
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
            phase: DelayPhase::Freeze,
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
