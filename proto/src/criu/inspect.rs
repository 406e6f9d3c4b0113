//! Finds what protobuf's decoder hides about an entry: missing required fields, unknown fields, unknown enum values.
//!
//! The bytes are checked against the descriptors without building a message, so that memory does not depend on claimed
//! lengths.

use std::{ops::ControlFlow, sync::LazyLock};

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind as FieldKind, MessageDescriptor};

/// The maximum nesting of messages, as in prost.
const MAX_DEPTH: usize = 100;

/// The descriptors of all image messages.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(super::DESCRIPTOR_SET).expect("the descriptor set from the build is valid")
    });
    &POOL
}

/// A finding about an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {kind}")]
pub struct FieldIssue {
    /// The path of the field, such as `mm_entry.vmas.start`.
    pub path: String,
    /// The finding.
    pub kind: FieldIssueKind,
}

/// The types of findings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldIssueKind {
    /// A required field is missing. CRIU rejects the image.
    #[error("required field is missing")]
    MissingRequired,
    /// The message has no field with this number: a newer CRIU, a vendor extension, or damage.
    #[error("unknown field {0}")]
    UnknownField(u32),
    /// The enum does not have this value.
    #[error("unknown value {0}")]
    UnknownValue(i64),
    /// The bytes are not a valid protobuf message.
    #[error("malformed ({0})")]
    Malformed(&'static str),
}

impl FieldIssueKind {
    /// Whether CRIU cannot read the entry. CRIU ignores findings that are not fatal.
    pub fn is_fatal(&self) -> bool {
        matches!(self, FieldIssueKind::MissingRequired | FieldIssueKind::Malformed(_))
    }
}

/// Reports everything about an entry that decoding hides. `message` is a name from [`Kind::message`]. `report` is
/// called for each finding in the order of the bytes; missing fields are reported at the end of their message.
///
/// A malformed message ends the inspection. An unknown message name reports nothing.
///
/// [`Kind::message`]: super::Kind::message
pub fn inspect(message: &str, entry: &[u8], mut report: impl FnMut(FieldIssue)) {
    walk_entry(message, entry, &mut |finding| {
        report(finding);
        ControlFlow::Continue(())
    });
}

/// Returns the first finding of [`inspect()`] that is fatal, and stops there.
pub fn first_fatal_issue(message: &str, entry: &[u8]) -> Option<FieldIssue> {
    let mut fatal = None;
    walk_entry(message, entry, &mut |finding| {
        if !finding.kind.is_fatal() {
            return ControlFlow::Continue(());
        }
        fatal = Some(finding);
        ControlFlow::Break(())
    });
    fatal
}

fn walk_entry(message: &str, entry: &[u8], report: &mut dyn FnMut(FieldIssue) -> ControlFlow<()>) {
    if let Some(descriptor) = descriptors().get_message_by_name(&format!("criu.{message}")) {
        let mut walker = Walker {
            path: vec![message.to_owned()],
            report,
        };
        if let Err(WalkEnd::Malformed(reason)) = walker.message(&descriptor, entry) {
            // The result does not matter: the walk ends here in any case.
            let _ = walker.report(FieldIssueKind::Malformed(reason));
        }
    }
}

enum WalkEnd {
    Malformed(&'static str),
    Stopped,
}

impl From<&'static str> for WalkEnd {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

struct Walker<'a> {
    path: Vec<String>,
    report: &'a mut dyn FnMut(FieldIssue) -> ControlFlow<()>,
}

