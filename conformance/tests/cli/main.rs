//! The command line, the reports, and what ARCHITECTURE.md states.

mod architecture;
mod commands;
mod reports;
mod secrets;
mod terms;
