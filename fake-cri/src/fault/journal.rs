//! The record of every call, in memory and bounded.

/// The last calls, in the order in which they ended.
#[derive(Debug, Default)]
pub struct Journal {}

impl Journal {
    /// An empty journal.
    pub fn new() -> Journal {
        Journal::default()
    }
}
