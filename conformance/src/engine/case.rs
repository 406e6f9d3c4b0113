//! A case in the catalogue: its texts and the function that checks its requirement.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{CaseInfo, Outcome, SkipKind, Stage};

/// The future of a case's function.
pub type CaseFuture<'a> = BoxFuture<'a, CaseResult>;

/// The result of a case's function: the observed value if the requirement holds, otherwise why the function stopped.
pub type CaseResult = Result<String, NonPass>;

/// Why a case ended without a pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonPass {
    /// The requirement does not hold; the observed value.
    #[error("{0}")]
    Fail(String),
    /// The target or the machine lacks something that the case requires; the reason.
    #[error("{0}")]
    Skip(String),
    /// The configuration of the target refuses the operation; the target's message.
    #[error("refused by policy: {0}")]
    Policy(String),
    /// The user did not include this case; the option that includes it.
    #[error("{0}")]
    Excluded(String),
    /// A case that this case depends on fails; its id.
    #[error("blocked by {0}")]
    Blocked(&'static str),
    /// The harness failed; the cause.
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

/// The requirement holds.
pub fn pass(actual: impl Into<String>) -> CaseResult {
    Ok(actual.into())
}

/// The requirement does not hold.
pub fn fail(actual: impl Into<String>) -> CaseResult {
    Err(NonPass::Fail(actual.into()))
}

/// The requirement cannot be checked on this target.
pub fn skip(reason: impl Into<String>) -> CaseResult {
    Err(NonPass::Skip(reason.into()))
}

/// Passes if `condition` holds and fails otherwise; `actual` is the observed value in either case.
pub fn check(condition: bool, actual: impl Into<String>) -> CaseResult {
    if condition { pass(actual) } else { fail(actual) }
}

/// The default time limit: far longer than any case takes, and short enough for a user to wait.
const DEFAULT_CASE_TIMEOUT: Duration = Duration::from_secs(20);

/// A case of a suite whose target is a `T`.
#[derive(Debug)]
pub struct Case<T: 'static> {
    /// Id, level and texts of the case.
    pub info: CaseInfo,
    /// The time limit; a case that exceeds it ends in an error.
    pub timeout: Duration,
    /// When the case runs.
    pub stage: Stage,
    /// Whether other cases may use the target at the same time. A case that uses faults, restarts something or counts
    /// calls needs the target alone, which is the default.
    pub shared: bool,
    /// The maximum number of archives that the case makes on a kubelet, not counting the first archive that many cases
    /// share.
    pub max_archives: u32,
    /// Whether the case puts load on the target, and so needs `--include-load` on a target in use.
    pub is_load_test: bool,
    /// Whether the case restarts the target as it needs, whatever the configuration before.
    pub restarts_target: bool,
    /// Checks the requirement.
    pub run: for<'a> fn(&'a T) -> CaseFuture<'a>,
}

impl<T> Clone for Case<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Case<T> {}

impl<T> Case<T> {
    /// A case with the default time limit, in the main stage, that needs the target alone.
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

    /// Sets the time limit.
    pub const fn timeout(self, timeout: Duration) -> Case<T> {
        Case { timeout, ..self }
    }

    /// Lets other cases share the target: the case only reads, or makes requests without an effect, so no reset is
    /// needed after it.
    pub const fn shared(self) -> Case<T> {
        Case { shared: true, ..self }
    }

    /// Sets the maximum number of archives.
    pub const fn max_archives(self, max_archives: u32) -> Case<T> {
        Case { max_archives, ..self }
    }

    /// Marks a case that puts load on the target.
    pub const fn load_test(self) -> Case<T> {
        Case {
            is_load_test: true,
            ..self
        }
    }

    /// Marks a case that restarts the target as it needs. Between two such cases the configuration is not reverted.
    pub const fn restarts_target(self) -> Case<T> {
        Case {
            restarts_target: true,
            ..self
        }
    }

    /// Sets the stage.
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
