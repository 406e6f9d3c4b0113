//! Tests of the harness by mutants: each fails exactly the listed cases, and a wrong definition is detected.

use std::process::{Command, Stdio};

use checkpoint_conformance::{
    engine::Suite,
    mutation::{MUTANTS, Mutant, MutationOptions, run},
};
use rstest::rstest;

fn options() -> MutationOptions {
    MutationOptions {
        jobs: 4,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        cancellation: tokio_util::sync::CancellationToken::new(),
    }
}

/// Runs the mutants that match. All must be caught, and their number must be `count`.
fn assert_all_caught(filter: &str, count: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .args(["mutants", "--filter", filter])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let last = stdout.lines().last().unwrap();
    assert_eq!(last, format!("{count} mutants, {count} caught"), "{stdout}");
}

/// The mutants of the other suites start one target each, which takes minutes. `ci/mutants` runs all mutants, in
/// release mode.
#[test]
fn every_archive_mutant_is_caught_by_exactly_its_cases() {
    let archives = MUTANTS.iter().filter(|mutant| mutant.suite == Suite::Archive);
    assert_all_caught("archive/*", archives.count());
}

#[rstest]
#[case::kubelet("kubelet/feature-gate-ignored")]
#[case::kubelet_over_a_faulty_runtime("kubelet/empty-archive")]
#[case::runtime("runtime/existing-mode-kept")]
fn a_mutant_of_a_running_target_is_caught_by_exactly_its_cases(#[case] name: &str) {
    assert_all_caught(name, 1);
}

#[tokio::test]
async fn wrong_mutant_definitions_are_detected() {
    let kubelet_mutant = |name: &str| *Mutant::by_name(Suite::Kubelet, name).unwrap();
    let mutants = [
        Mutant {
            must_fail: &["kubelet/authentication/credentials-required"],
            ..kubelet_mutant("unauthenticated-403")
        },
        Mutant {
            must_fail: &["kubelet/feature-gate/disabled", "kubelet/checkpoint/succeeds"],
            ..kubelet_mutant("feature-gate-ignored")
        },
    ];
    let findings = run(&mutants, &options(), |_| {}).await;
    assert!(!findings[0].is_caught());
    assert_eq!(
        findings[0].unexpected_failures(),
        [
            "kubelet/authentication/expired-certificate-rejected",
            "kubelet/authentication/future-certificate-rejected",
            "kubelet/authentication/namesake-ca-rejected",
            "kubelet/authentication/non-bearer-scheme-rejected",
            "kubelet/authentication/server-certificate-rejected",
            "kubelet/authentication/unknown-token-rejected",
            "kubelet/authentication/untrusted-certificate-rejected"
        ]
    );
    assert!(!findings[1].is_caught());
    assert_eq!(findings[1].missing_failures(), ["kubelet/checkpoint/succeeds"]);
}
