//! Runs cases against a target, step by step of the [`Schedule`].
//!
//! No case ends the run: a case that panics or exceeds its time limit ends in an error, and the target is reset after
//! each step ([`Target`]), so that the next step finds the target in its initial state. If the reset fails, the case
//! before it ends in an error. If several cases shared the target, all of them end in an error, because the cause is
//! unknown. The configuration is reverted only for a step that depends on it, because a restart takes seconds.
//!
//! A case whose required capabilities are missing, or that depends on a case that has failed, does not run.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::BoxFuture,
    stream::{self, StreamExt as _},
};

use super::{Capabilities, Case, CaseInfo, CaseRecord, NonPass, Outcome, Schedule, Stage};
use crate::evidence;

/// A target as the runner sees it.
pub trait Target: Sync {
    /// What the target offers. Cases that require more are skipped.
    fn capabilities(&self) -> BoxFuture<'_, Capabilities>;

    /// Reverts what a case may have left: active faults, a frozen container and, depending on `config_reset`, a changed
    /// configuration.
    fn reset(&self, config_reset: ConfigReset) -> BoxFuture<'_, Result<(), String>>;

    /// Records evidence that every failure needs.
    fn record_failure(&self) {}
}

/// What happens to the configuration with which a case restarted the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigReset {
    /// The next cases depend on the default configuration.
    Revert,
    /// The next case restarts the target as it needs, or there is no next case.
    Keep,
}

