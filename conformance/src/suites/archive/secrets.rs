//! Secrets, which must be in memory only.

use super::preconditions::{ArchiveCase, pass_unless, require_criu};
use crate::engine::{Authority, Capability, Level, NonPass, case};

pub(super) const CASES: &[ArchiveCase] = &[case("archive/secrets/memory-and-spec-only", Level::Robust)
    .requirement(
        "A secret must be in no member other than the memory pages and spec.dump, which contain it by \
            definition.",
    )
    .authority(Authority::PROJECT)
    .motivation("Kubernetes secrets reach a container as environment variables")
    .expected("no secret in other members")
    .requires(&[Capability::KnownSecret])
    .depends_on(&["archive/tar/well-formed"])
    .may_depend_on(&["archive/tar/not-empty", "archive/format/checkpoint-archive"])
    .check(|archive| {
        require_criu(archive)?;
        match &archive.secret_leaks {
            None => Err(NonPass::Missing(Capability::KnownSecret)),
            Some(leaks) => pass_unless(
                leaks
                    .iter()
                    .map(|leak| format!("secret in {} at byte {}", leak.member, leak.offset)),
                "no secret in other members",
            ),
        }
    })];
