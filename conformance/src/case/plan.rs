//! A case as the catalogue writes it: a clause and the function that judges it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Clause, Outcome, SkipKind, Stage};

/// What a case's function returns while it runs.
pub type Running<'a> = BoxFuture<'a, Judgement>;

/// How a case's function ends: with what was seen when the clause holds, else with why it stopped.
pub type Judgement = Result<String, Stop>;

/// Why a case ended without a pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The clause does not hold; with what was seen.
    #[error("{0}")]
    Fail(String),
    /// The target cannot be asked for this; with the reason.
    #[error("{0}")]
    Skip(String),
    /// The target refuses by its configuration; with its own message.
    #[error("refused by policy: {0}")]
    Policy(String),
    /// The user did not ask for this; with the option that does.
    #[error("{0}")]
    Excluded(String),
    /// What this case builds on does not hold; with the id of the case that judges it.
    #[error("blocked by {0}")]
    Blocked(&'static str),
    /// The harness could not do its work; with the reason.
    #[error("{0}")]
    Error(String),
}

impl Stop {
    /// An error of the harness, with all its causes.
    pub fn error(error: &(dyn std::error::Error + 'static)) -> Stop {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Stop::Error(text)
    }
}

impl From<Judgement> for Outcome {
    fn from(judgement: Judgement) -> Outcome {
        match judgement {
            Ok(seen) => Outcome::Pass { seen },
            Err(Stop::Fail(seen)) => Outcome::Fail { seen },
            Err(Stop::Error(reason)) => Outcome::Error { reason },
            Err(stop @ (Stop::Skip(_) | Stop::Blocked(_) | Stop::Policy(_) | Stop::Excluded(_))) => Outcome::Skip {
                kind: match stop {
                    Stop::Blocked(_) => SkipKind::Blocked,
                    Stop::Policy(_) => SkipKind::Policy,
                    Stop::Excluded(_) => SkipKind::Excluded,
                    _ => SkipKind::Unavailable,
                },
                reason: stop.to_string(),
            },
        }
    }
}

/// The clause holds.
pub fn pass(seen: impl Into<String>) -> Judgement {
    Ok(seen.into())
}

/// The clause does not hold.
pub fn fail(seen: impl Into<String>) -> Judgement {
    Err(Stop::Fail(seen.into()))
}

/// The clause cannot be judged on this target.
pub fn skip(reason: impl Into<String>) -> Judgement {
    Err(Stop::Skip(reason.into()))
}

/// The clause holds or not, by `holds`; either way this was seen.
pub fn judge(holds: bool, seen: impl Into<String>) -> Judgement {
    if holds { pass(seen) } else { fail(seen) }
}

/// How long a case may take unless it says otherwise: far above what any takes, well below a person's patience.
const LIMIT: Duration = Duration::from_secs(20);

/// A case of a suite whose target is a `T`.
#[derive(Debug)]
pub struct Case<T: 'static> {
    /// What is judged.
    pub clause: Clause,
    /// How long it may take; beyond that it ends in an error.
    pub limit: Duration,
    /// When it runs.
    pub stage: Stage,
    /// Whether others may use the target meanwhile. A case that uses faults, restarts something, or counts what the target
    /// does, may not: it needs the target alone, which is the default.
    pub shared: bool,
    /// How many archives it makes at most on a kubelet, beside the first one that many cases look at.
    pub archives: u32,
    /// Whether it loads the target on purpose, and so needs `--include-load` on one that is in use.
    pub load: bool,
    /// Whether it restarts the target as it needs it, whatever the target's configuration is before.
    pub restarts: bool,
    /// Judges it.
    pub run: for<'a> fn(&'a T) -> Running<'a>,
}

impl<T> Clone for Case<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Case<T> {}

impl<T> Case<T> {
    /// A case with the usual limit, in no particular order, that needs the target alone.
    pub const fn new(clause: Clause, run: for<'a> fn(&'a T) -> Running<'a>) -> Case<T> {
        Case {
            clause,
            limit: LIMIT,
            stage: Stage::Main,
            shared: false,
            archives: 0,
            load: false,
            restarts: false,
            run,
        }
    }

    /// The same case with a limit of its own.
    pub const fn limit(self, limit: Duration) -> Case<T> {
        Case { limit, ..self }
    }

    /// The same case, which others may share the target with: it only reads, or asks for what changes nothing. There is
    /// nothing to put back after it.
    pub const fn shared(self) -> Case<T> {
        Case { shared: true, ..self }
    }

    /// The same case, which makes so many archives at most.
    pub const fn archives(self, archives: u32) -> Case<T> {
        Case { archives, ..self }
    }

    /// The same case, which loads the target on purpose.
    pub const fn load(self) -> Case<T> {
        Case { load: true, ..self }
    }

    /// The same case, which restarts the target as it needs it: between two such cases its configuration is not put back.
    pub const fn restarts(self) -> Case<T> {
        Case { restarts: true, ..self }
    }

    /// The same case, run in this stage.
    pub const fn stage(self, stage: Stage) -> Case<T> {
        Case { stage, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_case_is_skipped_and_names_what_blocks_it() {
        let outcome = Outcome::from(Err(Stop::Blocked("kubelet/200/ok")));
        assert_eq!(
            outcome,
            Outcome::Skip {
                kind: SkipKind::Blocked,
                reason: "blocked by kubelet/200/ok".to_owned()
            }
        );
    }

    #[test]
    fn a_refusal_by_policy_is_a_skip_of_its_own_kind_with_the_targets_words() {
        let outcome = Outcome::from(Err(Stop::Policy(
            "criu support is disabled by configuration".to_owned(),
        )));
        assert_eq!(
            outcome,
            Outcome::Skip {
                kind: SkipKind::Policy,
                reason: "refused by policy: criu support is disabled by configuration".to_owned()
            }
        );
    }

    #[test]
    fn an_error_keeps_its_causes() {
        let inner = std::io::Error::other("connection reset");
        let outer = std::io::Error::other(inner);
        assert!(Stop::error(&outer).to_string().contains("connection reset"));
    }
}
