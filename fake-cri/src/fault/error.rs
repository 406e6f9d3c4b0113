//! Parse errors of rules, with their position.

use std::fmt;

/// A text that is not a valid rule, with the position of the first error.
///
/// ```text
/// column 21: expected a point (before, freeze, capture, write, finish, after), found `befor`
///   CheckpointContainer:befor=hang
///                       ^
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RuleParseError {
    line: usize,
    column: usize,
    message: String,
    source_line: String,
    is_multiline: bool,
}

impl RuleParseError {
    /// `offset` counts characters of the text from 0.
    pub(super) fn new(text: &[char], offset: usize, message: String) -> RuleParseError {
        let before = &text[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&c| c == '\n').map_or(0, |newline| newline + 1);
        let after_line_start = &text[line_start..];
        let end = after_line_start
            .iter()
            .position(|&c| c == '\n')
            .unwrap_or(after_line_start.len());
        RuleParseError {
            line: before.iter().filter(|&&c| c == '\n').count() + 1,
            column: before.len() - line_start + 1,
            message,
            source_line: after_line_start[..end].iter().collect(),
            is_multiline: text.contains(&'\n'),
        }
    }

    /// The line of the error, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The character within the line, counted from 1. It is one past the end if the text ends too early.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The expected and the found token.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for RuleParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_multiline {
            write!(f, "line {}, ", self.line)?;
        }
        writeln!(f, "column {}: {}", self.column, self.message)?;
        writeln!(f, "  {}", self.source_line)?;
        // A tab stays a tab, so that the caret appears below the character on a terminal.
        let padding: String = self
            .source_line
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        write!(f, "  {padding}^")
    }
}
