//! Secrets, which must be in memory only.

use super::preconditions::{ArchiveCase, case, pass_unless, require_criu};
use crate::engine::NonPass;

pub(super) const CASES: &[ArchiveCase] = &[case!(
    "archive/secrets/memory-and-spec-only",
    Robust,
    "Kubernetes secrets reach a container as environment variables",
    "A secret must be in no member other than the memory pages and spec.dump, which contain it by definition.",
    "no secret in other members",
    |archive| {
        require_criu(archive)?;
        match &archive.secret_leaks {
            None => Err(NonPass::Skip("requires a known secret of the container".to_owned())),
            Some(leaks) => pass_unless(
                leaks
                    .iter()
                    .map(|leak| format!("secret in {} at byte {}", leak.member, leak.offset)),
                "no secret in other members",
            ),
        }
    }
)];
