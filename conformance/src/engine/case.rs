//! A case as the catalogue writes it: a clause and the function that judges it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{CaseInfo, Outcome, SkipKind, Stage};

/// What a case's function returns while it runs.
pub type CaseFuture<'a> = BoxFuture<'a, CaseResult>;

/// How a case's function ends: with what was seen when the clause holds, else with why it stopped.
pub type CaseResult = Result<String, NonPass>;

/// Why a case ended without a pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonPass {
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

impl NonPass {
    /// An error of the harness, with all its causes.
    pub fn error(error: &(dyn std::error::Error + 'static)) -> NonPass {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        NonPass::Error(text)
    }
}

impl From<CaseResult> for Outcome {
    fn from(result: CaseResult) -> Outcome {
        match result {
            Ok(actual) => Outcome::Pass { actual },
            Err(NonPass::Fail(actual)) => Outcome::Fail { actual },
            Err(NonPass::Error(reason)) => Outcome::Error { reason },
            Err(non_pass @ (NonPass::Skip(_) | NonPass::Blocked(_) | NonPass::Policy(_) | NonPass::Excluded(_))) => {
                Outcome::Skip {
                    kind: match non_pass {
                        NonPass::Blocked(_) => SkipKind::Blocked,
                        NonPass::Policy(_) => SkipKind::Policy,
                        NonPass::Excluded(_) => SkipKind::Excluded,
                        _ => SkipKind::MissingCapability,
                    },
                    reason: non_pass.to_string(),
                }
            }
        }
    }
}

/// The clause holds.
pub fn pass(actual: impl Into<String>) -> CaseResult {
    Ok(actual.into())
}

/// The clause does not hold.
pub fn fail(actual: impl Into<String>) -> CaseResult {
    Err(NonPass::Fail(actual.into()))
}

/// The clause cannot be judged on this target.
pub fn skip(reason: impl Into<String>) -> CaseResult {
    Err(NonPass::Skip(reason.into()))
}

/// The clause holds or not, by `holds`; either way this was seen.
pub fn check(condition: bool, actual: impl Into<String>) -> CaseResult {
    if condition { pass(actual) } else { fail(actual) }
}

/// How long a case may take unless it says otherwise: far above what any takes, well below a person's patience.
const DEFAULT_CASE_TIMEOUT: Duration = Duration::from_secs(20);

/// A case of a suite whose target is a `T`.
#[derive(Debug)]
pub struct Case<T: 'static> {
    /// What is judged.
    pub info: CaseInfo,
    /// How long it may take; beyond that it ends in an error.
    pub timeout: Duration,
    /// When it runs.
    pub stage: Stage,
    /// Whether others may use the target meanwhile. A case that uses faults, restarts something, or counts what the target
    /// does, may not: it needs the target alone, which is the default.
    pub shared: bool,
    /// How many archives it makes at most on a kubelet, beside the first one that many cases look at.
    pub max_archives: u32,
    /// Whether it loads the target on purpose, and so needs `--include-load` on one that is in use.
    pub is_load_test: bool,
    /// Whether it restarts the target as it needs it, whatever the target's configuration is before.
    pub restarts_target: bool,
    /// Judges it.
    pub run: for<'a> fn(&'a T) -> CaseFuture<'a>,
}

impl<T> Clone for Case<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Case<T> {}

impl<T> Case<T> {
    /// A case with the usual limit, in no particular order, that needs the target alone.
    pub const fn new(info: CaseInfo, run: for<'a> fn(&'a T) -> CaseFuture<'a>) -> Case<T> {
        Case {
            info,
            timeout: DEFAULT_CASE_TIMEOUT,
            stage: Stage::Main,
            shared: false,
            max_archives: 0,
            is_load_test: false,
            restarts_target: false,
            run,
        }
    }

    /// The same case with a limit of its own.
    pub const fn timeout(self, timeout: Duration) -> Case<T> {
        Case { timeout, ..self }
    }

    /// The same case, which others may share the target with: it only reads, or asks for what changes nothing. There is
    /// nothing to put back after it.
    pub const fn shared(self) -> Case<T> {
        Case { shared: true, ..self }
    }

    /// The same case, which makes so many archives at most.
    pub const fn max_archives(self, max_archives: u32) -> Case<T> {
        Case { max_archives, ..self }
    }

    /// The same case, which loads the target on purpose.
    pub const fn load_test(self) -> Case<T> {
        Case {
            is_load_test: true,
            ..self
        }
    }

    /// The same case, which restarts the target as it needs it: between two such cases its configuration is not put back.
    pub const fn restarts_target(self) -> Case<T> {
        Case {
            restarts_target: true,
            ..self
        }
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
    fn a_blocked_case_is_skipped_and_names_the_blocking_case() {
        let outcome = Outcome::from(Err(NonPass::Blocked("kubelet/checkpoint/succeeds")));
        assert_eq!(
            outcome,
            Outcome::Skip {
                kind: SkipKind::Blocked,
                reason: "blocked by kubelet/checkpoint/succeeds".to_owned()
            }
        );
    }

    #[test]
    fn a_policy_refusal_is_a_policy_skip_with_the_targets_message() {
        let outcome = Outcome::from(Err(NonPass::Policy(
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
        assert!(NonPass::error(&outer).to_string().contains("connection reset"));
    }
}
