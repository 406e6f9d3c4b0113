//! The documents that the cases of the archive suite cite, found by the words with which the cases name them.

use super::authority::{self, criu_file};
use crate::engine::{Authority, CaseInfo};

/// What a name of a source begins with, and the document that is meant. The first that fits counts; the name itself becomes the
/// section of a document that has none here.
const AUTHORITIES_BY_SOURCE: &[(&str, Authority)] = &[
    ("Kubelet Checkpoint API page (tar format)", authority::API_OPERATIONS),
    ("Kubelet Checkpoint API page", authority::API_INTRODUCTION),
    ("Kubernetes e2e test", authority::KUBERNETES_E2E),
    ("CRI ContainerMetadata", authority::CRI_METADATA),
    ("CRI log format", authority::CRI_LOGS),
    ("containerd; CRI ContainerStatus", authority::CRI_STATUS),
    ("OCI runtime specification", authority::OCI),
    ("checkpointctl", authority::CHECKPOINTCTL),
    (
        "containerd internal/cri/store/container/status.go",
        authority::CONTAINERD_STATUS,
    ),
    ("containerd", authority::COMMON_RUNTIMES),
    ("runc", authority::RUNC),
    ("CWE-22", authority::CWE_PATH_TRAVERSAL),
    ("CWE-59", authority::CWE_LINK_FOLLOWING),
    ("CWE-770", authority::CWE_UNBOUNDED_ALLOCATION),
    ("criu#2895", authority::CRIU_COMPRESSION),
];
/// What the name of a source begins with that is no document, but where a defect was seen.
const DEFECT_SOURCE_PREFIXES: &[&str] = &["CVE-", "cri-o#", "Kubernetes secrets", "unpacked by a user"];

/// The clause with the document that its source names, or with its source as the motivation.
pub(super) fn with_authority(info: CaseInfo) -> CaseInfo {
    let source = info.authority.title;
    if DEFECT_SOURCE_PREFIXES.iter().any(|defect| source.starts_with(defect)) {
        return CaseInfo {
            authority: Authority::PROJECT,
            motivation: source,
            ..info
        };
    }
    let document = AUTHORITIES_BY_SOURCE.iter().find(|(name, _)| source.starts_with(name));
    let authority = match (document, source.strip_prefix("CRIU ")) {
        (Some((name, authority)), _) => Authority {
            section: if source.len() > name.len() && authority.section.is_empty() {
                source
            } else {
                authority.section
            },
            ..*authority
        },
        (None, Some(file)) => criu_file(file),
        (None, None) => info.authority,
    };
    CaseInfo { authority, ..info }
}
