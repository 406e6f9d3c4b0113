//! The registry of all cases, from which lists, documents and reports are generated.

pub mod archive;
pub mod kubelet;
pub mod runtime;

mod authority;
mod inspection;
mod list;
mod matrix;
mod topic_state;

pub use list::{CatalogueEntry, catalogue_entries, markdown, plain_text};
pub use matrix::{Testable, for_target, matrix};
