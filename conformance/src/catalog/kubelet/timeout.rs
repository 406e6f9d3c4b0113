//! The query's `timeout`: what the runtime is sent for it.

use std::time::Duration;

use super::session::{LATE, Session, described};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, judge},
    catalog::authority,
    target::Call,
};

const ABSENT: &str = "kubelet/timeout/absent";
const LARGE: &str = "kubelet/timeout/large";

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: ABSENT,
            clause: "without a timeout the runtime is sent the default CRI timeout",
            authority: authority::PARAMETERS,
            motivation: "",
            level: Level::Documented,
            expected: "the configured default, as the call's deadline",
        },
        |s| Box::pin(is_default(s, "")),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/zero",
            clause: "with timeout=0 the runtime is sent the default CRI timeout",
            authority: authority::PARAMETERS,
            motivation: "",
            level: Level::Documented,
            expected: "the configured default, as the call's deadline",
        },
        |s| Box::pin(is_default(s, "timeout=0")),
    ),
    Case::new(
        Clause {
            id: LARGE,
            clause: "a timeout is seconds to wait: one above the default is the call's deadline",
            authority: authority::PARAMETERS,
            motivation: "",
            level: Level::Documented,
            expected: "a deadline of that many seconds",
        },
        |s| Box::pin(large(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/field",
            clause: "the CRI request's own timeout field says the same as the call's deadline",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "default without a timeout, the larger value with one",
        },
        |s| Box::pin(field(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/below-default",
            clause: "the kubelet must send the runtime its default timeout in place of a shorter one",
            authority: authority::CRI_CLIENT,
            motivation: "the page (Parameters) has no such minimum: a kubelet that honours shorter timeouts fails here alone",
            level: Level::Reference,
            expected: "a deadline of the default",
        },
        |s| Box::pin(below_default(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/last-value",
            clause: "of several timeouts the last one counts",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "the last value",
        },
        |s| Box::pin(last_value(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/negative",
            clause: "a negative timeout is answered 500 and the runtime is not called",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with `CheckpointContainer requires the timeout value to be > 0`",
        },
        |s| Box::pin(negative(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/malformed",
            clause: "a timeout that is no base-10 64-bit integer is answered 404",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 cannot parse value of timeout parameter",
        },
        |s| Box::pin(malformed(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/signed",
            clause: "a timeout may have a plus sign",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "a deadline of that many seconds",
        },
        |s| Box::pin(signed(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/timeout/overflow",
            clause: "a timeout whose nanoseconds do not fit has passed at once, and the runtime is not asked",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with code = DeadlineExceeded",
        },
        |s| Box::pin(overflow(s)),
    ),
];

/// Above every default there is, and no round number that a default might be.
const MANY: u64 = 517;
/// What a deadline loses between the kubelet's clock and the runtime's.
const SLACK: Duration = Duration::from_secs(2);

/// Asks with this query; returns what the runtime was sent.
async fn sent(s: &Session, query: &str) -> Result<Call, Stop> {
    s.again().await?;
    let faults = s.faults()?;
    let mark = faults.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), query).await?;
    let call = faults.next_checkpoint(mark, LATE).await?;
    if let Some(call) = &call {
        s.kubelet.remember(&call.location);
    }
    call.ok_or_else(|| Stop::Fail(format!("{}, and the runtime was not called", answer.brief())))
}

fn describe(call: &Call) -> String {
    match call.deadline {
        Some(deadline) => format!("deadline {:.1} s, field {}", deadline.as_secs_f64(), call.timeout),
        None => format!("no deadline, field {}", call.timeout),
    }
}

fn deadline_is(call: &Call, seconds: u64) -> bool {
    let expected = Duration::from_secs(seconds);
    call.deadline
        .is_some_and(|deadline| deadline <= expected && expected - deadline <= SLACK)
}

/// The default: as configured, or as the runtime is sent it without a timeout.
async fn default(s: &Session) -> Result<u64, Stop> {
    if let Some(timeout) = s.kubelet.default_timeout {
        return Ok(timeout.as_secs());
    }
    let deadline = sent(s, "").await?.deadline.ok_or(Stop::Blocked(ABSENT))?;
    // What is left of it when it arrives is a little less than a whole number of seconds.
    Ok(deadline.as_secs_f64().ceil() as u64)
}

async fn is_default(s: &Session, query: &str) -> Judgement {
    let default = default(s).await?;
    let call = sent(s, query).await?;
    judge(
        deadline_is(&call, default) && default > 0,
        format!("{}; the default is {default} s", describe(&call)),
    )
}

async fn large(s: &Session) -> Judgement {
    let call = sent(s, &format!("timeout={MANY}")).await?;
    judge(
        deadline_is(&call, MANY),
        format!("{} for timeout={MANY}", describe(&call)),
    )
}

async fn field(s: &Session) -> Judgement {
    let without = sent(s, "").await?;
    let with = sent(s, &format!("timeout={MANY}")).await?;
    if !deadline_is(&with, MANY) {
        return Err(Stop::Blocked(LARGE));
    }
    let agrees = |call: &Call| u64::try_from(call.timeout).is_ok_and(|seconds| deadline_is(call, seconds));
    judge(
        agrees(&without) && agrees(&with),
        format!(
            "{} without, {} with timeout={MANY}",
            describe(&without),
            describe(&with)
        ),
    )
}

async fn below_default(s: &Session) -> Judgement {
    let default = default(s).await?;
    let call = sent(s, &format!("timeout={}", default / 2)).await?;
    judge(
        deadline_is(&call, default),
        format!("{} for timeout={}", describe(&call), default / 2),
    )
}

async fn last_value(s: &Session) -> Judgement {
    let call = sent(s, &format!("timeout={MANY}")).await?;
    if !deadline_is(&call, MANY) {
        return Err(Stop::Blocked(LARGE));
    }
    let last = MANY + 100;
    let call = sent(s, &format!("timeout={MANY}&timeout={last}")).await?;
    judge(
        deadline_is(&call, last),
        format!("{} for timeout={MANY}&timeout={last}", describe(&call)),
    )
}

async fn negative(s: &Session) -> Judgement {
    const MESSAGE: &str = "CheckpointContainer requires the timeout value to be > 0";
    s.served().await?;
    let mark = s.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), "timeout=-1").await?;
    let calls = s.calls_after(mark).await?;
    let called = described(&calls);
    let unasked = calls.is_none_or(|calls| calls.is_empty());
    let holds = answer.status == 500 && answer.body.contains(MESSAGE) && unasked;
    judge(holds, format!("{}; {called}", answer.brief()))
}

async fn malformed(s: &Session) -> Judgement {
    const BODY: &str = "cannot parse value of timeout parameter";
    s.served().await?;
    let mut wrong = Vec::new();
    let values = ["", "10s", "1.5", "0x10", "%2010", "ten", "9223372036854775808"];
    for value in values {
        let answer = s.kubelet.checkpoint(s.subject(), &format!("timeout={value}")).await?;
        if answer.status != 404 || answer.body != BODY {
            wrong.push(format!("timeout={value}: {}", answer.brief()));
        }
    }
    let seen = if wrong.is_empty() {
        format!("so for {} values", values.len())
    } else {
        wrong.join("; ")
    };
    judge(wrong.is_empty(), seen)
}

async fn signed(s: &Session) -> Judgement {
    let call = sent(s, &format!("timeout=%2B{MANY}")).await?;
    if deadline_is(&call, default(s).await?) {
        return Err(Stop::Blocked(LARGE));
    }
    judge(
        deadline_is(&call, MANY),
        format!("{} for timeout=+{MANY}", describe(&call)),
    )
}

async fn overflow(s: &Session) -> Judgement {
    // Times ten to the ninth it wraps around to a negative number.
    const HUGE: i64 = i64::MAX;
    s.again().await?;
    let mark = s.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), &format!("timeout={HUGE}")).await?;
    let calls = s.calls_after(mark).await?;
    let called = described(&calls);
    let unasked = calls.is_none_or(|calls| calls.is_empty());
    let holds = answer.status == 500 && answer.body.contains("code = DeadlineExceeded") && unasked;
    judge(holds, format!("{}; {called}", answer.brief()))
}
