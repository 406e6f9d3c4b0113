//! The same run twice: the same ids, outcomes and, but for what differs by nature, the same words; whatever the order and
//! however many cases at a time.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use checkpoint_conformance::{archive::sample, report};

/// What became of each case, with normalised words.
type Verdicts = BTreeMap<String, (String, String)>;

fn run(args: &[&str], order: &[&str]) -> (Verdicts, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args(args)
        .args(order)
        .arg("--report-dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let file = folder.path().join("report.json");
    assert!(file.exists(), "{args:?} {order:?}: {stderr}");
    let [report] = &report::read(&file).unwrap()[..] else {
        panic!("one report is written");
    };
    let seed = order[1].parse::<u64>().unwrap();
    assert_eq!(report.terms.seed, seed);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.contains(&format!("order: seed {seed}\n")), seed != 0, "{said}");
    let ids: Vec<_> = report.cases.iter().map(|case| case.id.clone()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let verdicts = report.cases.iter().map(|case| {
        let seen = report::normalised(&case.seen);
        (case.id.clone(), (case.outcome.clone(), seen))
    });
    (verdicts.collect(), format!("{:?}", report.verdict))
}

fn same_whatever_the_order(args: &[&str]) {
    let (first, verdict) = run(args, &["--seed", "0", "--jobs", "1"]);
    for order in [["--seed", "7", "--jobs", "4"], ["--seed", "20261122", "--jobs", "2"]] {
        let (again, verdict_again) = run(args, &order);
        let differ: Vec<_> = first
            .iter()
            .filter(|(id, words)| again.get(*id) != Some(words))
            .map(|(id, words)| format!("{id}\n  {words:?}\n  {:?}", again.get(id)))
            .collect();
        assert!(differ.is_empty(), "{order:?}:\n{}", differ.join("\n"));
        assert_eq!(first.len(), again.len(), "{order:?}");
        assert_eq!(verdict, verdict_again, "{order:?}");
    }
}

#[test]
fn the_kubelet_suite() {
    same_whatever_the_order(&["kubelet"]);
}

#[test]
fn the_runtime_suite() {
    same_whatever_the_order(&["runtime"]);
}

#[test]
fn the_archive_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.tar");
    let bytes = sample::tar_of(&sample::Sample::default().parts()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    same_whatever_the_order(&["archive", Path::to_str(&path).unwrap()]);
}
