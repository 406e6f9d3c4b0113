//! What Go's `encoding/json` does differently from serde_json.

use serde::Serialize;

/// A document as Go's `json.Marshal` writes it: compact, with `<`, `>`, `&` and the two line separators of Unicode
/// escaped.
///
/// # Errors
/// Those of serde_json; none of this module's types has any.
pub fn to_json(document: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(document)?;
    // Outside of strings none of these characters occurs in JSON, so they can be replaced without parsing.
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => escaped.push(other),
        }
    }
    Ok(escaped)
}

/// True for what Go's `omitempty` leaves out: zero, false, the empty string, list and map.
pub(super) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_as_go_does() {
        let json = super::to_json(&"a<b>&\"c\u{2028}").expect("a string");
        assert_eq!(json, r#""a\u003cb\u003e\u0026\"c\u2028""#);
    }
}