/// Receives the progress of a run.
pub trait Observer: Send {
    /// A case begins.
    fn case_started(&mut self, info: &CaseInfo);
    /// A case has ended. The outcome of a case that shared the target may still become an error if the reset after the
    /// step fails.
    fn case_ended(&mut self, record: &CaseRecord);
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentObserver;

impl Observer for SilentObserver {
    fn case_started(&mut self, _: &CaseInfo) {}
    fn case_ended(&mut self, _: &CaseRecord) {}
}

/// Runs `cases` in their order, one at a time, and returns their records sorted by id.
pub async fn run<T: Target>(cases: &[Case<T>], target: &T, observer: &mut dyn Observer) -> Vec<CaseRecord> {
    run_scheduled(cases, target, Schedule::default(), observer).await
}

/// Runs `cases` as scheduled, and returns their records sorted by id.
pub async fn run_scheduled<T: Target>(
    cases: &[Case<T>],
    target: &T,
    schedule: Schedule,
    observer: &mut dyn Observer,
) -> Vec<CaseRecord> {
    let observer = Mutex::new(observer);
    let notify = |notification: &dyn Fn(&mut dyn Observer)| {
        notification(&mut **observer.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let capabilities = target.capabilities().await;
    let failed = Mutex::new(BTreeSet::new());
    let mut records = Vec::with_capacity(cases.len());
    let mut steps = schedule.steps(cases).into_iter().peekable();
    while let Some(step) = steps.next() {
        let exclusive = step.len() == 1;
        let run_case = async |case: &Case<T>| {
            notify(&|observer| observer.case_started(&case.info));
            let blocked = skip_reason(
                &case.info,
                &capabilities,
                &failed.lock().unwrap_or_else(PoisonError::into_inner),
            );
            let record = match blocked {
                Some(reason) => skipped(case, reason),
                None => run_one(case, target).await,
            };
            if let Outcome::Fail { .. } = record.outcome {
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(record.info.id);
            }
            if !exclusive {
                notify(&|observer| observer.case_ended(&record));
            }
            record
        };
        let mut step_records: Vec<CaseRecord> = stream::iter(&step)
            .map(run_case)
            .buffer_unordered(schedule.jobs.max(1))
            .collect()
            .await;
        let config_reset = match steps.peek() {
            Some(next) if !next.iter().all(|case| case.plan.stage == Stage::Restarting) => ConfigReset::Revert,
            _ => ConfigReset::Keep,
        };
        if let Err(reason) = reset_target(&step, config_reset, target).await {
            for record in &mut step_records {
                record.outcome = reset_failed(&record.outcome, &reason);
            }
        }
        if exclusive {
            step_records
                .iter()
                .for_each(|record| notify(&|observer| observer.case_ended(record)));
        }
        records.append(&mut step_records);
    }
    records.sort_by_key(|record| record.info.id);
    records
}

/// Why a case does not run, if a capability is missing or a case that it depends on has failed.
pub fn skip_reason(info: &CaseInfo, capabilities: &Capabilities, failed: &BTreeSet<&str>) -> Option<NonPass> {
    let missing = capabilities.first_missing(info.requires).map(NonPass::Missing);
    let blocking = || info.depends_on.iter().find(|id| failed.contains(*id));
    missing.or_else(|| blocking().map(|id| NonPass::Blocked(id)))
}

fn skipped<T>(case: &Case<T>, reason: NonPass) -> CaseRecord {
    CaseRecord {
        info: case.info,
        outcome: Outcome::from(Err(reason)),
        duration: Duration::ZERO,
        evidence: Vec::new(),
    }
}

async fn run_one<T: Target>(case: &Case<T>, target: &T) -> CaseRecord {
    let started = Instant::now();
    let run = async {
        let result = case.run(target).await;
        if let Err(NonPass::Fail(_)) = result {
            target.record_failure();
        }
        result
    };
    let result = AssertUnwindSafe(run).catch_unwind();
    let (result, evidence_items) = evidence::capture(tokio::time::timeout(case.plan.timeout, result)).await;
    let outcome = match result {
        Ok(Ok(case_result)) => Outcome::from(case_result),
        Ok(Err(panic)) => Outcome::Error {
            reason: format!("the case panicked: {}", panic_message(&*panic)),
        },
        Err(_) => Outcome::Error {
            reason: format!(
                "the case did not end within {}",
                humantime::format_duration(case.plan.timeout)
            ),
        },
    };
    CaseRecord {
        info: case.info,
        outcome,
        duration: started.elapsed(),
        evidence: evidence_items,
    }
}

/// Resets the target within the time limit of the step's slowest case: a target that does not respond must not stop the
/// run.
async fn reset_target<T: Target>(step: &[Case<T>], config_reset: ConfigReset, target: &T) -> Result<(), String> {
    let limit = step.iter().map(|case| case.plan.timeout).max().unwrap_or_default();
    tokio::time::timeout(limit, target.reset(config_reset))
        .await
        .unwrap_or_else(|_| Err("no response in time".to_owned()))
}

fn reset_failed(outcome: &Outcome, reason: &str) -> Outcome {
    Outcome::Error {
        reason: format!(
            "the target could not be reset after the case ({}: {}): {reason}",
            outcome.as_str(),
            outcome.detail()
        ),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "without a message"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::{Capability, CaseBuilder, CaseFuture, Level, case, fail, pass, skip};

    struct FakeTarget {
        resets: AtomicUsize,
        config_resets: AtomicUsize,
        reset_fails: bool,
        barrier: tokio::sync::Barrier,
    }

    impl Default for FakeTarget {
        fn default() -> Self {
            FakeTarget {
                resets: AtomicUsize::new(0),
                config_resets: AtomicUsize::new(0),
                reset_fails: false,
                barrier: tokio::sync::Barrier::new(2),
            }
        }
    }

    impl Target for FakeTarget {
        fn capabilities(&self) -> BoxFuture<'_, Capabilities> {
            Box::pin(async { [Capability::Load].into_iter().collect() })
        }

        fn reset(&self, config_reset: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                self.resets.fetch_add(1, Ordering::Relaxed);
                if config_reset == ConfigReset::Revert {
                    self.config_resets.fetch_add(1, Ordering::Relaxed);
                }
                if self.reset_fails {
                    Err("still frozen".to_owned())
                } else {
                    Ok(())
                }
            })
        }
    }

    fn cases() -> Vec<Case<FakeTarget>> {
        declared(std::convert::identity)
    }

    /// The cases, each with a change of its declaration.
    fn declared(change: fn(CaseBuilder) -> CaseBuilder) -> Vec<Case<FakeTarget>> {
        let case = |id| change(case(id, Level::Documented));
        vec![
            case("t/pass").run(|_| Box::pin(async { pass("fine") })),
            case("t/fail").run(|_| Box::pin(async { fail("wrong") })),
            case("t/skip").run(|_| Box::pin(async { skip("no root") })),
            case("t/panic").run(|_| Box::pin(async { panic!("index {}", 7) })),
            case("t/hang")
                .timeout(Duration::from_millis(10))
                .run(|_| Box::pin(std::future::pending())),
        ]
    }

    #[tokio::test]
    async fn every_case_has_its_outcome_and_ids_are_sorted() {
        let target = FakeTarget::default();
        let records = run(&cases(), &target, &mut SilentObserver).await;
        let actual: Vec<_> = records
            .iter()
            .map(|record| (record.info.id, record.outcome.as_str(), record.outcome.detail()))
            .collect();
        assert_eq!(
            actual,
            [
                ("t/fail", "fail", "wrong"),
                ("t/hang", "error", "the case did not end within 10ms"),
                ("t/panic", "error", "the case panicked: index 7"),
                ("t/pass", "pass", "fine"),
                ("t/skip", "skip", "no root"),
            ]
        );
        assert_eq!(target.resets.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn the_configuration_is_reverted_only_for_a_step_that_needs_it() {
        let target = FakeTarget::default();
        let case = |id, stage| {
            case(id, Level::Documented)
                .stage(stage)
                .run(|_| Box::pin(async { pass("fine") }))
        };
        let cases = [
            case("t/first", Stage::Main),
            case("t/second", Stage::Late),
            case("t/third", Stage::Restarting),
            case("t/fourth", Stage::Restarting),
        ];
        run(&cases, &target, &mut SilentObserver).await;
        assert_eq!(target.resets.load(Ordering::Relaxed), 4);
        assert_eq!(target.config_resets.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_reset_is_an_error() {
        let target = FakeTarget {
            reset_fails: true,
            ..FakeTarget::default()
        };
        let records = run(&cases()[..1], &target, &mut SilentObserver).await;
        assert_eq!(records[0].outcome.as_str(), "error");
        assert!(records[0].outcome.detail().ends_with("(pass: fine): still frozen"));
    }

    #[tokio::test]
    async fn a_failed_reset_is_an_error_of_every_case_of_the_step() {
        let target = FakeTarget {
            reset_fails: true,
            ..FakeTarget::default()
        };
        let shared = declared(CaseBuilder::shared);
        let records = run(&shared[..2], &target, &mut SilentObserver).await;
        assert!(records.iter().all(|record| record.outcome.as_str() == "error"));
        assert_eq!(target.resets.load(Ordering::Relaxed), 1);
    }

    /// Two cases that wait for each other: they pass only if they run concurrently.
    fn barrier_cases() -> [Case<FakeTarget>; 2] {
        let meet: for<'a> fn(&'a FakeTarget) -> CaseFuture<'a> = |target| {
            Box::pin(async move {
                target.barrier.wait().await;
                pass("met")
            })
        };
        let case = |id| {
            case(id, Level::Documented)
                .shared()
                .timeout(Duration::from_millis(200))
                .run(meet)
        };
        [case("t/one"), case("t/two")]
    }

    #[tokio::test]
    async fn shared_cases_run_concurrently_with_enough_jobs() {
        let passed_count = async |jobs| {
            let target = FakeTarget::default();
            let schedule = Schedule { seed: 0, jobs };
            let records = run_scheduled(&barrier_cases(), &target, schedule, &mut SilentObserver).await;
            assert_eq!(records.len(), 2);
            records
                .iter()
                .filter(|record| record.outcome.as_str() == "pass")
                .count()
        };
        assert_eq!(passed_count(2).await, 2);
        // The barrier also counts a case that timed out: the second case may pass, the first cannot.
        assert!(passed_count(1).await < 2);
    }

    #[tokio::test]
    async fn a_panic_or_hang_does_not_end_other_cases() {
        let shared = declared(CaseBuilder::shared);
        let records = run_scheduled(
            &shared,
            &FakeTarget::default(),
            Schedule { seed: 5, jobs: 3 },
            &mut SilentObserver,
        )
        .await;
        let words: Vec<_> = records.iter().map(|record| record.outcome.as_str()).collect();
        assert_eq!(words, ["fail", "error", "error", "pass", "skip"]);
    }

    #[tokio::test]
    async fn a_case_does_not_run_without_its_capabilities_or_after_a_failed_dependency() {
        let unreachable: for<'a> fn(&'a FakeTarget) -> CaseFuture<'a> = |_| Box::pin(async { panic!("the case ran") });
        let cases = [
            case("t/a", Level::Documented)
                .requires(&[Capability::Load])
                .run(|_| Box::pin(async { fail("wrong") })),
            case("t/b", Level::Documented).depends_on(&["t/a"]).run(unreachable),
            case("t/c", Level::Documented)
                .requires(&[Capability::Root])
                .depends_on(&["t/a"])
                .run(unreachable),
            case("t/d", Level::Documented)
                .may_depend_on(&["t/a"])
                .run(|_| Box::pin(async { pass("fine") })),
        ];
        let records = run(&cases, &FakeTarget::default(), &mut SilentObserver).await;
        let details: Vec<_> = records.iter().map(|record| record.outcome.detail()).collect();
        assert_eq!(details, ["wrong", "blocked by t/a", Capability::Root.reason(), "fine"]);
    }
}
