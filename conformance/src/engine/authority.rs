//! Who demands what a case checks: a document outside this project, by title, section and URL.

use serde::{Deserialize, Serialize};

/// The document that demands a requirement. What was seen broken, and where, is a case's motivation and no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Authority {
    /// The document's title, with its version where it has one: `Kubelet Checkpoint API`, `kubernetes v1.36.3`.
    pub title: &'static str,
    /// The section, message or file in it.
    pub section: &'static str,
    /// Where it can be read; empty for a requirement of this project, which no document makes.
    pub url: &'static str,
}

impl Authority {
    /// A requirement that no document makes: what a careful operator needs. Only cases of level `robust` may have it.
    pub const PROJECT: Authority = Authority {
        title: "checkpoint-conformance",
        section: "a robustness requirement of this project",
        url: "",
    };

    /// An authority by its title alone.
    pub const fn from_title(title: &'static str) -> Authority {
        Authority {
            title,
            section: "",
            url: "",
        }
    }

    /// Title and section in one line: `Kubelet Checkpoint API: Response`.
    pub fn citation(&self) -> String {
        citation(self.title, self.section)
    }
}

/// An authority as a report holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CitedAuthority {
    /// The document's title.
    pub title: String,
    /// The section, message or file in it.
    pub section: String,
    /// Where it can be read; empty for a requirement of this project.
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
