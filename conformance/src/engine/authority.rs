//! The authority of a requirement: a document outside this project, by title, section and URL.

use serde::{Deserialize, Serialize};

/// The document that states a requirement. A place where the requirement was violated is a motivation and not an
/// authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Authority {
    /// The document's title, with its version if it has one: `Kubelet Checkpoint API`, `kubernetes v1.36.3`.
    pub title: &'static str,
    /// The section, message or file in the document.
    pub section: &'static str,
    /// The URL of the document; empty for a requirement of this project, which no document states.
    pub url: &'static str,
}

impl Authority {
    /// A requirement that no document states and a careful operator needs. Only cases of level `robust` may have it.
    pub const PROJECT: Authority = Authority {
        title: "checkpoint-conformance",
        section: "a robustness requirement of this project",
        url: "",
    };

    /// The same document with another section.
    pub const fn with_section(self, section: &'static str) -> Authority {
        Authority { section, ..self }
    }

    /// Title and section in one line: `Kubelet Checkpoint API: Response`.
    pub fn citation(&self) -> String {
        citation(self.title, self.section)
    }
}

/// An authority in a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CitedAuthority {
    /// The document's title.
    pub title: String,
    /// The section, message or file in the document.
    pub section: String,
    /// The URL of the document; empty for a requirement of this project.
    pub url: String,
}

impl CitedAuthority {
    /// Title and section in one line.
    pub fn citation(&self) -> String {
        citation(&self.title, &self.section)
    }
}

impl From<Authority> for CitedAuthority {
    fn from(authority: Authority) -> CitedAuthority {
        CitedAuthority {
            title: authority.title.to_owned(),
            section: authority.section.to_owned(),
            url: authority.url.to_owned(),
        }
    }
}

fn citation(title: &str, section: &str) -> String {
    if section.is_empty() {
        title.to_owned()
    } else {
        format!("{title}: {section}")
    }
}
