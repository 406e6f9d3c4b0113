//! Invariants of the archive checks for any input: every case has an outcome, no outcome is an error of the harness,
//! and the case `archive/tar/well-formed` passes exactly if the tar was read to its end.

use checkpoint_conformance::{
    archive::{Limits, TarEnd, inspect_stream, sample},
    engine::Outcome,
    suites::archive::{cases, check_all},
};

/// Checks the bytes as an archive.
pub(crate) fn check(bytes: &[u8]) {
    let inspected = inspect_stream(bytes, &sample::expected(), Limits::default()).expect("reads from memory succeed");
    let records = check_all(&inspected);
    assert_eq!(records.len(), cases().len());
    for record in &records {
        assert!(!matches!(record.outcome, Outcome::Error { .. }), "{}", record.info.id);
    }
    let well_formed = records
        .iter()
        .find(|record| record.info.id == "archive/tar/well-formed");
    assert_eq!(
        well_formed.is_some_and(|record| matches!(record.outcome, Outcome::Pass { .. })),
        matches!(inspected.end, TarEnd::Marker | TarEnd::NoMarker),
        "{:?}",
        inspected.end
    );
    for member in &inspected.members {
        assert!(!member.name.chars().any(char::is_control), "{:?}", member.name);
        assert!(member.offset < bytes.len() as u64, "{member:?}");
    }
}