impl Walker<'_> {
    fn report(&mut self, kind: FieldIssueKind) -> Result<(), WalkEnd> {
        let finding = FieldIssue {
            path: self.path.join("."),
            kind,
        };
        match (self.report)(finding) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(WalkEnd::Stopped),
        }
    }

    fn message(&mut self, message: &MessageDescriptor, mut bytes: &[u8]) -> Result<(), WalkEnd> {
        if self.path.len() > MAX_DEPTH {
            return Err("messages are nested too deep".into());
        }
        // All field numbers of image messages are below 128, see the test.
        let mut seen_fields = 0_u128;
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let number = u32::try_from(key >> 3).map_err(|_| "a field number is too large")?;
            if number == 0 {
                return Err("a field has the number 0".into());
            }
            let value = WireValue::read(key & 7, &mut bytes)?;
            match message.get_field(number) {
                None => self.report(FieldIssueKind::UnknownField(number))?,
                Some(field) => {
                    seen_fields |= 1_u128.checked_shl(number).unwrap_or(0);
                    self.path.push(field.name().to_owned());
                    self.field(&field, value)?;
                    self.path.pop();
                }
            }
        }
        for field in message
            .fields()
            .filter(|field| field.cardinality() == Cardinality::Required)
        {
            if seen_fields & 1_u128.checked_shl(field.number()).unwrap_or(0) == 0 {
                self.path.push(field.name().to_owned());
                self.report(FieldIssueKind::MissingRequired)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &FieldDescriptor, value: WireValue<'_>) -> Result<(), WalkEnd> {
        match (field.kind(), value) {
            (FieldKind::Message(message), WireValue::Bytes(bytes)) => self.message(&message, bytes),
            (FieldKind::String, WireValue::Bytes(bytes)) => std::str::from_utf8(bytes)
                .map(drop)
                .map_err(|_| "a string is not UTF-8".into()),
            (FieldKind::Bytes, WireValue::Bytes(_)) => Ok(()),
            (FieldKind::Message(_) | FieldKind::String | FieldKind::Bytes, _) => {
                Err("a field has the wrong wire type".into())
            }
            (kind, WireValue::Bytes(mut packed)) if field.is_list() => {
                while !packed.is_empty() {
                    let value = WireValue::read(wire_type(&kind), &mut packed)?;
                    self.scalar(&kind, value)?;
                }
                Ok(())
            }
            (kind, value) => self.scalar(&kind, value),
        }
    }

    fn scalar(&mut self, kind: &FieldKind, value: WireValue<'_>) -> Result<(), WalkEnd> {
        match (kind, wire_type(kind), value) {
            (FieldKind::Enum(values), _, WireValue::Varint(number)) => {
                // An enum value is an int32, encoded as a sign-extended 64-bit varint.
                let number = number as i64;
                if i32::try_from(number)
                    .ok()
                    .and_then(|number| values.get_value(number))
                    .is_none()
                {
                    self.report(FieldIssueKind::UnknownValue(number))?;
                }
                Ok(())
            }
            (_, 0, WireValue::Varint(_)) | (_, 1, WireValue::Fixed64) | (_, 5, WireValue::Fixed32) => Ok(()),
            _ => Err("a field has the wrong wire type".into()),
        }
    }
}

/// The wire type of an unpacked scalar.
fn wire_type(kind: &FieldKind) -> u64 {
    match kind {
        FieldKind::Double | FieldKind::Fixed64 | FieldKind::Sfixed64 => 1,
        FieldKind::Float | FieldKind::Fixed32 | FieldKind::Sfixed32 => 5,
        FieldKind::String | FieldKind::Bytes | FieldKind::Message(_) => 2,
        _ => 0,
    }
}

enum WireValue<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> WireValue<'a> {
    fn read(wire_type: u64, bytes: &mut &'a [u8]) -> Result<Self, &'static str> {
        match wire_type {
            0 => varint(bytes).map(WireValue::Varint),
            1 => take_bytes(bytes, 8).map(|_| WireValue::Fixed64),
            2 => {
                let length = varint(bytes)?;
                take_bytes(bytes, length).map(WireValue::Bytes)
            }
            5 => take_bytes(bytes, 4).map(|_| WireValue::Fixed32),
            3 | 4 => Err("groups are not supported"),
            _ => Err("unknown wire type"),
        }
    }
}

fn take_bytes<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], &'static str> {
    let parts = usize::try_from(count)
        .ok()
        .and_then(|count| bytes.split_at_checked(count));
    let (head, tail) = parts.ok_or("a field is longer than its message")?;
    *bytes = tail;
    Ok(head)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    prost::encoding::decode_varint(bytes).map_err(|_| "a varint is truncated or too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_numbers_fit_the_bit_set() {
        let largest = descriptors()
            .all_messages()
            .flat_map(|m| m.fields().map(|f| f.number()).max())
            .max();
        assert!(largest.is_some_and(|number| number < u128::BITS), "{largest:?}");
    }
}
