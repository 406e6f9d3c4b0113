//! 500: errors of the runtime.

use super::session::{KubeletSession, LATE_ARCHIVE_TIMEOUT, WHEN_DONE_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, pass_if},
    suites::authority,
    targets::HttpResponse,
};

const RUNTIME_ERROR_CASE: &str = "kubelet/runtime-error/status-code";
const UNIMPLEMENTED_CASE: &str = "kubelet/runtime-error/unimplemented";
const UNIMPLEMENTED_MESSAGE_CASE: &str = "kubelet/runtime-error/unimplemented-message";
/// The error of a runtime without the call, as the e2e test of Kubernetes knows it.
const UNKNOWN_METHOD_MESSAGE: &str = "unknown method CheckpointContainer for service runtime.v1.RuntimeService";
/// A text that no kubelet produces itself.
const INJECTED_MESSAGE: &str = "checkpoint-conformance injected this error: disk on fire";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/runtime-error/status-code", Level::Documented)
        .requirement("The kubelet must return 500 for an error of the runtime.")
        .authority(authority::API_RESPONSE)
        .expected("500")
        .requires(&[Capability::FakeCriControl])
        .may_depend_on(&[WHEN_DONE_CASE])
        .run(|s| Box::pin(status_is_500(s, "Internal", INJECTED_MESSAGE))),
    case("kubelet/runtime-error/message", Level::Documented)
        .requirement("The kubelet must include the runtime's message in the response to an error of the runtime.")
        .authority(authority::API_RESPONSE)
        .expected(INJECTED_MESSAGE)
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/runtime-error/status-code"])
        .run(|s| Box::pin(contains_message(s, "Internal", INJECTED_MESSAGE, RUNTIME_ERROR_CASE))),
    case("kubelet/runtime-error/message-unchanged", Level::Documented)
        .requirement("The kubelet must pass a message of the runtime to the client unchanged, whatever its characters.")
        .authority(authority::API_RESPONSE)
        .motivation("the errors of CRIU have several lines, quotes and percent signs")
        .expected("500 with each message: 8 KiB, several lines, quotes, percent signs, blanks, tabs, beyond ASCII")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/runtime-error/message"])
        .run(|s| Box::pin(message_unchanged(s))),
    case("kubelet/runtime-error/body", Level::Reference)
        .requirement("The body of the 500 must name the container and wrap the runtime's code and message.")
        .authority(authority::KUBELET_SERVER)
        .expected("checkpointing of <namespace>/<pod>/<container> failed (rpc error: code = <code> desc = <message>)")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/runtime-error/message"])
        .run(|s| Box::pin(body_wraps_error(s))),
    case("kubelet/runtime-error/unimplemented", Level::Documented)
        .requirement("The kubelet must return 500 when the runtime does not implement CheckpointContainer.")
        .authority(authority::API_RESPONSE)
        .expected("500")
        .requires(&[Capability::FakeCriControl])
        .may_depend_on(&[WHEN_DONE_CASE])
        .run(|s| Box::pin(status_is_500(s, "Unimplemented", UNKNOWN_METHOD_MESSAGE))),
    case("kubelet/runtime-error/unimplemented-message", Level::Documented)
        .requirement(
            "The kubelet must include the runtime's message in the response when the runtime does not \
            implement CheckpointContainer.",
        )
        .authority(authority::API_RESPONSE)
        .expected(UNKNOWN_METHOD_MESSAGE)
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/runtime-error/unimplemented"])
        .run(|s| {
            Box::pin(contains_message(
                s,
                "Unimplemented",
                UNKNOWN_METHOD_MESSAGE,
                UNIMPLEMENTED_CASE,
            ))
        }),
    case("kubelet/runtime-error/known-runtime-messages", Level::Documented)
        .requirement("The kubelet must pass the messages of real runtimes that cannot checkpoint to the client.")
        .authority(authority::API_RESPONSE)
        .motivation("the e2e test of Kubernetes (test/e2e_node/checkpoint_container.go) skips on these messages")
        .expected("500 with each of 4 messages")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/runtime-error/unimplemented-message"])
        .may_depend_on(&["kubelet/runtime-error/status-code"])
        .run(|s| Box::pin(upstream_messages(s))),
    case("kubelet/runtime-error/every-grpc-code", Level::Reference)
        .requirement("The kubelet must return 500 for an error of the runtime with any gRPC code.")
        .authority(authority::KUBELET_SERVER)
        .expected("500 for 15 codes")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[
            "kubelet/runtime-error/status-code",
            "kubelet/runtime-error/unimplemented",
        ])
        .run(|s| Box::pin(every_code(s))),
];

