//! Extension headers: PAX records and GNU long names, which override fields of the next header.
//!
//! Readers keep such a header in memory, so a hostile archive controls their memory use. This reader accepts no header
//! above [`MAX_EXTENSION_BYTES`], the limit of Go's `archive/tar`. A global record that changes the boundaries or names
//! of all following members (`size`, `path`) is an error: readers interpret it differently.

use thiserror::Error;

pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The fields that extension headers set for the next member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtensionHeaders {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) sparse: bool,
    present: [bool; 3],
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ExtensionError {
    #[error("two extension headers of type {0:?} before one member")]
    Twice(char),
    #[error("malformed PAX record at byte {0} of its header")]
    Record(usize),
    #[error("the PAX record {0} has an invalid value")]
    Value(String),
    #[error("the PAX record {0} is in a global header, where readers interpret it differently")]
    Global(String),
}

impl ExtensionHeaders {
    /// Parses the content of an extension header with this type flag (`x`, `g`, `L` or `K`).
    pub(crate) fn add(&mut self, flag: u8, content: &[u8]) -> Result<(), ExtensionError> {
        if flag == b'g' {
            return for_each_record(content, |key, _| match key {
                b"path" | b"linkpath" | b"size" => Err(ExtensionError::Global(display_key(key))),
                key if key.starts_with(b"GNU.sparse") => Err(ExtensionError::Global(display_key(key))),
                _ => Ok(()),
            });
        }
        let slot = match flag {
            b'x' => 0,
            b'L' => 1,
            _ => 2,
        };
        if std::mem::replace(&mut self.present[slot], true) {
            return Err(ExtensionError::Twice(char::from(flag)));
        }
        match flag {
            b'L' => self.path = Some(until_nul(content)),
            b'K' => self.link = Some(until_nul(content)),
            _ => for_each_record(content, |key, value| self.apply_record(key, value))?,
        }
        Ok(())
    }

    /// Whether there was an extension header since the last member.
    pub(crate) fn is_pending(&self) -> bool {
        self.present.contains(&true)
    }

    fn apply_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ExtensionError> {
        match key {
            b"path" | b"linkpath" if value.is_empty() || value.contains(&0) => {
                Err(ExtensionError::Value(display_key(key)))
            }
            b"path" => {
                self.path = Some(value.to_vec());
                Ok(())
            }
            b"linkpath" => {
                self.link = Some(value.to_vec());
                Ok(())
            }
            b"size" => {
                let size = std::str::from_utf8(value)
                    .ok()
                    .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let size = size
                    .and_then(|text| text.parse().ok())
                    .filter(|size| *size <= i64::MAX as u64);
                self.size = Some(size.ok_or_else(|| ExtensionError::Value(display_key(key)))?);
                Ok(())
            }
            key if key.starts_with(b"GNU.sparse") => {
                self.sparse = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Calls `apply` with the key and value of every record `LENGTH KEY=VALUE\n` of a PAX header.
fn for_each_record(
    content: &[u8],
    mut apply: impl FnMut(&[u8], &[u8]) -> Result<(), ExtensionError>,
) -> Result<(), ExtensionError> {
    let mut offset = 0;
    while offset < content.len() {
        let rest = &content[offset..];
        let record = parse_record(rest).ok_or(ExtensionError::Record(offset))?;
        apply(record.key, record.value)?;
        offset += record.length;
    }
    Ok(())
}

struct PaxRecord<'a> {
    length: usize,
    key: &'a [u8],
    value: &'a [u8],
}

fn parse_record(rest: &[u8]) -> Option<PaxRecord<'_>> {
    // At most seven digits: no header is larger than `MAX_EXTENSION_BYTES`.
    let space = rest.iter().take(8).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&rest[..space]).ok()?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let length: usize = digits.parse().ok()?;
    let body = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=').filter(|index| *index > 0)?;
    Some(PaxRecord {
        length,
        key: &body[..equals],
        value: &body[equals + 1..],
    })
}

fn until_nul(content: &[u8]) -> Vec<u8> {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    content[..end].to_vec()
}

fn display_key(key: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&key[..key.len().min(64)]).into_owned();
    text.retain(|letter| !letter.is_control());
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"12 path=a/b\n", Some(&b"a/b"[..]), None)]
    #[case(b"12 path=a/b\n11 size=42\n", Some(&b"a/b"[..]), Some(42))]
    fn reads_pax_records(#[case] content: &[u8], #[case] path: Option<&[u8]>, #[case] size: Option<u64>) {
        let mut extension = ExtensionHeaders::default();
        extension.add(b'x', content).expect("good records");
        assert_eq!((extension.path.as_deref(), extension.size), (path, size));
    }

    #[rstest]
    #[case(b"13 path=a/b\n")]
    #[case(b"0 path=a\n")]
    #[case(b"999999999 path=a\n")]
    #[case(b"path=a\n")]
    #[case(b"5 =a\n")]
    #[case(b"11 size=-2\n")]
    #[case(b"8 path=\n")]
    fn rejects_malformed_records(#[case] content: &[u8]) {
        assert!(ExtensionHeaders::default().add(b'x', content).is_err());
    }

    #[test]
    fn recognises_sparse_and_global_records() {
        let mut extension = ExtensionHeaders::default();
        extension.add(b'x', b"22 GNU.sparse.major=1\n").expect("a good record");
        assert!(extension.sparse);
        assert!(matches!(
            ExtensionHeaders::default().add(b'g', b"11 size=42\n"),
            Err(ExtensionError::Global(_))
        ));
        assert!(matches!(extension.add(b'x', b""), Err(ExtensionError::Twice('x'))));
    }

    proptest! {
        #[test]
        fn never_panics(content in proptest::collection::vec(any::<u8>(), 0..200), flag in 0..4_usize) {
            let _ = ExtensionHeaders::default().add(b"xgLK"[flag], &content);
        }
    }
}
