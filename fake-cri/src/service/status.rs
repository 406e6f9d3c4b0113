//! The one place that maps the runtime's errors to gRPC codes, and the one that answers Unimplemented.

use tonic::{Code, Status};

use crate::{
    checkpoint::ErrorKind,
    runtime::{self, Error},
};

/// The gRPC status of a runtime's error.
///
/// Where the CRI names no code, the code is the one that a caller can act on; a failed pull or start keeps Unknown, which
/// is what containerd and CRI-O answer and what kubelets know.
pub(crate) fn status(error: Error) -> Status {
    let code = match &error {
        Error::NotFound { .. } | Error::FolderMissing(_) | Error::Pull { missing: true, .. } => Code::NotFound,
        Error::Ambiguous { .. } | Error::Invalid(_) => Code::InvalidArgument,
        Error::Precondition(_) | Error::Transition(_) | Error::Restore(_) => Code::FailedPrecondition,
        Error::NameReserved { .. } => Code::AlreadyExists,
        Error::Pull { missing: false, .. } | Error::Start(_) => Code::Unknown,
        Error::Deadline(_) => Code::DeadlineExceeded,
        Error::Exhausted(_) => Code::ResourceExhausted,
        // A fault's message is the rule's, word for word.
        Error::Checkpoint { failure, .. } if matches!(failure.kind, ErrorKind::Injected(_)) => {
            return Status::new(checkpoint_code(failure.kind), failure.message.clone());
        }
        Error::Checkpoint { failure, .. } => checkpoint_code(failure.kind),
        Error::Store { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::ResourceExhausted,
        Error::Shim { .. } | Error::Store { .. } | Error::Internal(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn checkpoint_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Busy => Code::Unavailable,
        ErrorKind::NotRunning | ErrorKind::NotCarried | ErrorKind::FrozenCgroup => Code::FailedPrecondition,
        ErrorKind::Freeze | ErrorKind::Capture | ErrorKind::Write => Code::Internal,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::FolderMissing => Code::NotFound,
        ErrorKind::Location => Code::InvalidArgument,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Injected(code) => Code::from_i32(code),
    }
}

impl From<runtime::Error> for Status {
    fn from(error: runtime::Error) -> Status {
        status(error)
    }
}

/// The answer of every call that is not built yet.
pub(crate) fn not_built(method: &str) -> Status {
    Status::unimplemented(format!("method {method} not implemented"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::checkpoint::Failure;

    fn failed(kind: ErrorKind) -> Error {
        Error::Checkpoint {
            id: "abc".to_owned(),
            failure: Failure {
                kind,
                message: "disk on fire".to_owned(),
            },
        }
    }

    #[rstest]
    #[case(failed(ErrorKind::DeadlineExceeded), Code::DeadlineExceeded)]
    #[case(failed(ErrorKind::Injected(9)), Code::FailedPrecondition)]
    #[case(failed(ErrorKind::NotCarried), Code::FailedPrecondition)]
    #[case(failed(ErrorKind::FrozenCgroup), Code::FailedPrecondition)]
    #[case(Error::Invalid("bad".to_owned()), Code::InvalidArgument)]
    #[case(Error::Precondition("not now".to_owned()), Code::FailedPrecondition)]
    fn codes(#[case] error: Error, #[case] code: Code) {
        assert_eq!(status(error).code(), code);
    }

    #[test]
    fn an_injected_message_is_told_word_for_word() {
        assert_eq!(status(failed(ErrorKind::Injected(13))).message(), "disk on fire");
        assert!(
            status(failed(ErrorKind::Write))
                .message()
                .starts_with("failed to checkpoint")
        );
    }
}
