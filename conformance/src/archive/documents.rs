//! The JSON documents of an archive, each missing, unreadable or read.

use std::collections::BTreeMap;

use cri_proto::document::{BindMount, ConfigDump, DeletedFiles, Descriptors, SpecDump, Status, StatusDump};
use serde::de::DeserializeOwned;

/// How large a document may be: a Kubernetes object has 1.5 MiB at most, and it is the largest part of one.
pub(crate) const LARGEST: u64 = 4 << 20;

/// A document.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Document<T> {
    /// There is no such member.
    #[default]
    Missing,
    /// There is, and it cannot be read: why.
    Unreadable(String),
    /// What it says.
    Read(Box<T>),
}

impl<T> Document<T> {
    /// What it says, if it could be read.
    pub fn read(&self) -> Option<&T> {
        match self {
            Document::Read(document) => Some(document),
            _ => None,
        }
    }
}

/// All documents of an archive.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// `config.dump`.
    pub config: Document<ConfigDump>,
    /// `config.dump` as plain JSON: which fields are really there.
    pub config_fields: BTreeMap<String, serde_json::Value>,
    /// `spec.dump`.
    pub spec: Document<SpecDump>,
    /// `status.dump`.
    pub status_dump: Document<StatusDump>,
    /// `status`.
    pub status: Document<Status>,
    /// `checkpoint/descriptors.json`.
    pub descriptors: Document<Descriptors>,
    /// `deleted.files`.
    pub deleted_files: Document<DeletedFiles>,
    /// `bind.mounts`.
    pub bind_mounts: Document<Vec<BindMount>>,
}

/// The members that are documents, by name.
pub(crate) const NAMES: [&str; 7] = [
    cri_proto::document::CONFIG_DUMP,
    cri_proto::document::SPEC_DUMP,
    cri_proto::document::STATUS_DUMP,
    cri_proto::document::STATUS,
    cri_proto::document::DESCRIPTORS,
    cri_proto::document::DELETED_FILES,
    cri_proto::document::BIND_MOUNTS,
];

impl Documents {
    /// Takes the content of the member `name`; `None` for one that is larger than [`LARGEST`].
    pub(crate) fn take(&mut self, name: &str, content: Option<&[u8]>) {
        match name {
            cri_proto::document::CONFIG_DUMP => {
                self.config = parse(content, b'{');
                self.config_fields = content
                    .and_then(|content| serde_json::from_slice(content).ok())
                    .unwrap_or_default();
            }
            cri_proto::document::SPEC_DUMP => self.spec = parse(content, b'{'),
            cri_proto::document::STATUS_DUMP => self.status_dump = parse(content, b'{'),
            cri_proto::document::STATUS => self.status = parse(content, b'{'),
            cri_proto::document::DESCRIPTORS => self.descriptors = parse(content, b'['),
            cri_proto::document::DELETED_FILES => self.deleted_files = parse(content, b'['),
            _ => self.bind_mounts = parse(content, b'['),
        }
    }
}

fn parse<T: DeserializeOwned>(content: Option<&[u8]>, bracket: u8) -> Document<T> {
    let Some(content) = content else {
        return Document::Unreadable(format!("it is larger than {LARGEST} bytes"));
    };
    // serde takes an array for a struct as well; Go, which reads these documents, does not.
    let first = content.trim_ascii_start().first().copied().unwrap_or_default();
    if first != bracket {
        return Document::Unreadable(format!("it does not begin with {:?}", char::from(bracket)));
    }
    match serde_json::from_slice(content) {
        Ok(document) => Document::Read(Box::new(document)),
        Err(error) => Document::Unreadable(error.to_string()),
    }
}
