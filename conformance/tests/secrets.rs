//! No report holds what proves who asks, nor what was in a container's memory: the whole embedded suite runs, with a target that
//! leaks on top, and every file is searched.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use checkpoint_conformance::{
    case::{Rules, Silent, Terms, run},
    catalog::kubelet::{Session, cases},
    exhibit::{Exhibit, ExhibitKind},
    report::{Format, Frame, Palette, Repeat, Report, Secrets, Terminal, write_all},
    target::{Embedded, Identity},
};
use jiff::Timestamp;

/// A secret in the forms in which a target may show it.
fn leaks(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = secret
        .bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD.encode(format!("memory: {secret}")),
        hex,
        percent,
        serde_json::json!({ "leaked": secret }).to_string(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_a_credential_or_a_canary_whatever_a_target_leaks() {
    let embedded = Embedded {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let session = Session::new(embedded.start().await.unwrap());
    let mut records = run(&cases(), &session, &mut Silent).await;
    let client = session.kubelet.client().await;
    let mut known: Vec<_> = session.kubelet.canaries();
    assert!(!known.is_empty(), "the workload told its canary");
    let Identity::Certificate { key, .. } = client.access().identity.clone() else {
        panic!("the embedded target has certificates");
    };
    let key: Vec<_> = key
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect();
    assert!(!key.is_empty());
    known.extend(key);
    let secrets = session.kubelet.secrets().await;
    let about = session.kubelet.about.clone();
    session.kubelet.steering.as_ref().unwrap().shutdown().await.unwrap();

    for (record, secret) in records.iter_mut().zip(known.iter().cycle()) {
        for text in leaks(secret) {
            record.exhibits.push(Exhibit {
                kind: ExhibitKind::Answer,
                text,
            });
        }
    }
    let frame = || Frame {
        target: about.clone(),
        started: Timestamp::UNIX_EPOCH,
        duration: std::time::Duration::ZERO,
        rules: Rules::default(),
        footprint: None,
        terms: Terms::default(),
        repeat: Repeat::from_args(["checkpoint-conformance".to_owned()]),
        archives_left: Vec::new(),
    };
    let found = |report: Report| {
        let folder = tempfile::tempdir().unwrap();
        write_all(std::slice::from_ref(&report), folder.path()).unwrap();
        let mut texts = vec![(
            "terminal",
            Terminal {
                palette: Palette::Plain,
                width: 120,
            }
            .render(&report),
        )];
        for format in Format::ALL {
            let text = fs::read_to_string(folder.path().join(format.file_name())).unwrap();
            texts.push((format.file_name(), text));
        }
        let mut found = Vec::new();
        for (name, text) in texts {
            for secret in &known {
                // What is left of a form within something longer could be its seams: look for the heart of each.
                for form in leaks(secret) {
                    let heart = &form[4..form.len() - 4];
                    if text.contains(heart) {
                        found.push((name, form));
                    }
                }
            }
        }
        found
    };
    let unredacted = found(Report::new(frame(), &records, &Secrets::default()));
    let files: std::collections::BTreeSet<_> = unredacted.iter().map(|(name, _)| *name).collect();
    assert!(
        files.contains("report.json") && files.contains("report.html"),
        "the search finds: {files:?}"
    );
    let redacted = found(Report::new(frame(), &records, &secrets));
    assert!(redacted.is_empty(), "{redacted:?}");
}
