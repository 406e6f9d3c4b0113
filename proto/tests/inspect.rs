//! Inspection reports what decoding hides.

use cri_proto::criu::{
    FieldIssueKind, first_fatal_issue, inspect,
    message::{CoreEntry, MmEntry, PstreeEntry, VmaEntry},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

fn issues_of(message: &str, entry: &[u8]) -> Vec<String> {
    let mut issues = Vec::new();
    inspect(message, entry, |issue| issues.push(issue.to_string()));
    issues
}

fn process() -> PstreeEntry {
    PstreeEntry {
        pid: 1,
        ppid: 0,
        pgid: 1,
        sid: 1,
        threads: vec![1, 2],
    }
}

fn field(entry: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, entry);
    encode_varint(value, entry);
}

#[test]
fn a_valid_entry_has_no_issues() {
    assert!(issues_of("pstree_entry", &process().encode_to_vec()).is_empty());
    let mm = MmEntry {
        vmas: vec![VmaEntry {
            fd: -1,
            ..VmaEntry::default()
        }],
        dumpable: Some(-1),
        ..MmEntry::default()
    };
    assert!(issues_of("mm_entry", &mm.encode_to_vec()).is_empty());
}

#[test]
fn missing_required_fields_are_named() {
    assert_eq!(
        PstreeEntry::decode(&[8, 1][..])
            .expect("prost accepts missing required fields")
            .ppid,
        0,
        "prost fills in the missing field"
    );
    assert_eq!(
        issues_of("pstree_entry", &[8, 1]),
        ["ppid", "pgid", "sid"].map(|name| format!("pstree_entry.{name}: required field is missing"))
    );
}

#[test]
fn missing_fields_of_inner_messages_are_named() {
    let mut entry = MmEntry::default().encode_to_vec();
    encode_key(14, WireType::LengthDelimited, &mut entry);
    encode_varint(2, &mut entry);
    field(&mut entry, 1, 0);
    let issues = issues_of("mm_entry", &entry);
    assert_eq!(issues.len(), 7, "{issues:?}");
    assert_eq!(issues[0], "mm_entry.vmas.end: required field is missing");
}

#[test]
fn unknown_fields_and_values_are_named() {
    let mut entry = process().encode_to_vec();
    field(&mut entry, 77, 5);
    field(&mut entry, 5000, 5);
    assert_eq!(
        issues_of("pstree_entry", &entry),
        ["pstree_entry: unknown field 77", "pstree_entry: unknown field 5000"]
    );

    let mut entry = Vec::new();
    field(&mut entry, 1, 99);
    assert_eq!(issues_of("core_entry", &entry), ["core_entry.mtype: unknown value 99"]);
    assert!(
        issues_of(
            "core_entry",
            &CoreEntry {
                mtype: 1,
                ..CoreEntry::default()
            }
            .encode_to_vec()
        )
        .is_empty()
    );
}

#[test]
fn packed_and_unpacked_scalars_are_accepted() {
    let mut entry = PstreeEntry {
        threads: vec![],
        ..process()
    }
    .encode_to_vec();
    encode_key(5, WireType::LengthDelimited, &mut entry);
    encode_varint(3, &mut entry);
    entry.extend([1, 2, 3]);
    field(&mut entry, 5, 4);
    assert!(issues_of("pstree_entry", &entry).is_empty());
    assert_eq!(
        PstreeEntry::decode(&*entry)
            .expect("packed and unpacked fields")
            .threads,
        [1, 2, 3, 4]
    );
}

#[test]
fn malformed_bytes_end_the_inspection() {
    let fatal = |entry: &[u8]| {
        let mut issues = Vec::new();
        inspect("pstree_entry", entry, |issue| issues.push(issue.kind));
        assert!(issues.iter().all(FieldIssueKind::is_fatal));
        issues.pop()
    };
    for entry in [
        &[8][..],
        &[0x0a, 200],
        &[0x0b],
        &[0x0f],
        &[0, 1],
        &[0x0d, 1, 2, 3, 4],
        &[0xff; 11],
    ] {
        assert!(matches!(fatal(entry), Some(FieldIssueKind::Malformed(_))), "{entry:?}");
    }
}

#[test]
fn nesting_is_bounded() {
    let mut entry = Vec::new();
    for _ in 0..150 {
        let mut outer = Vec::new();
        encode_key(2, WireType::LengthDelimited, &mut outer);
        encode_varint(entry.len() as u64, &mut outer);
        outer.append(&mut entry);
        entry = outer;
    }
    let issues = issues_of("cgroup_dir_entry", &entry);
    assert!(
        issues
            .last()
            .is_some_and(|last| last.ends_with("malformed (messages are nested too deep)")),
        "{issues:?}"
    );
}

#[test]
fn the_first_fatal_issue_ends_the_inspection() {
    assert_eq!(first_fatal_issue("pstree_entry", &process().encode_to_vec()), None);
    let mut unknown = process().encode_to_vec();
    field(&mut unknown, 99, 1);
    assert_eq!(
        first_fatal_issue("pstree_entry", &unknown),
        None,
        "CRIU ignores unknown fields"
    );
    let issues = first_fatal_issue("pstree_entry", &[8, 1]).expect("missing required fields");
    assert_eq!(issues.to_string(), "pstree_entry.ppid: required field is missing");
    let issues = first_fatal_issue("pstree_entry", &[8]).expect("a truncated message");
    assert!(matches!(issues.kind, FieldIssueKind::Malformed(_)), "{issues}");
    assert_eq!(first_fatal_issue("no_such_entry", &[8]), None);
}
