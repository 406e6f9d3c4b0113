//! A position in the text of a rule, and the tokens that all parts of the grammar share.

use globset::Glob;
use tonic::Code;

use super::{error::RuleParseError, text};

/// The codes that a fault can return, in numerical order.
const ERROR_CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// Reads a text from left to right, skipping spaces before a token.
pub(super) struct Cursor {
    text: Vec<char>,
    offset: usize,
}

impl Cursor {
    pub(super) fn new(text: &str) -> Cursor {
        Cursor {
            text: text.chars().collect(),
            offset: 0,
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn error_at(&self, offset: usize, message: String) -> RuleParseError {
        RuleParseError::new(&self.text, offset, message)
    }

    /// An error at the current position, with the token found there.
    pub(super) fn expected_error(&mut self, expectation: &str) -> RuleParseError {
        self.skip_spaces();
        let found = match self.text.get(self.offset) {
            None => "the end".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(&c) if text::is_bare_name_char(c) => {
                let word: String = self.text[self.offset..]
                    .iter()
                    .take_while(|&&c| text::is_bare_name_char(c))
                    .collect();
                format!("`{word}`")
            }
            Some(c) => format!("`{c}`"),
        };
        self.error_at(self.offset, format!("expected {expectation}, found {found}"))
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_spaces();
        self.offset == self.text.len()
    }

    pub(super) fn is_at(&mut self, symbol: char) -> bool {
        self.skip_spaces();
        self.text.get(self.offset) == Some(&symbol)
    }

    /// Consumes the symbol if it comes next.
    pub(super) fn eat(&mut self, symbol: char) -> bool {
        let is_symbol = self.is_at(symbol);
        self.offset += usize::from(is_symbol);
        is_symbol
    }

    /// Consumes the word if it comes next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let is_word = self.text[self.offset..]
            .iter()
            .copied()
            .take(word.chars().count())
            .eq(word.chars());
        if is_word {
            self.offset += word.chars().count();
        }
        is_word
    }

    /// Consumes a separator between two rules.
    pub(super) fn eat_separator(&mut self) -> bool {
        self.eat(';') || self.eat('\n')
    }

    pub(super) fn expect_symbol(&mut self, symbol: char, expected: &str) -> Result<(), RuleParseError> {
        if self.eat(symbol) {
            Ok(())
        } else {
            Err(self.expected_error(expected))
        }
    }

    /// Reads a value in parentheses.
    pub(super) fn parse_parentheses<T>(
        &mut self,
        read: impl FnOnce(&mut Cursor) -> Result<T, RuleParseError>,
    ) -> Result<T, RuleParseError> {
        self.expect_symbol('(', "`(`")?;
        let value = read(self)?;
        self.expect_symbol(')', "`)`")?;
        Ok(value)
    }

    /// Consumes one of these keywords and returns its value.
    pub(super) fn parse_choice<T: Copy>(
        &mut self,
        choices: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Result<T, RuleParseError> {
        let choices: Vec<_> = choices.into_iter().collect();
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let (word, offset) = self.parse_word(&expected, |c| c.is_ascii_alphabetic() || c == '-')?;
        let choice = choices.iter().find(|(name, _)| *name == word);
        choice
            .map(|(_, value)| *value)
            .ok_or_else(|| self.error_at(offset, format!("expected {expected}, found `{word}`")))
    }

    /// Consumes an integer. Returns it with its offset.
    pub(super) fn parse_integer(&mut self) -> Result<(u64, usize), RuleParseError> {
        let (digits, offset) = self.parse_word("an integer", |c| c.is_ascii_digit())?;
        match digits.parse() {
            Ok(number) => Ok((number, offset)),
            Err(_) => Err(self.error_at(offset, format!("`{digits}` is too large"))),
        }
    }

    /// Checks that a value, which began at `offset`, is a glob.
    pub(super) fn check_glob(&self, value: String, offset: usize) -> Result<String, RuleParseError> {
        match Glob::new(&value) {
            Ok(_) => Ok(value),
            Err(error) => Err(self.error_at(offset, error.to_string())),
        }
    }

    /// Consumes all following characters that `is_word_char` accepts, at least one. Returns them with their offset.
    pub(super) fn parse_word(
        &mut self,
        expected: &str,
        is_word_char: impl Fn(char) -> bool,
    ) -> Result<(String, usize), RuleParseError> {
        self.skip_spaces();
        let start = self.offset;
        let word: String = self.text[start..]
            .iter()
            .copied()
            .take_while(|&c| is_word_char(c))
            .collect();
        if word.is_empty() {
            return Err(self.expected_error(expected));
        }
        self.offset += word.chars().count();
        Ok((word, start))
    }

    /// Consumes a bare name or a quoted string.
    pub(super) fn parse_name(&mut self, expected: &str) -> Result<(String, usize), RuleParseError> {
        if self.is_at('"') {
            self.parse_string(expected)
        } else {
            self.parse_word(expected, text::is_bare_name_char)
        }
    }

    /// Consumes a string in double quotes.
    pub(super) fn parse_string(&mut self, expected: &str) -> Result<(String, usize), RuleParseError> {
        let start = self.next_offset();
        if !self.eat('"') {
            return Err(self.expected_error(expected));
        }
        let mut value = String::new();
        loop {
            let offset = self.offset;
            match self.next_char() {
                Some('"') => return Ok((value, start)),
                Some('\\') => value.push(self.parse_escape(offset)?),
                Some(c) => value.push(c),
                None => {
                    return Err(self.error_at(offset, "expected a closing `\"`, found the end".to_owned()));
                }
            }
        }
    }

    fn parse_escape(&mut self, offset: usize) -> Result<char, RuleParseError> {
        let expected = r#"expected an escape (\" \\ \n \r \t \u{..})"#;
        match self.next_char() {
            Some(c @ ('"' | '\\')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') if self.text.get(self.offset) == Some(&'{') => {
                let hex: String = self.text[self.offset + 1..]
                    .iter()
                    .take_while(|c| c.is_ascii_hexdigit())
                    .collect();
                let end = self.offset + 1 + hex.len();
                let c = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                match c {
                    Some(c) if self.text.get(end) == Some(&'}') => {
                        self.offset = end + 1;
                        Ok(c)
                    }
                    _ => Err(self.error_at(offset, expected.to_owned())),
                }
            }
            _ => Err(self.error_at(offset, expected.to_owned())),
        }
    }

    /// Consumes a gRPC code, by name or number.
    pub(super) fn parse_code(&mut self) -> Result<Code, RuleParseError> {
        let expected = "a gRPC code such as Internal or 13, not OK";
        let (word, offset) = self.parse_word(expected, |c| c.is_ascii_alphanumeric() || c == '_')?;
        let without_underscores = word.replace('_', "");
        let code = ERROR_CODES.into_iter().find(|&code| {
            // Go spells this code `Canceled`.
            without_underscores.eq_ignore_ascii_case(&format!("{code:?}"))
                || without_underscores.parse() == Ok(i32::from(code))
                || (code == Code::Cancelled && without_underscores.eq_ignore_ascii_case("Canceled"))
        });
        code.ok_or_else(|| self.error_at(offset, format!("expected {expected}, found `{word}`")))
    }

    fn next_char(&mut self) -> Option<char> {
        let c = self.text.get(self.offset).copied()?;
        self.offset += 1;
        Some(c)
    }

    fn next_offset(&mut self) -> usize {
        self.skip_spaces();
        self.offset
    }

    fn skip_spaces(&mut self) {
        while matches!(self.text.get(self.offset), Some(' ' | '\t' | '\r')) {
            self.offset += 1;
        }
    }
}
