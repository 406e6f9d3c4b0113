//! When rules fire: counters, probabilities, limits, and the effect of one rule on the next.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fake_cri::fault::{CallTarget, Effect, FAULT_ANNOTATION, FaultDecision, FaultEngine, Rpc, RuleSource, parse_rules};
use proptest::prelude::*;
use rstest::rstest;

fn engine(rules: &str) -> FaultEngine {
    let engine = FaultEngine::new();
    engine.add(
        parse_rules(rules).unwrap_or_else(|error| panic!("{error}")),
        RuleSource::Flag,
    );
    engine
}

fn decide(engine: &FaultEngine, rpc: &str) -> FaultDecision {
    engine.decide(Rpc::by_name(rpc).expect("an rpc"), &CallTarget::default())
}

/// The calls, counted from 1, on which the only rule fires.
fn fired_calls(engine: &FaultEngine, calls: u64) -> Vec<u64> {
    (1..=calls)
        .filter(|_| !decide(engine, "Version").fired_rule_ids.is_empty())
        .collect()
}

#[rstest]
#[case("", &[1, 2, 3, 4, 5, 6, 7, 8, 9])]
#[case("(nth=3)", &[3])]
#[case("(every=4)", &[4, 8])]
#[case("(times=2)", &[1, 2])]
#[case("(every=2,times=3)", &[2, 4, 6])]
#[case("(p=1)", &[1, 2, 3, 4, 5, 6, 7, 8, 9])]
#[case("(p=1,times=1)", &[1])]
fn selectors_count_calls(#[case] selectors: &str, #[case] expected: &[u64]) {
    let mut call_number = 0;
    let engine = engine(&format!("Version{selectors}:before=hang"));
    let fired: Vec<_> = (0..9)
        .filter_map(|_| {
            call_number += 1;
            (!decide(&engine, "Version").fired_rule_ids.is_empty()).then_some(call_number)
        })
        .collect();
    assert_eq!(fired, expected);
    let rule_status = &engine.list()[0];
    assert_eq!(
        (rule_status.matched_calls, rule_status.fired_calls),
        (9, expected.len() as u64)
    );
}

#[test]
fn unselected_calls_are_not_counted() {
    let engine = engine("List*(nth=2):before=hang");
    assert!(decide(&engine, "Version").fired_rule_ids.is_empty());
    assert!(decide(&engine, "ListContainers").fired_rule_ids.is_empty());
    assert!(decide(&engine, "Status").fired_rule_ids.is_empty());
    assert_eq!(decide(&engine, "ListImages").fired_rule_ids, ["f1"]);
}

#[test]
fn a_seed_is_reproducible_and_keeps_its_probability() {
    let rule = |seed| format!("Version(p=0.25,seed={seed}):before=hang");
    let [one, again, other] = [1, 1, 2].map(|seed| fired_calls(&engine(&rule(seed)), 4000));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let seeded = FaultEngine::with_seed(1);
    seeded.add(
        parse_rules("Version(p=0.25):before=hang").expect("a valid rule"),
        RuleSource::Flag,
    );
    assert_eq!(
        fired_calls(&seeded, 4000),
        one,
        "without its own seed a rule takes the engine's"
    );
    // The bounds are five standard deviations from the mean.
    for fired in [one, other] {
        assert!((863..=1137).contains(&fired.len()), "{} of 4000 at 0.25", fired.len());
    }
}

#[test]
fn an_effect_that_ends_the_call_stops_later_rules() {
    let engine = engine(
        "Version:after=delay(1s); Version:before=delay(2s); Version(nth=1):before=error(Internal,\"first\"); \
         Version:before=delay(3s)",
    );
    let first = decide(&engine, "Version");
    assert_eq!(first.fired_rule_ids, ["f2", "f3"]);
    assert_eq!(first.before.len(), 2);
    assert!(first.after.is_empty());

    let second = decide(&engine, "Version");
    assert_eq!(second.fired_rule_ids, ["f2", "f4", "f1"]);
    assert_eq!(
        second.before,
        [2, 3].map(|seconds| Effect::Delay(Duration::from_secs(seconds)))
    );
    let counts: Vec<_> = engine
        .list()
        .iter()
        .map(|rule_status| (rule_status.matched_calls, rule_status.fired_calls))
        .collect();
    assert_eq!(
        counts,
        [(2, 1), (2, 2), (2, 1), (2, 1)],
        "a rule that had no chance has still seen the call"
    );
}

#[test]
fn a_failed_phase_stops_later_phases_only() {
    let engine = engine(
        "CheckpointContainer:after=delay(1s); CheckpointContainer:finish=leave-frozen; \
         CheckpointContainer:capture=error(Internal,\"x\"); CheckpointContainer:freeze=delay(1s)",
    );
    let decision = decide(&engine, "CheckpointContainer");
    assert_eq!(decision.fired_rule_ids, ["f4", "f3", "f1"]);
    assert_eq!((decision.checkpoint.injections.len(), decision.after.len()), (2, 1));
}

#[test]
fn annotation_counters_are_per_pod() {
    let engine = FaultEngine::new();
    let version = Rpc::by_name("StartContainer").expect("an rpc");
    let pod = |uid: &str, rules: &str| CallTarget {
        uid: uid.to_owned(),
        pod: "web".to_owned(),
        namespace: "default".to_owned(),
        annotations: HashMap::from([(FAULT_ANNOTATION.to_owned(), rules.to_owned())]),
        ..CallTarget::default()
    };
    let rule = "StartContainer(nth=2):before=hang";
    let fired = |subject: &CallTarget| !engine.decide(version, subject).fired_rule_ids.is_empty();
    let (a, b) = (pod("a", rule), pod("b", rule));
    assert_eq!(
        [fired(&a), fired(&b), fired(&a), fired(&b), fired(&a)],
        [false, false, true, true, false]
    );
    assert_eq!(engine.list().len(), 2);

    let changed = pod("a", "StartContainer:before=hang");
    assert!(fired(&changed), "a changed annotation is read again");
    assert_eq!(engine.list().len(), 2);
}

#[test]
fn many_threads_lose_no_call() {
    let engine = Arc::new(engine("Version(every=10):before=hang"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..1000).for_each(|_| drop(decide(&engine, "Version"))));
        }
    });
    let rule_status = &engine.list()[0];
    assert_eq!((rule_status.matched_calls, rule_status.fired_calls), (8000, 800));
}

proptest! {
    #[test]
    fn times_limits_any_other_selector(
        times in 1..20_u64,
        every in 1..5_u64,
        p in 0.01..1.0_f64,
        seed: u64,
        calls in 0..200_u64,
    ) {
        let engine = engine(&format!("Version(every={every},p={p},seed={seed},times={times}):before=hang"));
        let fired = fired_calls(&engine, calls);
        prop_assert!(fired.len() as u64 <= times.min(calls / every));
    }
}
