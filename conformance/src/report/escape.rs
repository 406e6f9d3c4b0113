//! Escapes control characters in text that comes from a target.
//!
//! Text from a target is untrusted: escape sequences could control the terminal, and bidirectional or invisible
//! characters could make a report display something else than was observed. JSON needs no such escaping.

use std::borrow::Cow;

/// Replaces every control, bidirectional and invisible character with `\u{..}`. Line feeds and tabs stay.
pub(super) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => escaped.push_str("\\r"),
            '\0' => escaped.push_str("\\0"),
            c if is_hidden(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// As [`escape_controls`], but also escapes line feeds and tabs, so that the result is one line.
pub(super) fn escape_to_one_line(text: &str) -> String {
    escape_controls(text).replace('\n', "\\n").replace('\t', "\\t")
}

fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("404 \"pod does not exist\"\n\tä✓", "404 \"pod does not exist\"\n\tä✓")]
    #[case("\x1b[2J\x07gone", "\\u{1b}[2J\\u{7}gone")]
    #[case("a\u{202e}b\u{feff}\r\n", "a\\u{202e}b\\u{feff}\\r\n")]
    #[case("\u{9b}31m\0", "\\u{9b}31m\\0")]
    fn escapes_hidden_characters(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(escape_controls(text), shown);
    }

    #[test]
    fn escapes_line_breaks() {
        assert_eq!(escape_to_one_line("a\n\tb\u{2028}c"), "a\\n\\tb\\u{2028}c");
    }
}
