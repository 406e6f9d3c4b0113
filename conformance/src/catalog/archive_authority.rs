//! The documents that the cases of the archive suite cite, found by the words with which the cases name them.

use super::authority::{self, criu_file};
use crate::case::{Authority, Clause};

/// What a name of a source begins with, and the document that is meant. The first that fits counts; the name itself becomes the
/// section of a document that has none here.
const DOCUMENTS: &[(&str, Authority)] = &[
    ("Kubelet Checkpoint API page (tar format)", authority::OPERATIONS),
    ("Kubelet Checkpoint API page", authority::INTRODUCTION),
    ("Kubernetes e2e test", authority::E2E),
    ("CRI ContainerMetadata", authority::CRI_METADATA),
    ("CRI log format", authority::CRI_LOGS),
    ("containerd; CRI ContainerStatus", authority::CRI_STATUS),
    ("OCI runtime specification", authority::OCI),
    ("checkpointctl", authority::CHECKPOINTCTL),
    (
        "containerd internal/cri/store/container/status.go",
        authority::CONTAINERD_STATUS,
    ),
    ("containerd", authority::RUNTIMES),
    ("runc", authority::RUNC),
    ("CWE-22", authority::TRAVERSAL),
    ("CWE-59", authority::LINK),
    ("CWE-770", authority::ALLOCATION),
    ("criu#2895", authority::CRIU_COMPRESSION),
];
/// What the name of a source begins with that is no document, but where a defect was seen.
const DEFECTS: &[&str] = &["CVE-", "cri-o#", "Kubernetes secrets", "unpacked by a user"];

/// The clause with the document that its source names, or with its source as the motivation.
pub(super) fn cite(clause: Clause) -> Clause {
    let source = clause.authority.title;
    if DEFECTS.iter().any(|defect| source.starts_with(defect)) {
        return Clause {
            authority: Authority::PROJECT,
            motivation: source,
            ..clause
        };
    }
    let known = DOCUMENTS.iter().find(|(name, _)| source.starts_with(name));
    let authority = match (known, source.strip_prefix("CRIU ")) {
        (Some((name, authority)), _) => Authority {
            section: if source.len() > name.len() && authority.section.is_empty() {
                source
            } else {
                authority.section
            },
            ..*authority
        },
        (None, Some(file)) => criu_file(file),
        (None, None) => clause.authority,
    };
    Clause { authority, ..clause }
}
