//! Of what should stand in the memory alone.

use super::preconditions::{ArchiveCase, case, pass_unless, require_criu};
use crate::engine::NonPass;

pub(super) const CASES: &[ArchiveCase] = &[case!(
    "archive/secrets/memory-and-spec-only",
    Robust,
    "Kubernetes secrets reach a container as environment variables",
    "What is secret stands in the memory and in spec.dump, which hold it by definition, and in no other member.",
    "no secret elsewhere",
    |archive| {
        require_criu(archive)?;
        match &archive.secret_leaks {
            None => Err(NonPass::Skip("no secret of the container is known".to_owned())),
            Some(leaks) => pass_unless(
                leaks
                    .iter()
                    .map(|leak| format!("in {} at byte {}", leak.member, leak.offset)),
                "none",
            ),
        }
    }
)];
