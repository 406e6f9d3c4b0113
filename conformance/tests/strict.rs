//! `--strict` can be passed: no two cases of a suite contradict each other.
//!
//! The proof is a target that passes all of them at once. The reference kubelet with `fractional_timestamps` and the embedded fake-cri
//! are such targets. A case that was skipped has not been passed, so skips are named here, and a pair of cases of which one was skipped
//! must be passed by another target: a mutant, by what it is declared to fail.

use std::collections::BTreeSet;

use checkpoint_conformance::{
    engine::{CaseRecord, GatePolicy, Outcome, RunConditions, SilentObserver, Suite, Verdict, run},
    mutation::{BASELINE_FAILURES, MUTANTS, contradictions},
    suites::{
        kubelet::{self, KubeletSession},
        runtime::{self, RuntimeSession},
    },
    targets::{Embedded, runtime::EmbeddedRuntime},
};

const STRICT: GatePolicy = GatePolicy {
    strict: true,
    allow_incomplete: false,
};

/// The cases that did not pass, of a run that passes under `--strict`.
fn not_passed(records: &[CaseRecord]) -> BTreeSet<&'static str> {
    let verdict = Verdict::from_records(records, STRICT, &RunConditions::default());
    let reasons: Vec<_> = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }))
        .map(|record| format!("{}: {}", record.info.id, record.outcome.detail()))
        .collect();
    assert_eq!(verdict, Verdict::Pass, "{reasons:#?}");
    let not_passed = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    not_passed.map(|record| record.info.id).collect()
}

/// No pair of the suite's cases is failed in part by the run and by every mutant.
fn assert_no_contradiction(suite: Suite, records: &[CaseRecord]) {
    let cases: Vec<_> = records.iter().map(|record| record.info.id).collect();
    // What a run skipped, a mutant that is not declared to fail it was judged by where it could be.
    let failing_by_mutant = MUTANTS.iter().filter(|mutant| mutant.suite() == suite).map(|mutant| {
        let fails = mutant.must_fail.iter().chain(BASELINE_FAILURES).copied();
        fails.collect::<BTreeSet<_>>()
    });
    let failing: Vec<_> = std::iter::once(not_passed(records)).chain(failing_by_mutant).collect();
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
fn reference_kubelet_passes_the_strict_kubelet_suite() {
    block_on(check_kubelet_suite);
}

#[test]
fn fake_cri_passes_the_strict_runtime_suite() {
    block_on(check_runtime_suite);
}

async fn check_kubelet_suite() {
    let embedded = Embedded {
        fractional_timestamps: true,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let session = KubeletSession::new(embedded.start().await.unwrap());
    let records = run(&kubelet::cases(), &session, &mut SilentObserver).await;
    // Each archive has a name of its own here, and none was removed.
    let archive_count = std::fs::read_dir(session.kubelet.checkpoints_dir.as_ref().unwrap())
        .unwrap()
        .count();
    session.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    let max_archives: u32 = 1 + kubelet::cases().iter().map(|case| case.max_archives).sum::<u32>();
    assert!(
        archive_count > 40 && archive_count <= max_archives as usize,
        "{archive_count} archives, and at most {max_archives} are announced"
    );
    assert_no_contradiction(Suite::Kubelet, &records);
}

async fn check_runtime_suite() {
    let embedded = EmbeddedRuntime {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..EmbeddedRuntime::default()
    };
    let session = RuntimeSession::new(embedded.start().await.unwrap());
    let records = run(&runtime::cases(), &session, &mut SilentObserver).await;
    session.runtime.shutdown().await.unwrap();
    assert_no_contradiction(Suite::Runtime, &records);
}
