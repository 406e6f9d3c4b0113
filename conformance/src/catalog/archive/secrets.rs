//! Of what should stand in the memory alone.

use super::given::{ArchiveCase, case, criu, none};
use crate::case::Stop;

pub(super) const CASES: &[ArchiveCase] = &[case!(
    "secrets/environment",
    Robust,
    "Kubernetes secrets reach a container as environment variables",
    "What is secret stands in the memory and in spec.dump, which hold it by definition, and in no other member.",
    "no secret elsewhere",
    |archive| {
        criu(archive)?;
        match &archive.leaks {
            None => Err(Stop::Skip("no secret of the container is known".to_owned())),
            Some(leaks) => none(
                leaks
                    .iter()
                    .map(|leak| format!("in {} at byte {}", leak.member, leak.offset)),
                "none",
            ),
        }
    }
)];
