//! The command line and the reports.

mod commands;
mod reports;
mod secrets;
mod terms;
