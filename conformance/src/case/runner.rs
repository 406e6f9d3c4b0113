//! Runs cases against a target, step by step of the [`Schedule`].
//!
//! Whatever a case does, the run goes on: a case that panics or outlasts its limit ends in an error of its own, and the
//! target is put back after each step ([`Restore`]), so that the next one finds it as the first did. A target that cannot
//! be put back makes the case that left it so an error; of cases that shared it nobody can say which, so it is all of
//! them. Its configuration is put back only for a step that builds on it: a restart takes seconds.

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

use super::{Case, Clause, Outcome, Record, Schedule};
use crate::exhibit;

/// A target that can be put back to how it was when the run began.
pub trait Restore: Sync {
    /// Undoes what a case may have left: faults in force, a container left frozen, and, as `configuration` says, a gate switched off.
    fn restore(&self, configuration: Configuration) -> BoxFuture<'_, Result<(), String>>;
}

/// What becomes of the configuration that a case has restarted the target with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// The next cases build on the usual one.
    PutBack,
    /// The next case restarts the target as it needs it, or there is none.
    Leave,
}

/// Is told how the run goes on.
pub trait Observer: Send {
    /// A case begins.
    fn starts(&mut self, clause: &Clause);
    /// A case has ended. One that shared the target may still become an error, when that cannot be put back afterwards.
    fn ended(&mut self, record: &Record);
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn starts(&mut self, _: &Clause) {}
    fn ended(&mut self, _: &Record) {}
}

/// Runs `cases` in their order, one at a time, and returns their records sorted by id.
pub async fn run<T: Restore>(cases: &[Case<T>], target: &T, observer: &mut dyn Observer) -> Vec<Record> {
    run_scheduled(cases, target, Schedule::default(), observer).await
}

/// Runs `cases` as the schedule says, and returns their records sorted by id.
pub async fn run_scheduled<T: Restore>(
    cases: &[Case<T>],
    target: &T,
    schedule: Schedule,
    observer: &mut dyn Observer,
) -> Vec<Record> {
    let observer = Mutex::new(observer);
    let tell = |what: &dyn Fn(&mut dyn Observer)| what(&mut **observer.lock().unwrap_or_else(PoisonError::into_inner));
    let mut records = Vec::with_capacity(cases.len());
    let mut steps = schedule.steps(cases).into_iter().peekable();
    while let Some(step) = steps.next() {
        let alone = step.len() == 1;
        let judge = async |case: &Case<T>| {
            tell(&|observer| observer.starts(&case.clause));
            let record = run_one(case, target).await;
            if !alone {
                tell(&|observer| observer.ended(&record));
            }
            record
        };
        let mut of_step: Vec<Record> = stream::iter(&step)
            .map(judge)
            .buffer_unordered(schedule.jobs.max(1))
            .collect()
            .await;
        let configuration = match steps.peek() {
            Some(next) if !next.iter().all(|case| case.restarts) => Configuration::PutBack,
            _ => Configuration::Leave,
        };
        if let Err(reason) = put_back(&step, configuration, target).await {
            for record in &mut of_step {
                record.outcome = not_restored(&record.outcome, &reason);
            }
        }
        if alone {
            of_step
                .iter()
                .for_each(|record| tell(&|observer| observer.ended(record)));
        }
        records.append(&mut of_step);
    }
    records.sort_by_key(|record| record.clause.id);
    records
}

async fn run_one<T: Restore>(case: &Case<T>, target: &T) -> Record {
    let began = Instant::now();
    let judged = AssertUnwindSafe(async { (case.run)(target).await }).catch_unwind();
    let (judged, exhibits) = exhibit::collect(tokio::time::timeout(case.limit, judged)).await;
    let outcome = match judged {
        Ok(Ok(judgement)) => Outcome::from(judgement),
        Ok(Err(panic)) => Outcome::Error {
            reason: format!("the case panicked: {}", message_of(&*panic)),
        },
        Err(_) => Outcome::Error {
            reason: format!("the case did not end within {}", humantime::format_duration(case.limit)),
        },
    };
    Record {
        clause: case.clause,
        outcome,
        duration: began.elapsed(),
        exhibits,
    }
}

/// Puts the target back within the bound of the step's slowest case: a target that no longer answers must not stop the
/// run either.
async fn put_back<T: Restore>(step: &[Case<T>], configuration: Configuration, target: &T) -> Result<(), String> {
    let limit = step.iter().map(|case| case.limit).max().unwrap_or_default();
    tokio::time::timeout(limit, target.restore(configuration))
        .await
        .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
}

