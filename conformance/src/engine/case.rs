//! A case in the catalogue: its texts and the function that checks its requirement.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Authority, Capability, CaseInfo, Level, Outcome, SkipKind, Stage};

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
    /// The target or the machine lacks a capability that the case requires.
    #[error("{}", .0.reason())]
    Missing(Capability),
    /// What the case observed does not let it check the requirement; the reason.
    #[error("{0}")]
    Skip(String),
    /// The configuration of the target refuses the operation; the target's message.
    #[error("refused by policy: {0}")]
    Policy(String),
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
        let causes: Vec<_> = anyhow::Chain::new(error).map(ToString::to_string).collect();
        NonPass::Error(causes.join(": "))
    }
}

impl From<CaseResult> for Outcome {
    fn from(result: CaseResult) -> Outcome {
        match result {
            Ok(actual) => Outcome::Pass { actual },
            Err(NonPass::Fail(actual)) => Outcome::Fail { actual },
            Err(NonPass::Error(reason)) => Outcome::Error { reason },
            Err(non_pass) => Outcome::Skip {
                kind: match non_pass {
                    NonPass::Missing(capability) => capability.skip_kind(),
                    NonPass::Blocked(_) => SkipKind::Blocked,
                    NonPass::Policy(_) => SkipKind::Policy,
                    _ => SkipKind::MissingCapability,
                },
                reason: non_pass.to_string(),
            },
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

/// What the case observed does not let it check the requirement.
///
/// # Errors
/// Always, with the reason.
pub fn skip<T>(reason: impl Into<String>) -> Result<T, NonPass> {
    Err(NonPass::Skip(reason.into()))
}

/// Passes if `condition` holds and fails otherwise; `actual` is the observed value in either case.
pub fn check(condition: bool, actual: impl Into<String>) -> CaseResult {
    if condition { pass(actual) } else { fail(actual) }
}

/// Passes with the observed value `passed` if `condition` holds and fails with `failed` otherwise.
pub fn pass_if(condition: bool, passed: impl Into<String>, failed: impl Into<String>) -> CaseResult {
    if condition { pass(passed) } else { fail(failed) }
}

/// The default time limit: far longer than any case takes, and short enough for a user to wait.
const DEFAULT_CASE_TIMEOUT: Duration = Duration::from_secs(20);

/// How the runner treats a case.
#[derive(Clone, Copy, Debug)]
pub struct CasePlan {
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
}

/// A case of a suite whose target is a `T`.
#[derive(Debug)]
pub struct Case<T: 'static> {
    /// Id, level, texts, and what the case needs.
    pub info: CaseInfo,
    /// How the runner treats the case.
    pub plan: CasePlan,
    check: Check<T>,
}

/// The function that checks the requirement.
#[derive(Debug)]
enum Check<T: 'static> {
    /// Sends requests, or waits.
    Async(for<'a> fn(&'a T) -> CaseFuture<'a>),
    /// Only looks at data.
    Sync(fn(&T) -> CaseResult),
}

impl<T> Clone for Case<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Case<T> {}

impl<T> Clone for Check<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Check<T> {}

impl<T> Case<T> {
    /// Checks the requirement.
    pub async fn run(&self, target: &T) -> CaseResult {
        let result = match self.check {
            Check::Async(check) => check(target).await,
            Check::Sync(check) => check(target),
        };
        self.declared(result)
    }

    /// Checks the requirement on this thread; `None` if the case awaits something.
    pub fn run_blocking(&self, target: &T) -> Option<CaseResult> {
        match self.check {
            Check::Async(_) => None,
            Check::Sync(check) => Some(self.declared(check(target))),
        }
    }

    /// The result, or an error of the harness if the case was skipped for something that it does not declare. Otherwise
    /// the lists of what a target can show would be wrong.
    fn declared(&self, result: CaseResult) -> CaseResult {
        let undeclared = match &result {
            Err(NonPass::Missing(capability)) if !self.info.requires.contains(capability) => capability.as_str(),
            Err(NonPass::Blocked(id)) if !self.info.may_be_blocked_by(id) => id,
            _ => return result,
        };
        Err(NonPass::Error(format!(
            "skipped, and the case does not declare {undeclared}: {}",
            result.map_or_else(|non_pass| non_pass.to_string(), |_| String::new())
        )))
    }
}

/// Declares a case: its id and level, what it requires, and last the function that checks the requirement
/// ([`CaseBuilder::run`] or [`CaseBuilder::check`]). By default the case has the default time limit, is in the main
/// stage and needs the target alone.
pub const fn case(id: &'static str, level: Level) -> CaseBuilder {
    CaseBuilder {
        info: CaseInfo::new(id, level),
        plan: CasePlan {
            timeout: DEFAULT_CASE_TIMEOUT,
            stage: Stage::Main,
            shared: false,
            max_archives: 0,
        },
    }
}

/// A case without its function.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CaseBuilder {
    info: CaseInfo,
    plan: CasePlan,
}

