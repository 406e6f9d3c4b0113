//! When rules fire: counting, multiples, draws, bounds, and what one rule leaves to the next.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fake_cri::fault::{ANNOTATION, Action, Decision, Engine, Rpc, Source, Subject, parse_rules};
use proptest::prelude::*;
use rstest::rstest;

fn engine(rules: &str) -> Engine {
    let engine = Engine::new();
    engine.add(
        parse_rules(rules).unwrap_or_else(|error| panic!("{error}")),
        Source::Flag,
    );
    engine
}

fn decide(engine: &Engine, rpc: &str) -> Decision {
    engine.decide(Rpc::by_name(rpc).expect("an rpc"), &Subject::default())
}

/// Which of the first calls, counted from 1, the only rule fires on.
fn fires_on(engine: &Engine, calls: u64) -> Vec<u64> {
    (1..=calls)
        .filter(|_| !decide(engine, "Version").fired.is_empty())
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
fn counts(#[case] selectors: &str, #[case] expected: &[u64]) {
    let mut seen = 0;
    let engine = engine(&format!("Version{selectors}:before=hang"));
    let fired: Vec<_> = (0..9)
        .filter_map(|_| {
            seen += 1;
            (!decide(&engine, "Version").fired.is_empty()).then_some(seen)
        })
        .collect();
    assert_eq!(fired, expected);
    let listed = &engine.list()[0];
    assert_eq!((listed.seen, listed.fired), (9, expected.len() as u64));
}

#[test]
fn calls_out_of_scope_are_not_counted() {
    let engine = engine("List*(nth=2):before=hang");
    assert!(decide(&engine, "Version").fired.is_empty());
    assert!(decide(&engine, "ListContainers").fired.is_empty());
    assert!(decide(&engine, "Status").fired.is_empty());
    assert_eq!(decide(&engine, "ListImages").fired, ["f1"]);
}

#[test]
fn a_seed_draws_the_same_each_time_and_as_often_as_it_says() {
    let rule = |seed| format!("Version(p=0.25,seed={seed}):before=hang");
    let [one, again, other] = [1, 1, 2].map(|seed| fires_on(&engine(&rule(seed)), 4000));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let whole = Engine::with_seed(1);
    whole.add(
        parse_rules("Version(p=0.25):before=hang").expect("a rule"),
        Source::Flag,
    );
    assert_eq!(
        fires_on(&whole, 4000),
        one,
        "without its own seed a rule takes the engine's"
    );
    // Five standard deviations to each side.
    for fired in [one, other] {
        assert!((863..=1137).contains(&fired.len()), "{} of 4000 at 0.25", fired.len());
    }
}

#[test]
fn what_ends_a_call_ends_the_weighing() {
    let engine = engine(
        "Version:after=delay(1s); Version:before=delay(2s); Version(nth=1):before=error(Internal,\"first\"); \
         Version:before=delay(3s)",
    );
    let first = decide(&engine, "Version");
    assert_eq!(first.fired, ["f2", "f3"]);
    assert_eq!(first.before.len(), 2);
    assert!(first.after.is_empty());

    let second = decide(&engine, "Version");
    assert_eq!(second.fired, ["f2", "f4", "f1"]);
    assert_eq!(
        second.before,
        [2, 3].map(|seconds| Action::Delay(Duration::from_secs(seconds)))
    );
    let counts: Vec<_> = engine.list().iter().map(|listed| (listed.seen, listed.fired)).collect();
    assert_eq!(
        counts,
        [(2, 1), (2, 2), (2, 1), (2, 1)],
        "a rule that had no chance has still seen the call"
    );
}

#[test]
fn a_phase_that_fails_ends_the_phases_and_not_the_call() {
    let engine = engine(
        "CheckpointContainer:after=delay(1s); CheckpointContainer:finish=leave-frozen; \
         CheckpointContainer:capture=error(Internal,\"x\"); CheckpointContainer:freeze=delay(1s)",
    );
    let decision = decide(&engine, "CheckpointContainer");
    assert_eq!(decision.fired, ["f4", "f3", "f1"]);
    assert_eq!((decision.injections.len(), decision.after.len()), (2, 1));
}

#[test]
fn counters_of_annotations_are_each_pods_own() {
    let engine = Engine::new();
    let version = Rpc::by_name("StartContainer").expect("an rpc");
    let pod = |uid: &str, rules: &str| Subject {
        uid: uid.to_owned(),
        pod: "web".to_owned(),
        namespace: "default".to_owned(),
        annotations: HashMap::from([(ANNOTATION.to_owned(), rules.to_owned())]),
        ..Subject::default()
    };
    let rule = "StartContainer(nth=2):before=hang";
    let fired = |subject: &Subject| !engine.decide(version, subject).fired.is_empty();
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
    let listed = &engine.list()[0];
    assert_eq!((listed.seen, listed.fired), (8000, 800));
}

proptest! {
    #[test]
    fn times_bounds_whatever_else_is_said(
        times in 1..20_u64,
        every in 1..5_u64,
        p in 0.01..1.0_f64,
        seed: u64,
        calls in 0..200_u64,
    ) {
        let engine = engine(&format!("Version(every={every},p={p},seed={seed},times={times}):before=hang"));
        let fired = fires_on(&engine, calls);
        prop_assert!(fired.len() as u64 <= times.min(calls / every));
    }
}
