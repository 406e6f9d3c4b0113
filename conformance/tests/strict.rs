//! `--strict` can be passed: no two cases of a suite contradict each other.
//!
//! The proof is a target that passes all of them at once. The reference kubelet with `fractional_timestamps` and the embedded fake-cri
//! are such targets. A case that was skipped has not been passed, so skips are named here, and a pair of cases of which one was skipped
//! must be passed by another target: a mutant, by what it is declared to fail.

use std::collections::BTreeSet;

use checkpoint_conformance::{
    case::{Outcome, Record, Rules, Silent, Suite, Terms, Verdict, run},
    catalog::{
        kubelet::{self, Session},
        runtime::{self, RuntimeSession},
    },
    mutant::{ALL, KNOWN, contradictions},
    target::{Embedded, runtime::EmbeddedRuntime},
};

const STRICT: Rules = Rules {
    strict: true,
    allow_incomplete: false,
};

/// The cases that did not pass, of a run that passes under `--strict`.
fn unpassed(records: &[Record]) -> BTreeSet<&'static str> {
    let verdict = Verdict::of(records, STRICT, &Terms::default());
    let reasons: Vec<_> = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }))
        .map(|record| format!("{}: {}", record.clause.id, record.outcome.text()))
        .collect();
    assert_eq!(verdict, Verdict::Pass, "{reasons:#?}");
    let unpassed = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    unpassed.map(|record| record.clause.id).collect()
}

/// No pair of the suite's cases is failed in part by the run and by every mutant.
fn assert_no_contradiction(suite: Suite, records: &[Record]) {
    let cases: Vec<_> = records.iter().map(|record| record.clause.id).collect();
    // What a run skipped, a mutant that is not declared to fail it was judged by where it could be.
    let of_mutants = ALL.iter().filter(|mutant| mutant.suite() == suite).map(|mutant| {
        let fails = mutant.fails.iter().chain(KNOWN).copied();
        fails.collect::<BTreeSet<_>>()
    });
    let failing: Vec<_> = std::iter::once(unpassed(records)).chain(of_mutants).collect();
    assert_eq!(contradictions(&cases, &failing), []);
}

/// Runs on a thread with the stack of a program's main thread: a suite's future is larger than what a test's thread has.
fn block_on<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    const STACK_BYTES: usize = 16 << 20;
    let run = move || tokio::runtime::Runtime::new().unwrap().block_on(work());
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    thread.join().unwrap();
}

#[test]
fn the_reference_kubelet_passes_every_case_of_the_kubelet_suite_at_once() {
    block_on(the_kubelet_suite);
}

#[test]
fn fake_cri_passes_every_case_of_the_runtime_suite_at_once() {
    block_on(the_runtime_suite);
}

async fn the_kubelet_suite() {
    let embedded = Embedded {
        fractional_timestamps: true,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let session = Session::new(embedded.start().await.unwrap());
    let records = run(&kubelet::cases(), &session, &mut Silent).await;
    // Each archive has a name of its own here, and none was removed.
    let made = std::fs::read_dir(session.kubelet.checkpoints.as_ref().unwrap())
        .unwrap()
        .count();
    session.kubelet.steering.as_ref().unwrap().shutdown().await.unwrap();
    let counted: u32 = 1 + kubelet::cases().iter().map(|case| case.archives).sum::<u32>();
    assert!(
        made > 40 && made <= counted as usize,
        "{made} archives, and at most {counted} are announced"
    );
    assert_no_contradiction(Suite::Kubelet, &records);
}

async fn the_runtime_suite() {
    let embedded = EmbeddedRuntime {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..EmbeddedRuntime::default()
    };
    let session = RuntimeSession::new(embedded.start().await.unwrap());
    let records = run(&runtime::cases(), &session, &mut Silent).await;
    session.runtime.shutdown().await.unwrap();
    assert_no_contradiction(Suite::Runtime, &records);
}
