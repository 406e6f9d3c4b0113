//! Ids of pods and containers: 64 hexadecimal digits, found in full or by a prefix that only one has.

use std::{collections::BTreeMap, ops::Bound};

use crate::runtime::error::{Error, Kind};

/// A new id: 32 random bytes as 64 hexadecimal digits, as the real runtimes have them.
pub(crate) fn new_id() -> String {
    hex(&rand::random::<[u8; 32]>())
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Finds what has this id or is the only one whose id begins so.
///
/// # Errors
///
/// `Invalid` for an empty id, `NotFound` when no id begins so, `Ambiguous` when more than one does.
pub(crate) fn find<'a, T>(kind: Kind, table: &'a BTreeMap<String, T>, id: &str) -> Result<&'a T, Error> {
    if id.is_empty() {
        return Err(Error::Invalid(format!("the {kind}'s id is empty")));
    }
    if let Some(found) = table.get(id) {
        return Ok(found);
    }
    let mut candidates = table
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(id));
    match (candidates.next(), candidates.next()) {
        (None, _) => Err(Error::not_found(kind, id)),
        (Some((_, found)), None) => Ok(found),
        (Some(_), Some(_)) => Err(Error::Ambiguous {
            kind,
            id: id.to_owned(),
            count: 2 + candidates.count(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("abc1", Some(1))]
    #[case("abc", None)]
    #[case("abd", Some(3))]
    #[case("a", None)]
    #[case("b", Some(4))]
    #[case("ba", Some(4))]
    #[case("c", None)]
    #[case("", None)]
    fn full_or_unique_prefix(#[case] id: &str, #[case] expected: Option<u32>) {
        let table: BTreeMap<String, u32> = [("abc1", 1), ("abc2", 2), ("abd1", 3), ("ba", 4)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        assert_eq!(find(Kind::Container, &table, id).ok().copied(), expected);
    }

    #[test]
    fn a_full_id_that_begins_another_is_found() {
        let table: BTreeMap<String, u32> = [("ab", 1), ("abc", 2)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        assert_eq!(find(Kind::Container, &table, "ab").ok(), Some(&1));
    }

    #[test]
    fn ambiguity_is_told_apart_and_counted() {
        let table: BTreeMap<String, ()> = ["aa", "ab", "ac"].map(|key| (key.to_owned(), ())).into();
        assert!(matches!(
            find(Kind::PodSandbox, &table, "a"),
            Err(Error::Ambiguous { count: 3, .. })
        ));
    }

    #[test]
    fn ids_are_64_hexadecimal_digits_and_differ() {
        let id = new_id();
        assert_eq!(id.len(), 64);
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        );
        assert_ne!(id, new_id());
    }
}
