//! A case is skipped for want of a capability exactly if the target lacks a capability that the case declares, and a
//! case that is skipped for anything that it does not declare would end in an error.

use checkpoint_conformance::{
    archive::{Expectations, Limits, inspect_stream, sample},
    engine::{Capabilities, Capability, CaseRecord, Outcome, SilentObserver, Target, run},
    suites::{
        archive,
        kubelet::{self, KubeletSession},
        runtime::{self, RuntimeSession},
    },
    targets::{
        Embedded, Offer, SiblingContainers, TargetKind,
        runtime::{EmbeddedRuntime, WorkloadProgram},
    },
};

fn assert_skipped_by_capability(records: &[CaseRecord], capabilities: &Capabilities) {
    for record in records {
        // Other errors, such as a time limit on a busy machine, are the subject of other tests.
        let is_undeclared = matches!(&record.outcome, Outcome::Error { reason } if reason.contains("does not declare"));
        assert!(!is_undeclared, "{}: {}", record.info.id, record.outcome.detail());
        let missing = capabilities.first_missing(record.info.requires).map(Capability::reason);
        let reason = match &record.outcome {
            Outcome::Skip { reason, .. } => Some(reason.as_str()),
            _ => None,
        };
        assert!(
            missing.is_none() || reason == missing,
            "{}: {:?}, and the target lacks: {missing:?}",
            record.info.id,
            record.outcome
        );
    }
}

/// Asserts that a target has exactly the capabilities that its kind always has. Capabilities of other suites are
/// ignored.
fn assert_kind(kind: TargetKind, capabilities: &Capabilities) {
    for capability in Capability::ALL {
        match kind.offer(*capability) {
            Offer::With(_) => {}
            offer => assert_eq!(
                capabilities.contains(*capability),
                offer == Offer::Always,
                "{}: {}",
                kind.as_str(),
                capability.as_str()
            ),
        }
    }
}

/// Runs a future on a thread with a larger stack: the future of a suite is too large for a test thread.
fn block_on<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    const STACK_BYTES: usize = 16 << 20;
    let run = move || tokio::runtime::Runtime::new().unwrap().block_on(work());
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    thread.join().unwrap();
}

async fn start_kubelet() -> KubeletSession {
    let embedded = Embedded {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    KubeletSession::new(embedded.start().await.unwrap())
}

/// A kubelet that is reached through the node proxy, and whose runtime, archives, Pod and configuration are unknown.
#[test]
fn a_kubelet_without_capabilities_skips_what_requires_them() {
    block_on(async || {
        let mut session = start_kubelet().await;
        assert_kind(TargetKind::Embedded, &session.capabilities().await);
        let kubelet = &mut session.kubelet;
        let lifecycle = kubelet.lifecycle.take().unwrap();
        kubelet.fake_cri = None;
        kubelet.checkpoints_dir = None;
        kubelet.paths_are_local = false;
        kubelet.default_timeout = None;
        kubelet.siblings = SiblingContainers::default();
        kubelet.node_name = None;
        kubelet.allow_load = false;
        kubelet.through_node_proxy = true;
        let capabilities = session.capabilities().await;
        let records = run(&kubelet::cases(), &session, &mut SilentObserver).await;
        lifecycle.shutdown().await.unwrap();
        for capability in [
            Capability::FakeCriControl,
            Capability::ReadArchives,
            Capability::StaticPod,
        ] {
            assert!(!capabilities.contains(capability));
        }
        assert_skipped_by_capability(&records, &capabilities);
        assert!(
            records
                .iter()
                .any(|record| matches!(record.outcome, Outcome::Pass { .. }))
        );
    });
}

/// A kubelet by its URL, with its archives, over a runtime without a control API.
#[test]
fn a_kubelet_over_another_runtime_skips_what_requires_fake_cri() {
    block_on(async || {
        let mut session = start_kubelet().await;
        session.kubelet.fake_cri = None;
        let capabilities = session.capabilities().await;
        let records = run(&kubelet::cases(), &session, &mut SilentObserver).await;
        session.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
        assert_skipped_by_capability(&records, &capabilities);
    });
}

#[test]
fn a_runtime_without_the_test_workload_skips_what_requires_it() {
    block_on(async || {
        let embedded = EmbeddedRuntime {
            defect: None,
            executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        };
        let mut session = RuntimeSession::new(embedded.start().await.unwrap());
        assert_kind(TargetKind::EmbeddedRuntime, &session.capabilities().await);
        session.runtime.program = WorkloadProgram::Shell;
        let capabilities = session.capabilities().await;
        assert!(!capabilities.contains(Capability::TestWorkload));
        let records = run(&runtime::cases(), &session, &mut SilentObserver).await;
        session.runtime.shutdown().await.unwrap();
        assert_skipped_by_capability(&records, &capabilities);
    });
}

#[test]
fn a_stream_without_expectations_skips_what_requires_a_file_or_an_expectation() {
    let bytes = sample::tar_of(&sample::Sample::default().members()).unwrap();
    let inspected = inspect_stream(&bytes[..], &Expectations::default(), Limits::default()).unwrap();
    let records = archive::check_all(&inspected);
    let of = |id: &str| {
        records
            .iter()
            .find(|record| record.info.id == id)
            .unwrap()
            .outcome
            .detail()
    };
    assert_eq!(of("archive/file/owner-only"), Capability::ArchiveFile.reason());
    assert_eq!(of("archive/memory/expected-bytes"), Capability::KnownMemory.reason());
    assert!(
        records
            .iter()
            .all(|record| !matches!(record.outcome, Outcome::Error { .. }))
    );
}
