//! Runs cases against a target, step by step of the [`Schedule`].
//!
//! No case ends the run: a case that panics or exceeds its time limit ends in an error, and the target is reset after
//! each step ([`Reset`]), so that the next step finds the target in its initial state. If the reset fails, the case
//! before it ends in an error. If several cases shared the target, all of them end in an error, because the cause is
//! unknown. The configuration is reverted only for a step that depends on it, because a restart takes seconds.

use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use futures_util::{
    FutureExt as _,
    future::BoxFuture,
    stream::{self, StreamExt as _},
};

use super::{Case, CaseInfo, CaseRecord, Outcome, Schedule};
use crate::evidence;

/// A target that can be reset to its initial state.
pub trait Reset: Sync {
    /// Reverts what a case may have left: active faults, a frozen container and, depending on `config_reset`, a changed
    /// configuration.
    fn reset(&self, config_reset: ConfigReset) -> BoxFuture<'_, Result<(), String>>;
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
pub async fn run<T: Reset>(cases: &[Case<T>], target: &T, observer: &mut dyn Observer) -> Vec<CaseRecord> {
    run_scheduled(cases, target, Schedule::default(), observer).await
}

/// Runs `cases` as scheduled, and returns their records sorted by id.
pub async fn run_scheduled<T: Reset>(
    cases: &[Case<T>],
    target: &T,
    schedule: Schedule,
    observer: &mut dyn Observer,
) -> Vec<CaseRecord> {
    let observer = Mutex::new(observer);
    let notify = |notification: &dyn Fn(&mut dyn Observer)| {
        notification(&mut **observer.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let mut records = Vec::with_capacity(cases.len());
    let mut steps = schedule.steps(cases).into_iter().peekable();
    while let Some(step) = steps.next() {
        let exclusive = step.len() == 1;
        let run_case = async |case: &Case<T>| {
            notify(&|observer| observer.case_started(&case.info));
            let record = run_one(case, target).await;
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
            Some(next) if !next.iter().all(|case| case.restarts_target) => ConfigReset::Revert,
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

async fn run_one<T: Reset>(case: &Case<T>, target: &T) -> CaseRecord {
    let started = Instant::now();
    let result = AssertUnwindSafe(async { (case.run)(target).await }).catch_unwind();
    let (result, evidence_items) = evidence::capture(tokio::time::timeout(case.timeout, result)).await;
    let outcome = match result {
        Ok(Ok(case_result)) => Outcome::from(case_result),
        Ok(Err(panic)) => Outcome::Error {
            reason: format!("the case panicked: {}", panic_message(&*panic)),
        },
        Err(_) => Outcome::Error {
            reason: format!(
                "the case did not end within {}",
                humantime::format_duration(case.timeout)
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
async fn reset_target<T: Reset>(step: &[Case<T>], config_reset: ConfigReset, target: &T) -> Result<(), String> {
    let limit = step.iter().map(|case| case.timeout).max().unwrap_or_default();
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
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::engine::{Authority, CaseFuture, Level, fail, pass, skip};

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

    impl Reset for FakeTarget {
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

    const fn case_info(id: &'static str) -> CaseInfo {
        CaseInfo {
            id,
            requirement: "holds",
            authority: Authority::from_title("this test"),
            motivation: "",
            level: Level::Documented,
            expected: "it",
        }
    }

    fn cases() -> Vec<Case<FakeTarget>> {
        vec![
            Case::new(case_info("t/pass"), |_| Box::pin(async { pass("fine") })),
            Case::new(case_info("t/fail"), |_| Box::pin(async { fail("wrong") })),
            Case::new(case_info("t/skip"), |_| Box::pin(async { skip("no root") })),
            Case::new(case_info("t/panic"), |_| Box::pin(async { panic!("index {}", 7) })),
            Case::new(case_info("t/hang"), |_| Box::pin(std::future::pending())).timeout(Duration::from_millis(10)),
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
        let [one, two, three] = [cases()[0], cases()[1], cases()[2]];
        run(
            &[
                one.restarts_target(),
                two,
                one.restarts_target(),
                three.restarts_target(),
            ],
            &target,
            &mut SilentObserver,
        )
        .await;
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
        let shared = [cases()[0].shared(), cases()[1].shared()];
        let records = run(&shared, &target, &mut SilentObserver).await;
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
            Case::new(case_info(id), meet)
                .shared()
                .timeout(Duration::from_millis(200))
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
        let shared: Vec<_> = cases().into_iter().map(Case::shared).collect();
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
}
