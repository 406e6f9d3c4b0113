//! Two runs have the same ids, outcomes and normalized texts, for every order and number of concurrent cases.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use checkpoint_conformance::{archive::sample, report};

/// Returns outcome and normalized text of each case.
type CaseOutcomes = BTreeMap<String, (String, String)>;

fn run_suite(args: &[&str], order: &[&str]) -> (CaseOutcomes, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args(args)
        .args(order)
        .arg("--report-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let file = dir.path().join("report.json");
    assert!(file.exists(), "{args:?} {order:?}: {stderr}");
    let [report] = &report::read(&file).unwrap()[..] else {
        panic!("expected one report");
    };
    let seed = order[1].parse::<u64>().unwrap();
    assert_eq!(report.conditions.seed, seed);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.contains(&format!("order: seed {seed}\n")), seed != 0, "{stdout}");
    let ids: Vec<_> = report.cases.iter().map(|case| case.id.clone()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let verdicts = report.cases.iter().map(|case| {
        let actual = report::normalize(&case.actual);
        (case.id.clone(), (case.outcome.clone(), actual))
    });
    (verdicts.collect(), format!("{:?}", report.verdict))
}

fn assert_same_in_any_order(args: &[&str]) {
    let (first, verdict) = run_suite(args, &["--seed", "0", "--jobs", "1"]);
    for order in [["--seed", "7", "--jobs", "4"], ["--seed", "20261122", "--jobs", "2"]] {
        let (other, other_verdict) = run_suite(args, &order);
        let differ: Vec<_> = first
            .iter()
            .filter(|(id, outcome)| other.get(*id) != Some(outcome))
            .map(|(id, outcome)| format!("{id}\n  {outcome:?}\n  {:?}", other.get(id)))
            .collect();
        assert!(differ.is_empty(), "{order:?}:\n{}", differ.join("\n"));
        assert_eq!(first.len(), other.len(), "{order:?}");
        assert_eq!(verdict, other_verdict, "{order:?}");
    }
}

#[test]
fn kubelet_suite_is_deterministic() {
    assert_same_in_any_order(&["kubelet"]);
}

#[test]
fn runtime_suite_is_deterministic() {
    assert_same_in_any_order(&["runtime"]);
}

#[test]
fn archive_suite_is_deterministic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.tar");
    let bytes = sample::tar_of(&sample::Sample::default().members()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_same_in_any_order(&["archive", Path::to_str(&path).unwrap()]);
}
