//! Decides for each call which rules fire.

/// The rules in force and how often each has fired.
#[derive(Debug, Default)]
pub struct Engine {}

impl Engine {
    /// An engine without rules.
    pub fn new() -> Engine {
        Engine::default()
    }
}