/// Every gRPC error code except Cancelled, which the runtime returns to a caller that has cancelled.
const GRPC_ERROR_CODES: [&str; 15] = [
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Errors of runtimes that cannot checkpoint, as the e2e test of Kubernetes knows them.
const UPSTREAM_MESSAGES: [(&str, &str); 4] = [
    ("Unimplemented", UNKNOWN_METHOD_MESSAGE),
    ("Unimplemented", "method CheckpointContainer not implemented"),
    ("Unknown", "checkpoint/restore support not available"),
    (
        "Unknown",
        "CRIU binary not found or too old (<31600). Failed to checkpoint container",
    ),
];

/// Requests a checkpoint with an injected error, and verifies that the response comes from the runtime.
async fn checkpoint_with_error(s: &KubeletSession, code: &str, message: &str) -> Result<HttpResponse, NonPass> {
    s.require_endpoint().await?;
    s.require_usable()?;
    let control = s.require_fake_cri_control()?;
    let effect = format!("error({code},{message:?})");
    control.inject(s.container_under_test(), "before", &effect).await?;
    let journal_position = control.journal_position().await?;
    let response = s.request("").await?;
    let call = control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?;
    control.clear_rules().await?;
    match call {
        Some(call) if call.code != 0 => Ok(response),
        Some(_) => Err(NonPass::Error(
            "the runtime did not return the injected error".to_owned(),
        )),
        None => Err(NonPass::Fail(format!(
            "{}; the runtime was not called",
            response.summary()
        ))),
    }
}

async fn status_is_500(s: &KubeletSession, code: &str, message: &str) -> CaseResult {
    let response = checkpoint_with_error(s, code, message).await?;
    check(response.status == 500, response.summary())
}

async fn contains_message(s: &KubeletSession, code: &str, message: &str, status: &'static str) -> CaseResult {
    let response = checkpoint_with_error(s, code, message).await?;
    if response.status != 500 {
        return Err(NonPass::Blocked(status));
    }
    check(response.body.contains(message), response.summary())
}

async fn message_unchanged(s: &KubeletSession) -> CaseResult {
    let long = "criu failed: type NOTIFY errno 0. ".repeat(256);
    let messages: [(&str, &str); 9] = [
        ("8 KiB", &long),
        ("several lines", "first line\nsecond line\r\n\nlast line"),
        ("quotes", "it's \"quoted\" with a \\ backslash and a `tick`"),
        ("percent signs", "100% of %s and %d, %20 and %!v(MISSING)"),
        ("blanks", "two  blanks,   three, and\ta tab"),
        ("blanks at the ends", "  blanks at both ends  "),
        ("markup", "<b>bold</b> &amp; {{.Message}} $HOME"),
        ("beyond ASCII", "größer, 検査, \u{1f9c0}"),
        (
            "an error in an error",
            "rpc error: code = Unknown desc = rpc error: code = Aborted desc = inner",
        ),
    ];
    let mut problems = Vec::new();
    for (label, message) in messages {
        let response = checkpoint_with_error(s, "Internal", message).await?;
        if response.status != 500 {
            return Err(NonPass::Blocked(RUNTIME_ERROR_CASE));
        }
        if !response.body.contains(message) {
            problems.push(format!("{label}: {}", response.summary()));
        }
    }
    pass_if(
        problems.is_empty(),
        format!("{} messages unchanged", messages.len()),
        problems.join("; "),
    )
}

async fn body_wraps_error(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_with_error(s, "Internal", INJECTED_MESSAGE).await?;
    if response.status != 500 {
        return Err(NonPass::Blocked(RUNTIME_ERROR_CASE));
    }
    if !response.body.contains(INJECTED_MESSAGE) {
        return Err(NonPass::Blocked("kubelet/runtime-error/message"));
    }
    let body = format!(
        "checkpointing of {} failed (rpc error: code = Internal desc = {INJECTED_MESSAGE})",
        s.container_under_test()
    );
    check(response.body == body, response.summary())
}

async fn upstream_messages(s: &KubeletSession) -> CaseResult {
    let mut problems = Vec::new();
    for (code, message) in UPSTREAM_MESSAGES {
        let response = checkpoint_with_error(s, code, message).await?;
        // The first message and the status of any error are subjects of other cases.
        if response.status != 500 {
            return Err(NonPass::Blocked(if code == "Unimplemented" {
                UNIMPLEMENTED_CASE
            } else {
                RUNTIME_ERROR_CASE
            }));
        }
        if response.body.contains(message) {
            continue;
        }
        if message == UNKNOWN_METHOD_MESSAGE {
            return Err(NonPass::Blocked(UNIMPLEMENTED_MESSAGE_CASE));
        }
        problems.push(format!("{} for {message:?}", response.summary()));
    }
    pass_if(
        problems.is_empty(),
        format!("500 with each of {} messages", UPSTREAM_MESSAGES.len()),
        problems.join("; "),
    )
}

async fn every_code(s: &KubeletSession) -> CaseResult {
    let mut problems = Vec::new();
    for code in GRPC_ERROR_CODES {
        let status = checkpoint_with_error(s, code, INJECTED_MESSAGE).await?.status;
        // These two codes have cases of their own, so that only one case fails.
        if status != 500 && code == "Internal" {
            return Err(NonPass::Blocked(RUNTIME_ERROR_CASE));
        }
        if status != 500 && code == "Unimplemented" {
            return Err(NonPass::Blocked(UNIMPLEMENTED_CASE));
        }
        if status != 500 {
            problems.push(format!("{status} for {code}"));
        }
    }
    pass_if(
        problems.is_empty(),
        format!("500 for {} codes", GRPC_ERROR_CODES.len()),
        problems.join(", "),
    )
}
