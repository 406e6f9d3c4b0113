//! What inspection tells that decoding hides.

use cri_proto::criu::{
    FindingKind, inspect,
    message::{CoreEntry, MmEntry, PstreeEntry, VmaEntry},
    unreadable,
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

fn findings(message: &str, entry: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    inspect(message, entry, |finding| found.push(finding.to_string()));
    found
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
fn a_whole_entry_has_nothing_to_report() {
    assert!(findings("pstree_entry", &process().encode_to_vec()).is_empty());
    let mm = MmEntry {
        vmas: vec![VmaEntry {
            fd: -1,
            ..VmaEntry::default()
        }],
        dumpable: Some(-1),
        ..MmEntry::default()
    };
    assert!(findings("mm_entry", &mm.encode_to_vec()).is_empty());
}

#[test]
fn missing_required_fields_are_named() {
    assert_eq!(
        PstreeEntry::decode(&[8, 1][..]).expect("prost takes it").ppid,
        0,
        "prost hides what this finds"
    );
    assert_eq!(
        findings("pstree_entry", &[8, 1]),
        ["ppid", "pgid", "sid"].map(|name| format!("pstree_entry.{name}: required field is missing"))
    );
}

#[test]
fn missing_fields_of_inner_messages_are_named() {
    let mut entry = MmEntry::default().encode_to_vec();
    encode_key(14, WireType::LengthDelimited, &mut entry);
    encode_varint(2, &mut entry);
    field(&mut entry, 1, 0);
    let found = findings("mm_entry", &entry);
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!(found[0], "mm_entry.vmas.end: required field is missing");
}

#[test]
fn unknown_fields_and_values_are_named() {
    let mut entry = process().encode_to_vec();
    field(&mut entry, 77, 5);
    field(&mut entry, 5000, 5);
    assert_eq!(
        findings("pstree_entry", &entry),
        ["pstree_entry: unknown field 77", "pstree_entry: unknown field 5000"]
    );

    let mut entry = Vec::new();
    field(&mut entry, 1, 99);
    assert_eq!(findings("core_entry", &entry), ["core_entry.mtype: unknown value 99"]);
    assert!(
        findings(
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
fn packed_and_single_numbers_are_both_fine() {
    let mut entry = PstreeEntry {
        threads: vec![],
        ..process()
    }
    .encode_to_vec();
    encode_key(5, WireType::LengthDelimited, &mut entry);
    encode_varint(3, &mut entry);
    entry.extend([1, 2, 3]);
    field(&mut entry, 5, 4);
    assert!(findings("pstree_entry", &entry).is_empty());
    assert_eq!(PstreeEntry::decode(&*entry).expect("both forms").threads, [1, 2, 3, 4]);
}

#[test]
fn malformed_bytes_end_the_inspection() {
    let fatal = |entry: &[u8]| {
        let mut found = Vec::new();
        inspect("pstree_entry", entry, |finding| found.push(finding.kind));
        assert!(found.iter().all(FindingKind::is_fatal));
        found.pop()
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
        assert!(matches!(fatal(entry), Some(FindingKind::Malformed(_))), "{entry:?}");
    }
}

#[test]
fn endless_nesting_ends() {
    let mut entry = Vec::new();
    for _ in 0..150 {
        let mut outer = Vec::new();
        encode_key(2, WireType::LengthDelimited, &mut outer);
        encode_varint(entry.len() as u64, &mut outer);
        outer.append(&mut entry);
        entry = outer;
    }
    let found = findings("cgroup_dir_entry", &entry);
    assert!(
        found
            .last()
            .is_some_and(|last| last.ends_with("malformed (messages are nested too deep)")),
        "{found:?}"
    );
}

#[test]
fn what_makes_an_entry_unreadable_is_told_and_ends_the_look() {
    assert_eq!(unreadable("pstree_entry", &process().encode_to_vec()), None);
    let mut unknown = process().encode_to_vec();
    field(&mut unknown, 99, 1);
    assert_eq!(unreadable("pstree_entry", &unknown), None, "CRIU passes over it");
    let found = unreadable("pstree_entry", &[8, 1]).expect("three fields are missing");
    assert_eq!(found.to_string(), "pstree_entry.ppid: required field is missing");
    let found = unreadable("pstree_entry", &[8]).expect("cut short");
    assert!(matches!(found.kind, FindingKind::Malformed(_)), "{found}");
    assert_eq!(unreadable("no_such_entry", &[8]), None);
}
