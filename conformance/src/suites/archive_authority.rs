//! The documents that the cases of the archive suite cite, found by a prefix of each case's source.

use super::authority::{self, criu_file};
use crate::engine::{Authority, CaseInfo};

/// Prefixes of sources with the document of each. The first match wins. The source itself becomes the section if the
/// document has no section here.
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
/// Prefixes of sources that are not documents but places where a defect was observed.
const DEFECT_SOURCE_PREFIXES: &[&str] = &["CVE-", "cri-o#", "Kubernetes secrets", "unpacked by a user"];

/// Replaces the source of a case with the document that the source names, or makes the source the motivation.
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
