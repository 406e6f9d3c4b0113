//! 500: what the runtime answers.

use super::{
    rule,
    session::{LATE, Session},
};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    catalog::authority,
    target::Answer,
};

const ERROR: &str = "kubelet/500/runtime-error";
const UNIMPLEMENTED: &str = "kubelet/500/unimplemented";
const UNIMPLEMENTED_MESSAGE: &str = "kubelet/500/unimplemented-message";
/// What an old runtime says, as upstream's test knows it.
const UNKNOWN_METHOD: &str = "unknown method CheckpointContainer for service runtime.v1.RuntimeService";
/// Nothing that a kubelet could say by itself.
const MESSAGE: &str = "checkpoint-conformance asked for this error: disk on fire";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: ERROR,
            clause: "an error of the runtime is answered 500",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "500",
        },
        |s| Box::pin(status_is_500(s, "Internal", MESSAGE)),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/runtime-error-message",
            clause: "the answer to an error of the runtime holds the runtime's message",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: MESSAGE,
        },
        |s| Box::pin(holds_message(s, "Internal", MESSAGE, ERROR)),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/runtime-error-body",
            clause: "the body names the container and wraps the runtime's code and message",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "checkpointing of <namespace>/<pod>/<container> failed (rpc error: code = <code> desc = <message>)",
        },
        |s| Box::pin(wrapped(s)),
    ),
    Case::new(
        Clause {
            id: UNIMPLEMENTED,
            clause: "a runtime that does not implement the call is answered 500",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "500",
        },
        |s| Box::pin(status_is_500(s, "Unimplemented", UNKNOWN_METHOD)),
    ),
    Case::new(
        Clause {
            id: UNIMPLEMENTED_MESSAGE,
            clause: "the answer for a runtime that does not implement the call holds the runtime's message",
            authority: authority::RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: UNKNOWN_METHOD,
        },
        |s| Box::pin(holds_message(s, "Unimplemented", UNKNOWN_METHOD, UNIMPLEMENTED)),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/upstream-messages",
            clause: "why no checkpoint can be had, as real runtimes say it, reaches the client",
            authority: authority::RESPONSE,
            motivation: "Kubernetes' own test (test/e2e_node/checkpoint_container.go) skips on these messages",
            level: Level::Documented,
            expected: "500 with the message, for four messages of runtimes that cannot checkpoint",
        },
        |s| Box::pin(upstream_messages(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/500/every-code",
            clause: "an error of the runtime is answered 500 whatever its gRPC code",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 for each code",
        },
        |s| Box::pin(every_code(s)),
    ),
];

/// Every code that an error can have, but those of a caller that has gone.
const CODES: [&str; 15] = [
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

/// What runtimes answer that cannot checkpoint, as upstream's test knows them.
const UPSTREAM: [(&str, &str); 4] = [
    ("Unimplemented", UNKNOWN_METHOD),
    ("Unimplemented", "method CheckpointContainer not implemented"),
    ("Unknown", "checkpoint/restore support not available"),
    (
        "Unknown",
        "CRIU binary not found or too old (<31600). Failed to checkpoint container",
    ),
];

/// Asks for a checkpoint that the runtime answers with this error; proves that it was the runtime that answered.
async fn ask(s: &Session, code: &str, message: &str) -> Result<Answer, Stop> {
    s.served().await?;
    s.sound()?;
    let faults = s.faults()?;
    let effect = format!("error({code},{message:?})");
    faults.add(&[&rule(s.subject(), "before", &effect)]).await?;
    let mark = faults.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    let call = faults.next_checkpoint(mark, LATE).await?;
    faults.clear().await?;
    match call {
        Some(call) if call.code != 0 => Ok(answer),
        Some(_) => Err(Stop::Error(
            "the runtime did not answer the error that it was told to".to_owned(),
        )),
        None => Err(Stop::Fail(format!("{}, and the runtime was not asked", answer.brief()))),
    }
}

async fn status_is_500(s: &Session, code: &str, message: &str) -> Judgement {
    let answer = ask(s, code, message).await?;
    judge(answer.status == 500, answer.brief())
}

async fn holds_message(s: &Session, code: &str, message: &str, status: &'static str) -> Judgement {
    let answer = ask(s, code, message).await?;
    if answer.status != 500 {
        return Err(Stop::Blocked(status));
    }
    judge(answer.body.contains(message), answer.brief())
}

async fn wrapped(s: &Session) -> Judgement {
    let answer = ask(s, "Internal", MESSAGE).await?;
    if answer.status != 500 {
        return Err(Stop::Blocked(ERROR));
    }
    if !answer.body.contains(MESSAGE) {
        return Err(Stop::Blocked("kubelet/500/runtime-error-message"));
    }
    let body = format!(
        "checkpointing of {} failed (rpc error: code = Internal desc = {MESSAGE})",
        s.subject()
    );
    judge(answer.body == body, answer.brief())
}

async fn upstream_messages(s: &Session) -> Judgement {
    let mut wrong = Vec::new();
    for (code, message) in UPSTREAM {
        let answer = ask(s, code, message).await?;
        // The first, and the status of any error, have cases of their own.
        if answer.status != 500 {
            return Err(Stop::Blocked(if code == "Unimplemented" {
                UNIMPLEMENTED
            } else {
                ERROR
            }));
        }
        if answer.body.contains(message) {
            continue;
        }
        if message == UNKNOWN_METHOD {
            return Err(Stop::Blocked(UNIMPLEMENTED_MESSAGE));
        }
        wrong.push(format!("{} for {message:?}", answer.brief()));
    }
    let seen = if wrong.is_empty() {
        format!("500 with each of {} messages", UPSTREAM.len())
    } else {
        wrong.join("; ")
    };
    judge(wrong.is_empty(), seen)
}

async fn every_code(s: &Session) -> Judgement {
    let mut wrong = Vec::new();
    for code in CODES {
        let status = ask(s, code, MESSAGE).await?.status;
        // These two have cases of their own, and a failure is to be named once.
        if status != 500 && code == "Internal" {
            return Err(Stop::Blocked(ERROR));
        }
        if status != 500 && code == "Unimplemented" {
            return Err(Stop::Blocked(UNIMPLEMENTED));
        }
        if status != 500 {
            wrong.push(format!("{status} for {code}"));
        }
    }
    let seen = if wrong.is_empty() {
        format!("500 for {} codes", CODES.len())
    } else {
        wrong.join(", ")
    };
    judge(wrong.is_empty(), seen)
}
