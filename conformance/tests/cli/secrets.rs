//! No report contains credentials or bytes from the memory of a container. The test runs the embedded suite, also with
//! a mutant that leaks, and searches every file.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use checkpoint_conformance::{
    engine::{GatePolicy, RunConditions, SilentObserver, run},
    evidence::{EvidenceItem, EvidenceKind},
    report::{Format, Palette, Report, RerunCommand, RunInfo, Secrets, Terminal, write_all},
    suites::kubelet::{KubeletSession, cases},
    targets::{Embedded, Identity},
};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Returns a secret in the encodings in which a target may leak it.
fn encoded_forms(secret: &str) -> Vec<String> {
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD.encode(format!("memory: {secret}")),
        hex::encode(secret),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        serde_json::json!({ "leaked": secret }).to_string(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_never_contain_secrets() {
    let embedded = Embedded {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let session = KubeletSession::new(embedded.start().await.unwrap());
    let mut records = run(&cases(), &session, &mut SilentObserver).await;
    let client = session.kubelet.client().await;
    let mut secrets_known: Vec<_> = session.kubelet.canaries();
    assert!(!secrets_known.is_empty(), "the workload logged its canary");
    let Identity::Certificate(pair) = client.endpoint().identity.clone() else {
        panic!("the embedded target has certificates");
    };
    let key: Vec<_> = pair
        .key
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect();
    assert!(!key.is_empty());
    secrets_known.extend(key);
    let secrets = session.kubelet.secrets().await;
    let target_info = session.kubelet.target_info.clone();
    session.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();

    for (record, secret) in records.iter_mut().zip(secrets_known.iter().cycle()) {
        for text in encoded_forms(secret) {
            record.evidence.push(EvidenceItem {
                kind: EvidenceKind::Response,
                text,
            });
        }
    }
    let run_info = || RunInfo {
        target: target_info.clone(),
        started_at: Timestamp::UNIX_EPOCH,
        duration: std::time::Duration::ZERO,
        policy: GatePolicy::default(),
        footprint: None,
        conditions: RunConditions::default(),
        rerun: RerunCommand::from_args(["checkpoint-conformance".to_owned()]),
        remaining_archives: Vec::new(),
    };
    let find_leaks = |report: Report| {
        let directory = tempfile::tempdir().unwrap();
        write_all(std::slice::from_ref(&report), directory.path()).unwrap();
        let mut texts = vec![(
            "terminal",
            Terminal {
                palette: Palette::Plain,
                width: 120,
            }
            .render(&report),
        )];
        for format in Format::ALL {
            let text = fs::read_to_string(directory.path().join(format.file_name())).unwrap();
            texts.push((format.file_name(), text));
        }
        let mut leaks = Vec::new();
        for (name, text) in texts {
            for secret in &secrets_known {
                // Inside longer data the edges of an encoded form can differ: search for the middle of each form.
                for form in encoded_forms(secret) {
                    let middle = &form[4..form.len() - 4];
                    if text.contains(middle) {
                        leaks.push((name, form));
                    }
                }
            }
        }
        leaks
    };
    let unredacted = find_leaks(Report::new(run_info(), &records, &Secrets::default()));
    let files: std::collections::BTreeSet<_> = unredacted.iter().map(|(name, _)| *name).collect();
    assert!(
        files.contains("report.json") && files.contains("report.html"),
        "the search finds a known text: {files:?}"
    );
    let redacted = find_leaks(Report::new(run_info(), &records, &secrets));
    assert!(redacted.is_empty(), "{redacted:?}");
}