impl CaseBuilder {
    /// Sets the requirement, one sentence with *must*.
    pub const fn requirement(mut self, requirement: &'static str) -> CaseBuilder {
        self.info.requirement = requirement;
        self
    }

    /// Sets the document that states the requirement.
    pub const fn authority(mut self, authority: Authority) -> CaseBuilder {
        self.info.authority = authority;
        self
    }

    /// Sets where the requirement was violated in practice.
    pub const fn motivation(mut self, motivation: &'static str) -> CaseBuilder {
        self.info.motivation = motivation;
        self
    }

    /// Sets the expected value.
    pub const fn expected(mut self, expected: &'static str) -> CaseBuilder {
        self.info.expected = expected;
        self
    }

    /// Sets the capabilities that a target must offer.
    pub const fn requires(mut self, capabilities: &'static [Capability]) -> CaseBuilder {
        self.info.requires = capabilities;
        self
    }

    /// Sets the cases whose failure always blocks this case.
    pub const fn depends_on(mut self, ids: &'static [&'static str]) -> CaseBuilder {
        self.info.depends_on = ids;
        self
    }

    /// Sets the cases whose failure blocks this case under some conditions, which this case itself observes.
    pub const fn may_depend_on(mut self, ids: &'static [&'static str]) -> CaseBuilder {
        self.info.may_depend_on = ids;
        self
    }

    /// Sets the time limit.
    pub const fn timeout(mut self, timeout: Duration) -> CaseBuilder {
        self.plan.timeout = timeout;
        self
    }

    /// Lets other cases share the target: the case only reads, or makes requests without an effect, so no reset is
    /// needed after it.
    pub const fn shared(mut self) -> CaseBuilder {
        self.plan.shared = true;
        self
    }

    /// Sets the maximum number of archives.
    pub const fn max_archives(mut self, max_archives: u32) -> CaseBuilder {
        self.plan.max_archives = max_archives;
        self
    }

    /// Sets the stage.
    pub const fn stage(mut self, stage: Stage) -> CaseBuilder {
        self.plan.stage = stage;
        self
    }

    /// Completes the case with a function that sends requests or waits.
    pub const fn run<T: 'static>(self, run: for<'a> fn(&'a T) -> CaseFuture<'a>) -> Case<T> {
        Case {
            info: self.info,
            plan: self.plan,
            check: Check::Async(run),
        }
    }

    /// Completes the case with a function that only looks at data, so other cases share the target.
    pub const fn check<T: 'static>(self, check: fn(&T) -> CaseResult) -> Case<T> {
        Case {
            info: self.info,
            plan: CasePlan {
                shared: true,
                ..self.plan
            },
            check: Check::Sync(check),
        }
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
    fn a_skip_that_the_case_does_not_declare_is_an_error() {
        const DECLARED: CaseBuilder = case("t/a", Level::Robust)
            .requires(&[Capability::Root])
            .depends_on(&["t/b"])
            .may_depend_on(&["t/c"]);
        let result = |check: fn(&()) -> CaseResult| DECLARED.check(check).run_blocking(&()).unwrap();
        assert_eq!(
            result(|_| Err(NonPass::Missing(Capability::Root))),
            Err(NonPass::Missing(Capability::Root))
        );
        assert_eq!(result(|_| Err(NonPass::Blocked("t/b"))), Err(NonPass::Blocked("t/b")));
        assert_eq!(result(|_| Err(NonPass::Blocked("t/c"))), Err(NonPass::Blocked("t/c")));
        let undeclared = result(|_| Err(NonPass::Blocked("t/d"))).unwrap_err();
        assert_eq!(
            undeclared,
            NonPass::Error("skipped, and the case does not declare t/d: blocked by t/d".to_owned())
        );
        assert!(matches!(
            result(|_| Err(NonPass::Missing(Capability::Load))),
            Err(NonPass::Error(_))
        ));
    }

    #[test]
    fn an_error_keeps_its_causes() {
        let inner = std::io::Error::other("connection reset");
        let outer = std::io::Error::other(inner);
        assert!(NonPass::error(&outer).to_string().contains("connection reset"));
    }
}
