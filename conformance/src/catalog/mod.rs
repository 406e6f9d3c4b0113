//! The cases: one registry, from which lists, documents and reports are made.

pub mod archive;
