//! Recognises errors that come from a runtime's configuration: the operator has disabled an operation, so nothing is
//! broken.
//!
//! The CRI has no error code for them, so they are recognised by their messages. Sources: cri-o
//! `server/container_checkpoint.go` and `server/container_create.go` (f954a17), containerd
//! `internal/cri/server/container_checkpoint_linux.go` (2.4).

use tonic::Code;

const CHECKPOINT_DISABLED_MESSAGES: [&str; 2] = [
    // CRI-O with `container_level_enabled = "none"`. CRI-O sets this value itself if it finds no CRIU.
    "checkpoint/restore support not available",
    // containerd with `enable_criu = false`.
    "criu support is disabled by configuration",
];
const IMAGE_NOT_FOUND_MESSAGES: [&str; 5] = [
    "failed to resolve image",
    "does not exist locally",
    "image not known",
    "invalid reference format",
    "no such image",
];

/// Whether the message says that checkpoints are disabled. The message may also come from a kubelet that quotes the
/// runtime.
pub fn is_checkpoint_disabled(message: &str) -> bool {
    CHECKPOINT_DISABLED_MESSAGES.iter().any(|text| message.contains(text))
}

/// Whether the runtime treats an archive's path as an image name: it restores no containers, by configuration (CRI-O
/// with `container_level_enabled` of `none` or `checkpoint_only`) or for lack of support (containerd 2.4). The error
/// does not show which.
pub fn treats_archive_as_image(code: Code, message: &str) -> bool {
    matches!(code, Code::NotFound | Code::Unimplemented)
        || IMAGE_NOT_FOUND_MESSAGES.iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::crio("checkpoint/restore support not available", true)]
    #[case::by_a_kubelet(
        "checkpointing of a/b/c failed (rpc error: code = Unknown desc = criu support is disabled by configuration)",
        true
    )]
    #[case::broken("checkpointing container \"c\" failed: exit status 1", false)]
    #[case::unimplemented("unknown method CheckpointContainer for service runtime.v1.RuntimeService", false)]
    fn recognises_disabled_checkpoints(#[case] message: &str, #[case] policy: bool) {
        assert_eq!(is_checkpoint_disabled(message), policy);
    }

    #[rstest]
    #[case::containerd(Code::NotFound, "failed to resolve image \"/x.tar\"", true)]
    #[case::crio(Code::Unknown, "parsing \"/x.tar\": invalid reference format", true)]
    #[case::mounts(
        Code::Unknown,
        "restoring \"/x.tar\" expects following bind mounts defined (/etc/hosts)",
        false
    )]
    #[case::user_image(
        Code::Unknown,
        "user specified image not specified, cannot verify image signature",
        false
    )]
    fn recognises_a_path_treated_as_image(#[case] code: Code, #[case] message: &str, #[case] expected: bool) {
        assert_eq!(treats_archive_as_image(code, message), expected);
    }
}
