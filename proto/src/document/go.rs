//! Differences between Go's `encoding/json` and serde_json.

use serde::Serialize;

/// Encodes a document like Go's `json.Marshal`: compact, with `<`, `>`, `&`, U+2028 and U+2029 escaped.
///
/// # Errors
/// Errors of serde_json; the types of this module cause none.
pub fn to_json(document: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(document)?;
    // In JSON these characters occur only inside strings, so they can be replaced without parsing.
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => escaped.push(other),
        }
    }
    Ok(escaped)
}

/// Whether Go's `omitempty` omits the value: zero, false, an empty string, list or map.
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
