//! Maps the runtime's errors to gRPC codes.

use tonic::{Code, Status};

use crate::{
    checkpoint::ErrorKind,
    runtime::{self, RuntimeError},
};

/// Returns the gRPC status of an error.
///
/// Where the CRI defines no code, the code tells the caller what to do. A failed pull or start is Unknown, as in
/// containerd and CRI-O.
pub(crate) fn to_status(error: RuntimeError) -> Status {
    let code = match &error {
        RuntimeError::NotFound { .. }
        | RuntimeError::ParentDirMissing(_)
        | RuntimeError::Pull { not_found: true, .. } => Code::NotFound,
        RuntimeError::AmbiguousId { .. } | RuntimeError::InvalidArgument(_) => Code::InvalidArgument,
        RuntimeError::FailedPrecondition(_) | RuntimeError::Transition(_) | RuntimeError::Restore(_) => {
            Code::FailedPrecondition
        }
        RuntimeError::NameReserved { .. } => Code::AlreadyExists,
        RuntimeError::Pull { not_found: false, .. } | RuntimeError::Start(_) => Code::Unknown,
        RuntimeError::DeadlineExceeded(_) => Code::DeadlineExceeded,
        RuntimeError::ResourceExhausted(_) => Code::ResourceExhausted,
        // The message of a fault is exactly that of its rule.
        RuntimeError::Checkpoint { failure, .. } if matches!(failure.kind, ErrorKind::Injected(_)) => {
            return Status::new(checkpoint_code(failure.kind), failure.message.clone());
        }
        RuntimeError::Checkpoint { failure, .. } => checkpoint_code(failure.kind),
        RuntimeError::Store { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Code::ResourceExhausted
        }
        RuntimeError::Shim { .. } | RuntimeError::Store { .. } | RuntimeError::Internal(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn checkpoint_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Busy => Code::Unavailable,
        ErrorKind::NotRunning | ErrorKind::UnsupportedState | ErrorKind::FrozenCgroup => Code::FailedPrecondition,
        ErrorKind::Freeze | ErrorKind::Capture | ErrorKind::Write => Code::Internal,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::DirectoryMissing => Code::NotFound,
        ErrorKind::Location => Code::InvalidArgument,
        ErrorKind::UnsupportedPlatform => Code::Unimplemented,
        ErrorKind::Injected(code) => Code::from_i32(code),
    }
}

impl From<runtime::RuntimeError> for Status {
    fn from(error: runtime::RuntimeError) -> Status {
        to_status(error)
    }
}

pub(crate) fn unimplemented(method: &str) -> Status {
    Status::unimplemented(format!("method {method} not implemented"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::checkpoint::Failure;

    fn checkpoint_error(kind: ErrorKind) -> RuntimeError {
        RuntimeError::Checkpoint {
            id: "abc".to_owned(),
            failure: Failure {
                kind,
                message: "disk on fire".to_owned(),
            },
        }
    }

    #[rstest]
    #[case(checkpoint_error(ErrorKind::DeadlineExceeded), Code::DeadlineExceeded)]
    #[case(checkpoint_error(ErrorKind::Injected(9)), Code::FailedPrecondition)]
    #[case(checkpoint_error(ErrorKind::UnsupportedState), Code::FailedPrecondition)]
    #[case(checkpoint_error(ErrorKind::FrozenCgroup), Code::FailedPrecondition)]
    #[case(RuntimeError::InvalidArgument("bad".to_owned()), Code::InvalidArgument)]
    #[case(RuntimeError::FailedPrecondition("not now".to_owned()), Code::FailedPrecondition)]
    fn errors_map_to_grpc_codes(#[case] error: RuntimeError, #[case] code: Code) {
        assert_eq!(to_status(error).code(), code);
    }

    #[test]
    fn injected_messages_are_unchanged() {
        assert_eq!(
            to_status(checkpoint_error(ErrorKind::Injected(13))).message(),
            "disk on fire"
        );
        assert!(
            to_status(checkpoint_error(ErrorKind::Write))
                .message()
                .starts_with("failed to checkpoint")
        );
    }
}
