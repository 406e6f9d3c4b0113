//! Runs cases against a target, one after the other.
//!
//! Whatever a case does, the run goes on: a case that panics or outlasts its limit ends in an error of its own, and the
//! target is put back after each ([`Restore`]), so that the next one finds it as the first did. A target that cannot be
//! put back makes the case that left it so an error.

use std::{panic::AssertUnwindSafe, time::Instant};

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{Case, Clause, Outcome, Record};
use crate::exhibit;

/// A target that can be put back to how it was when the run began.
pub trait Restore: Sync {
    /// Undoes what a case may have left: faults in force, a gate switched off, a container left frozen.
    fn restore(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Is told how the run goes on.
pub trait Observer: Send {
    /// A case begins.
    fn starts(&mut self, clause: &Clause);
    /// A case has ended.
    fn ended(&mut self, record: &Record);
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn starts(&mut self, _: &Clause) {}
    fn ended(&mut self, _: &Record) {}
}

/// Runs `cases` in their order and returns their records sorted by id.
pub async fn run<T: Restore>(cases: &[Case<T>], target: &T, observer: &mut dyn Observer) -> Vec<Record> {
    let mut records = Vec::with_capacity(cases.len());
    for case in cases {
        observer.starts(&case.clause);
        let record = run_one(case, target).await;
        observer.ended(&record);
        records.push(record);
    }
    records.sort_by_key(|record| record.clause.id);
    records
}

async fn run_one<T: Restore>(case: &Case<T>, target: &T) -> Record {
    let began = Instant::now();
    let judged = AssertUnwindSafe(async { (case.run)(target).await }).catch_unwind();
    let (judged, exhibits) = exhibit::collect(tokio::time::timeout(case.limit, judged)).await;
    let mut outcome = match judged {
        Ok(Ok(judgement)) => Outcome::from(judgement),
        Ok(Err(panic)) => Outcome::Error {
            reason: format!("the case panicked: {}", message_of(&*panic)),
        },
        Err(_) => Outcome::Error {
            reason: format!("the case did not end within {}", humantime::format_duration(case.limit)),
        },
    };
    let duration = began.elapsed();
    // The restore gets the same bound: a target that no longer answers must not stop the run either.
    match tokio::time::timeout(case.limit, target.restore()).await {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => outcome = not_restored(&outcome, &reason),
        Err(_) => outcome = not_restored(&outcome, "it did not answer in time"),
    }
    Record {
        clause: case.clause,
        outcome,
        duration,
        exhibits,
    }
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
    use crate::case::{Level, fail, pass, skip};

    #[derive(Default)]
    struct Target {
        restored: AtomicUsize,
        broken: bool,
    }

    impl Restore for Target {
        fn restore(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                self.restored.fetch_add(1, Ordering::Relaxed);
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
            source: "this test",
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
    async fn a_target_that_cannot_be_put_back_is_an_error() {
        let target = Target {
            broken: true,
            ..Target::default()
        };
        let records = run(&cases()[..1], &target, &mut Silent).await;
        assert_eq!(records[0].outcome.word(), "error");
        assert!(records[0].outcome.text().ends_with("(pass: fine): still frozen"));
    }
}
