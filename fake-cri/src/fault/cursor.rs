//! A place in the text of a rule, and the tokens that every part of the grammar shares.

use tonic::Code;

use super::{error::ParseError, text};

/// Every code a fault may answer with, in the order of their numbers.
const CODES: [Code; 16] = [
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

/// Reads a text from left to right. Spaces before a token are skipped.
pub(super) struct Cursor {
    text: Vec<char>,
    at: usize,
}

impl Cursor {
    pub(super) fn new(text: &str) -> Cursor {
        Cursor {
            text: text.chars().collect(),
            at: 0,
        }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// An error at a position that was read before.
    pub(super) fn error(&self, at: usize, message: String) -> ParseError {
        ParseError::new(&self.text, at, message)
    }

    /// An error here: this was expected, and something else stands here.
    pub(super) fn expected(&mut self, what: &str) -> ParseError {
        self.skip_spaces();
        let found = match self.text.get(self.at) {
            None => "the end".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(&c) if text::is_bare(c) => {
                let word: String = self.text[self.at..].iter().take_while(|&&c| text::is_bare(c)).collect();
                format!("`{word}`")
            }
            Some(c) => format!("`{c}`"),
        };
        self.error(self.at, format!("expected {what}, found {found}"))
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_spaces();
        self.at == self.text.len()
    }

    /// Whether this symbol comes next.
    pub(super) fn sees(&mut self, symbol: char) -> bool {
        self.skip_spaces();
        self.text.get(self.at) == Some(&symbol)
    }

    /// Takes the symbol if it comes next.
    pub(super) fn eat(&mut self, symbol: char) -> bool {
        let seen = self.sees(symbol);
        self.at += usize::from(seen);
        seen
    }

    /// Takes the letters if they come next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let seen = self.text[self.at..]
            .iter()
            .copied()
            .take(word.chars().count())
            .eq(word.chars());
        if seen {
            self.at += word.chars().count();
        }
        seen
    }

    /// Takes what separates two rules.
    pub(super) fn separator(&mut self) -> bool {
        self.eat(';') || self.eat('\n')
    }

    pub(super) fn symbol(&mut self, symbol: char, expected: &str) -> Result<(), ParseError> {
        if self.eat(symbol) {
            Ok(())
        } else {
            Err(self.expected(expected))
        }
    }

    /// Takes as many of these characters as follow, at least one, and says where they began.
    pub(super) fn word(
        &mut self,
        expected: &str,
        belongs: impl Fn(char) -> bool,
    ) -> Result<(String, usize), ParseError> {
        self.skip_spaces();
        let start = self.at;
        let word: String = self.text[start..].iter().copied().take_while(|&c| belongs(c)).collect();
        if word.is_empty() {
            return Err(self.expected(expected));
        }
        self.at += word.chars().count();
        Ok((word, start))
    }

    /// Takes a bare name or a string.
    pub(super) fn name(&mut self, expected: &str) -> Result<(String, usize), ParseError> {
        if self.sees('"') {
            self.string(expected)
        } else {
            self.word(expected, text::is_bare)
        }
    }

    /// Takes a string in double quotes.
    pub(super) fn string(&mut self, expected: &str) -> Result<(String, usize), ParseError> {
        let start = self.at_next();
        if !self.eat('"') {
            return Err(self.expected(expected));
        }
        let mut value = String::new();
        loop {
            let at = self.at;
            match self.next() {
                Some('"') => return Ok((value, start)),
                Some('\\') => value.push(self.escape(at)?),
                Some(c) => value.push(c),
                None => return Err(self.error(at, "expected `\"` at the string's end, found the end".to_owned())),
            }
        }
    }

    fn escape(&mut self, at: usize) -> Result<char, ParseError> {
        let expected = r#"expected an escape (\" \\ \n \r \t \u{..})"#;
        match self.next() {
            Some(c @ ('"' | '\\')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') if self.text.get(self.at) == Some(&'{') => {
                let hex: String = self.text[self.at + 1..]
                    .iter()
                    .take_while(|c| c.is_ascii_hexdigit())
                    .collect();
                let end = self.at + 1 + hex.len();
                let c = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                match c {
                    Some(c) if self.text.get(end) == Some(&'}') => {
                        self.at = end + 1;
                        Ok(c)
                    }
                    _ => Err(self.error(at, expected.to_owned())),
                }
            }
            _ => Err(self.error(at, expected.to_owned())),
        }
    }

    /// Takes a gRPC code by name or number.
    pub(super) fn code(&mut self) -> Result<Code, ParseError> {
        let expected = "a gRPC code such as Internal or 13, not OK";
        let (word, at) = self.word(expected, |c| c.is_ascii_alphanumeric() || c == '_')?;
        let plain = word.replace('_', "");
        let code = CODES.into_iter().find(|&code| {
            // Go's name for it has one letter less.
            plain.eq_ignore_ascii_case(&format!("{code:?}"))
                || plain.parse() == Ok(i32::from(code))
                || (code == Code::Cancelled && plain.eq_ignore_ascii_case("Canceled"))
        });
        code.ok_or_else(|| self.error(at, format!("expected {expected}, found `{word}`")))
    }

    fn next(&mut self) -> Option<char> {
        let c = self.text.get(self.at).copied()?;
        self.at += 1;
        Some(c)
    }

    fn at_next(&mut self) -> usize {
        self.skip_spaces();
        self.at
    }

    fn skip_spaces(&mut self) {
        while matches!(self.text.get(self.at), Some(' ' | '\t' | '\r')) {
            self.at += 1;
        }
    }
}
