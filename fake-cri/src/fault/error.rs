//! What is wrong with a rule, and where.

use std::fmt;

/// A text that the grammar does not take, with the place and what stands there.
///
/// ```text
/// column 21: expected a point (before, freeze, capture, write, finish, after), found `befor`
///   CheckpointContainer:befor=hang
///                       ^
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    line: usize,
    column: usize,
    message: String,
    source_line: String,
    many_lines: bool,
}

impl ParseError {
    /// An error at this character (counted from 0) of the text.
    pub(super) fn new(text: &[char], at: usize, message: String) -> ParseError {
        let before = &text[..at.min(text.len())];
        let start = before.iter().rposition(|&c| c == '\n').map_or(0, |newline| newline + 1);
        let rest = &text[start..];
        let end = rest.iter().position(|&c| c == '\n').unwrap_or(rest.len());
        ParseError {
            line: before.iter().filter(|&&c| c == '\n').count() + 1,
            column: before.len() - start + 1,
            message,
            source_line: rest[..end].iter().collect(),
            many_lines: text.contains(&'\n'),
        }
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The character within the line, counted from 1. One past the end when something is missing there.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What was expected and what was found.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.many_lines {
            write!(f, "line {}, ", self.line)?;
        }
        writeln!(f, "column {}: {}", self.column, self.message)?;
        writeln!(f, "  {}", self.source_line)?;
        // A tab stays a tab, so that the caret stands where a terminal shows the character.
        let padding: String = self
            .source_line
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        write!(f, "  {padding}^")
    }
}
