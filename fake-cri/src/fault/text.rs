//! Writes names, strings, durations and sizes in a form that the grammar reads back unchanged.

use std::{fmt, time::Duration};

/// Whether a name with this character needs no quotes.
pub(super) fn is_bare_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '*' | '?')
}

/// The value of a selector, quoted only if necessary.
pub(super) struct NameText<'a>(pub(super) &'a str);

impl fmt::Display for NameText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_bare_name_char) {
            f.write_str(self.0)
        } else {
            QuotedText(self.0).fmt(f)
        }
    }
}

/// A string in double quotes, always on one line.
pub(super) struct QuotedText<'a>(pub(super) &'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A duration without spaces: `1m30s`, `250ms`.
pub(super) struct DurationText(pub(super) Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

/// The units of a size, largest first. A number without a unit counts bytes.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("", 1),
];

/// A size in the largest binary unit that divides it, such as `64KiB` or `1000`.
pub(super) struct SizeText(pub(super) u64);

impl fmt::Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = SIZE_UNITS
            .into_iter()
            .find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit))
            .unwrap_or(("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// Parses a size in the form that [`SizeText`] prints.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digit_count = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, name) = text.split_at(digit_count);
    let (_, unit) = SIZE_UNITS.into_iter().find(|(unit, _)| *unit == name)?;
    number.parse::<u64>().ok()?.checked_mul(unit)
}
