//! The JSON documents of an archive: missing, unreadable or parsed.

use std::{collections::BTreeMap, fmt};

use cri_proto::document::{BindMount, ConfigDump, DeletedFiles, Descriptors, SpecDump, Status, StatusDump};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The size limit of a document. The largest part of a document is a Kubernetes object, which has at most 1.5 MiB.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// A JSON document of an archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ParsedDocument<T> {
    /// The member does not exist.
    #[default]
    Missing,
    /// The member cannot be parsed, with the reason.
    Unreadable(String),
    /// The parsed document.
    Parsed(Box<T>),
}

impl<T> ParsedDocument<T> {
    /// The parsed document, if any.
    pub fn parsed(&self) -> Option<&T> {
        match self {
            ParsedDocument::Parsed(document) => Some(document),
            _ => None,
        }
    }
}

/// All JSON documents of an archive.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// `config.dump`.
    pub config: ParsedDocument<ConfigDump>,
    /// The known fields that are present in `config.dump`, and whether each is not empty.
    pub config_fields: BTreeMap<&'static str, bool>,
    /// `spec.dump`.
    pub spec: ParsedDocument<SpecDump>,
    /// `status.dump`.
    pub status_dump: ParsedDocument<StatusDump>,
    /// `status`.
    pub status: ParsedDocument<Status>,
    /// `checkpoint/descriptors.json`.
    pub descriptors: ParsedDocument<Descriptors>,
    /// `deleted.files`.
    pub deleted_files: ParsedDocument<DeletedFiles>,
    /// `bind.mounts`.
    pub bind_mounts: ParsedDocument<Vec<BindMount>>,
}

/// The fields of `config.dump` (checkpointctl, `lib/metadata.go`).
pub(crate) const CONFIG_FIELDS: [&str; 10] = [
    "id",
    "name",
    "rootfsImage",
    "rootfsImageRef",
    "rootfsImageName",
    "runtime",
    "createdTime",
    "checkpointedTime",
    "restoredTime",
    "restored",
];

/// The nesting limit of Go's `encoding/json`, which the engines use to read the documents.
const MAX_NESTING_DEPTH: usize = 10_000;

pub(crate) const DOCUMENT_NAMES: [&str; 7] = [
    cri_proto::document::CONFIG_DUMP,
    cri_proto::document::SPEC_DUMP,
    cri_proto::document::STATUS_DUMP,
    cri_proto::document::STATUS,
    cri_proto::document::DESCRIPTORS,
    cri_proto::document::DELETED_FILES,
    cri_proto::document::BIND_MOUNTS,
];

impl Documents {
    /// Parses the content of the member `name`; `None` for a member larger than [`MAX_DOCUMENT_BYTES`].
    pub(crate) fn add(&mut self, name: &str, content: Option<&[u8]>) {
        match name {
            cri_proto::document::CONFIG_DUMP => {
                self.config = parse(content, b'{');
                let fields = content.and_then(|content| serde_json::from_slice::<PresentFields>(content).ok());
                self.config_fields = fields.map(|PresentFields(fields)| fields).unwrap_or_default();
            }
            cri_proto::document::SPEC_DUMP => self.spec = parse(content, b'{'),
            cri_proto::document::STATUS_DUMP => self.status_dump = parse(content, b'{'),
            cri_proto::document::STATUS => self.status = parse(content, b'{'),
            cri_proto::document::DESCRIPTORS => self.descriptors = parse(content, b'['),
            cri_proto::document::DELETED_FILES => self.deleted_files = parse(content, b'['),
            _ => self.bind_mounts = parse(content, b'['),
        }
    }
}

fn parse<T: DeserializeOwned>(content: Option<&[u8]>, bracket: u8) -> ParsedDocument<T> {
    let Some(content) = content else {
        return ParsedDocument::Unreadable(format!("it is larger than {MAX_DOCUMENT_BYTES} bytes"));
    };
    // serde deserializes a struct from an array as well. Go, which reads these documents, does not.
    let first_byte = content.trim_ascii_start().first().copied().unwrap_or_default();
    if first_byte != bracket {
        return ParsedDocument::Unreadable(format!("it does not begin with {:?}", char::from(bracket)));
    }
    if nesting_depth(content) > MAX_NESTING_DEPTH {
        return ParsedDocument::Unreadable(format!(
            "it is nested deeper than {MAX_NESTING_DEPTH}, which Go's encoding/json refuses"
        ));
    }
    match serde_json::from_slice(content) {
        Ok(document) => ParsedDocument::Parsed(Box::new(document)),
        Err(error) => ParsedDocument::Unreadable(error.to_string()),
    }
}

fn nesting_depth(content: &[u8]) -> usize {
    let (mut current_depth, mut max_depth) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in content {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                current_depth += 1;
                max_depth = max_depth.max(current_depth);
            }
            b']' | b'}' if !in_string => current_depth = current_depth.saturating_sub(1),
            _ => {}
        }
    }
    max_depth
}

/// The known fields of an object, and whether each has a value other than the empty string. Other fields are ignored.
struct PresentFields(BTreeMap<&'static str, bool>);

impl<'de> Deserialize<'de> for PresentFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = PresentFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PresentFields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    match CONFIG_FIELDS.iter().find(|name| **name == key) {
                        Some(name) => drop(fields.insert(*name, map.next_value::<NonEmptyValue>()?.0)),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(PresentFields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct NonEmptyValue(bool);

impl<'de> Deserialize<'de> for NonEmptyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum TextOrOther {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(Self(match TextOrOther::deserialize(deserializer)? {
            TextOrOther::Text(text) => !text.is_empty(),
            TextOrOther::Other(_) => true,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_brackets_in_strings() {
        assert_eq!(nesting_depth(br#"{"a[[[": [1, {"b\"[": 2}]}"#), 3);
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(
            matches!(parse::<serde_json::Value>(Some(deep.as_bytes()), b'{'), ParsedDocument::Unreadable(why) if why.contains("nested"))
        );
    }

    #[test]
    fn reports_known_fields_and_empty_values() {
        let PresentFields(fields) =
            serde_json::from_str(r#"{"id":"","more":[1],"restored":false,"name":"a"}"#).expect("an object");
        assert_eq!(
            fields,
            BTreeMap::from([("id", false), ("name", true), ("restored", true)])
        );
    }
}