fn not_restored(outcome: &Outcome, reason: &str) -> Outcome {
    Outcome::Error {
        reason: format!(
            "the target could not be put back after the case ({}: {}): {reason}",
            outcome.word(),
            outcome.text()
        ),
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
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
    use crate::case::{Authority, Level, Running, fail, pass, skip};

    struct Target {
        restored: AtomicUsize,
        reconfigured: AtomicUsize,
        broken: bool,
        meeting: tokio::sync::Barrier,
    }

    impl Default for Target {
        fn default() -> Self {
            Target {
                restored: AtomicUsize::new(0),
                reconfigured: AtomicUsize::new(0),
                broken: false,
                meeting: tokio::sync::Barrier::new(2),
            }
        }
    }

    impl Restore for Target {
        fn restore(&self, configuration: Configuration) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                self.restored.fetch_add(1, Ordering::Relaxed);
                if configuration == Configuration::PutBack {
                    self.reconfigured.fetch_add(1, Ordering::Relaxed);
                }
                if self.broken {
                    Err("still frozen".to_owned())
                } else {
                    Ok(())
                }
            })
        }
    }

    const fn clause(id: &'static str) -> Clause {
        Clause {
            id,
            clause: "holds",
            authority: Authority::titled("this test"),
            motivation: "",
            level: Level::Documented,
            expected: "it",
        }
    }

    fn cases() -> Vec<Case<Target>> {
        vec![
            Case::new(clause("t/pass"), |_| Box::pin(async { pass("fine") })),
            Case::new(clause("t/fail"), |_| Box::pin(async { fail("wrong") })),
            Case::new(clause("t/skip"), |_| Box::pin(async { skip("no root") })),
            Case::new(clause("t/panic"), |_| Box::pin(async { panic!("index {}", 7) })),
            Case::new(clause("t/hang"), |_| Box::pin(std::future::pending())).limit(Duration::from_millis(10)),
        ]
    }

    #[tokio::test]
    async fn every_way_to_end_has_its_outcome_and_ids_are_sorted() {
        let target = Target::default();
        let records = run(&cases(), &target, &mut Silent).await;
        let seen: Vec<_> = records
            .iter()
            .map(|record| (record.clause.id, record.outcome.word(), record.outcome.text()))
            .collect();
        assert_eq!(
            seen,
            [
                ("t/fail", "fail", "wrong"),
                ("t/hang", "error", "the case did not end within 10ms"),
                ("t/panic", "error", "the case panicked: index 7"),
                ("t/pass", "pass", "fine"),
                ("t/skip", "skip", "no root"),
            ]
        );
        assert_eq!(target.restored.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn the_configuration_is_put_back_for_a_step_that_builds_on_it_alone() {
        let target = Target::default();
        let [one, two, three] = [cases()[0], cases()[1], cases()[2]];
        run(
            &[one.restarts(), two, one.restarts(), three.restarts()],
            &target,
            &mut Silent,
        )
        .await;
        assert_eq!(target.restored.load(Ordering::Relaxed), 4);
        assert_eq!(target.reconfigured.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_target_that_cannot_be_put_back_is_an_error() {
        let target = Target {
            broken: true,
            ..Target::default()
        };
        let records = run(&cases()[..1], &target, &mut Silent).await;
        assert_eq!(records[0].outcome.word(), "error");
        assert!(records[0].outcome.text().ends_with("(pass: fine): still frozen"));
    }

    #[tokio::test]
    async fn what_cannot_be_put_back_after_a_step_is_the_fault_of_all_of_it() {
        let target = Target {
            broken: true,
            ..Target::default()
        };
        let shared = [cases()[0].shared(), cases()[1].shared()];
        let records = run(&shared, &target, &mut Silent).await;
        assert!(records.iter().all(|record| record.outcome.word() == "error"));
        assert_eq!(target.restored.load(Ordering::Relaxed), 1);
    }

    /// Two cases that each wait for the other: they end only side by side.
    fn meeting() -> [Case<Target>; 2] {
        let meet: for<'a> fn(&'a Target) -> Running<'a> = |target| {
            Box::pin(async move {
                target.meeting.wait().await;
                pass("met")
            })
        };
        let case = |id| Case::new(clause(id), meet).shared().limit(Duration::from_millis(200));
        [case("t/one"), case("t/two")]
    }

    #[tokio::test]
    async fn cases_that_share_the_target_run_side_by_side_when_there_are_jobs_for_it() {
        let words = async |jobs| {
            let target = Target::default();
            let schedule = Schedule { seed: 0, jobs };
            let records = run_scheduled(&meeting(), &target, schedule, &mut Silent).await;
            assert_eq!(records.len(), 2);
            records.iter().filter(|record| record.outcome.word() == "pass").count()
        };
        assert_eq!(words(2).await, 2);
        // The barrier counts one that has given up: the second may find it open, the first cannot.
        assert!(words(1).await < 2);
    }

    #[tokio::test]
    async fn panics_and_hangs_end_no_other_case_of_their_step() {
        let shared: Vec<_> = cases().into_iter().map(Case::shared).collect();
        let records = run_scheduled(&shared, &Target::default(), Schedule { seed: 5, jobs: 3 }, &mut Silent).await;
        let words: Vec<_> = records.iter().map(|record| record.outcome.word()).collect();
        assert_eq!(words, ["fail", "error", "error", "pass", "skip"]);
    }
}
