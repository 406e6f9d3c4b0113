//! Ids of pods and containers: 64 hexadecimal digits. A unique prefix also identifies an object.

use std::{collections::BTreeMap, ops::Bound};

use crate::runtime::error::{ObjectKind, RuntimeError};

/// Returns a new id of 32 random bytes in hexadecimal, as in containerd and CRI-O.
pub(crate) fn new_id() -> String {
    hex(&rand::random::<[u8; 32]>())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Finds the object with this id, or the only object whose id has this prefix.
///
/// # Errors
///
/// `InvalidArgument` for an empty id; `NotFound` if no id has this prefix; `AmbiguousId` if several ids have it.
pub(crate) fn find_by_id<'a, T>(
    kind: ObjectKind,
    table: &'a BTreeMap<String, T>,
    id: &str,
) -> Result<&'a T, RuntimeError> {
    if id.is_empty() {
        return Err(RuntimeError::InvalidArgument(format!("the {kind} id is empty")));
    }
    if let Some(value) = table.get(id) {
        return Ok(value);
    }
    let mut candidates = table
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(id));
    match (candidates.next(), candidates.next()) {
        (None, _) => Err(RuntimeError::not_found(kind, id)),
        (Some((_, value)), None) => Ok(value),
        (Some(_), Some(_)) => Err(RuntimeError::AmbiguousId {
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
    fn finds_a_full_id_or_a_unique_prefix(#[case] id: &str, #[case] expected: Option<u32>) {
        let table: BTreeMap<String, u32> = [("abc1", 1), ("abc2", 2), ("abd1", 3), ("ba", 4)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        assert_eq!(find_by_id(ObjectKind::Container, &table, id).ok().copied(), expected);
    }

    #[test]
    fn an_id_may_be_a_prefix_of_another_id() {
        let table: BTreeMap<String, u32> = [("ab", 1), ("abc", 2)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        assert_eq!(find_by_id(ObjectKind::Container, &table, "ab").ok(), Some(&1));
    }

    #[test]
    fn an_ambiguous_prefix_counts_its_matches() {
        let table: BTreeMap<String, ()> = ["aa", "ab", "ac"].map(|key| (key.to_owned(), ())).into();
        assert!(matches!(
            find_by_id(ObjectKind::PodSandbox, &table, "a"),
            Err(RuntimeError::AmbiguousId { count: 3, .. })
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
