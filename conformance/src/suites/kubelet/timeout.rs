//! The query parameter `timeout`, and the deadline that the runtime receives for it.

use std::time::Duration;

use super::session::{
    KEEPS_RUNNING_CASE, KubeletSession, LATE_ARCHIVE_TIMEOUT, OK_CASE, WHEN_DONE_CASE, describe_calls,
};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass_if},
    suites::authority,
    targets::JournaledCheckpoint,
};

const ABSENT_CASE: &str = "kubelet/timeout/absent-uses-default";
const LARGE_CASE: &str = "kubelet/timeout/above-default-applied";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/timeout/absent-uses-default", Level::Documented)
        .requirement("The kubelet must send the runtime the default CRI timeout when the request has no timeout.")
        .authority(authority::API_PARAMETERS)
        .expected("the configured default as the deadline of the call")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(absent(s))),
    case("kubelet/timeout/zero-uses-default", Level::Documented)
        .requirement("The kubelet must send the runtime the default CRI timeout when the timeout is 0.")
        .authority(authority::API_PARAMETERS)
        .expected("the configured default as the deadline of the call")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/timeout/absent-uses-default"])
        .max_archives(2)
        .run(|s| Box::pin(zero(s))),
    case("kubelet/timeout/above-default-applied", Level::Documented)
        .requirement("The kubelet must use a timeout above the default as the deadline of the call, in seconds.")
        .authority(authority::API_PARAMETERS)
        .expected("a deadline of the requested number of seconds")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(above_default(s))),
    case("kubelet/timeout/hours-applied", Level::Documented)
        .requirement("The kubelet must apply a timeout of hours, and of more seconds than 32 bits hold, unchanged.")
        .authority(authority::API_PARAMETERS)
        .motivation("large containers take hours; timeouts that wrap around or are capped end their checkpoints")
        .expected("deadlines of 3700, 7200, 100000 and 5000000000 seconds")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/timeout/above-default-applied"])
        .max_archives(4)
        .run(|s| Box::pin(hours(s))),
    case("kubelet/timeout/exact-parameter-name", Level::Reference)
        .requirement("The kubelet must ignore parameters whose names only resemble `timeout`.")
        .authority(authority::KUBELET_SERVER)
        .expected("a deadline of the default for Timeout=, TIMEOUT=, timeouts=, time_out= and timeout[]=")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/timeout/absent-uses-default"])
        .max_archives(2)
        .run(|s| Box::pin(parameter_name(s))),
    case("kubelet/timeout/cri-request-field", Level::Reference)
        .requirement("The timeout field of the CRI request must agree with the deadline of the call.")
        .authority(authority::CRI_CLIENT)
        .expected("the default without a timeout, the larger value with one")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/timeout/above-default-applied"])
        .max_archives(2)
        .run(|s| Box::pin(timeout_field(s))),
    case("kubelet/timeout/raised-to-default", Level::Reference)
        .requirement("The kubelet must replace a timeout below the default with the default.")
        .authority(authority::CRI_CLIENT)
        .motivation(
            "the API page (Parameters) states no minimum: a kubelet that applies shorter timeouts fails this \
            case only",
        )
        .expected("a deadline of the default")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/timeout/absent-uses-default"])
        .max_archives(2)
        .run(|s| Box::pin(below_default(s))),
    case("kubelet/timeout/last-value-wins", Level::Reference)
        .requirement("The kubelet must use the last value when the request has several timeouts.")
        .authority(authority::KUBELET_SERVER)
        .expected("a deadline of the last value")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&["kubelet/timeout/above-default-applied"])
        .max_archives(4)
        .run(|s| Box::pin(last_value(s))),
    case("kubelet/timeout/negative-rejected", Level::Reference)
        .requirement("The kubelet must return 500 without a call to the runtime for a negative timeout.")
        .authority(authority::CRI_CLIENT)
        .expected("500 with `CheckpointContainer requires the timeout value to be > 0`")
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(negative(s))),
    case("kubelet/timeout/malformed-rejected", Level::Reference)
        .requirement("The kubelet must return 404 for a timeout that is not a base-10 64-bit integer.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 cannot parse value of timeout parameter")
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(malformed(s))),
    case("kubelet/timeout/plus-sign-accepted", Level::Reference)
        .requirement("The kubelet must accept a timeout with a plus sign.")
        .authority(authority::KUBELET_SERVER)
        .expected("a deadline of the requested number of seconds")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[
            WHEN_DONE_CASE,
            "kubelet/timeout/above-default-applied",
            "kubelet/timeout/absent-uses-default",
        ])
        .max_archives(2)
        .run(|s| Box::pin(plus_sign(s))),
    case("kubelet/timeout/overflow-expires-at-once", Level::Reference)
        .requirement("A timeout that overflows in nanoseconds must expire at once, without a call to the runtime.")
        .authority(authority::CRI_CLIENT)
        .expected("500 with code = DeadlineExceeded")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .run(|s| Box::pin(overflow(s))),
];

/// Above every known default, and not a round number that could be a default.
const ABOVE_DEFAULT_SECS: u64 = 517;
/// How much shorter the deadline may be when it reaches the runtime.
const DEADLINE_TOLERANCE: Duration = Duration::from_millis(1500);
/// gRPC sends a timeout with at most 8 digits, so long ones in minutes or hours.
const GRPC_TIMEOUT_PRECISION: u32 = 100_000;

/// Requests a checkpoint with this query and returns the call that the runtime received.
async fn checkpoint_call(s: &KubeletSession, query: &str) -> Result<JournaledCheckpoint, NonPass> {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    let journal_position = control.journal_position().await?;
    let response = s.request(query).await?;
    let call = control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?;
    if let Some(call) = &call {
        s.kubelet.remember_archive(&call.location);
    }
    call.ok_or_else(|| NonPass::Fail(format!("{}; the runtime was not called", response.summary())))
}

fn describe_call(call: &JournaledCheckpoint) -> String {
    match call.deadline {
        Some(deadline) => format!("deadline {:.1} s, field {}", deadline.as_secs_f64(), call.timeout),
        None => format!("no deadline, field {}", call.timeout),
    }
}

fn deadline_is(call: &JournaledCheckpoint, seconds: u64) -> bool {
    let expected = Duration::from_secs(seconds);
    let rounding = expected / GRPC_TIMEOUT_PRECISION;
    let longest = expected
        + if rounding > DEADLINE_TOLERANCE {
            rounding
        } else {
            Duration::ZERO
        };
    call.deadline
        .is_some_and(|deadline| deadline <= longest && deadline + DEADLINE_TOLERANCE.max(rounding) >= expected)
}

/// The default timeout: as configured, or measured with a request without a timeout.
async fn default_timeout(s: &KubeletSession) -> Result<u64, NonPass> {
    if let Some(timeout) = s.kubelet.default_timeout {
        return Ok(timeout.as_secs());
    }
    let deadline = checkpoint_call(s, "")
        .await?
        .deadline
        .ok_or(NonPass::Blocked(ABSENT_CASE))?;
    // The remaining time on arrival is slightly less than a whole number of seconds.
    Ok(deadline.as_secs_f64().ceil() as u64)
}

async fn absent(s: &KubeletSession) -> CaseResult {
    let call = checkpoint_call(s, "").await?;
    // If the default is unknown, any whole number of seconds above zero can be the default.
    let measured = call.deadline.map(|deadline| deadline.as_secs_f64().ceil() as u64);
    let default = s.kubelet.default_timeout.map(|timeout| timeout.as_secs());
    match default.or(measured) {
        Some(default) => is_deadline_default(&call, default),
        None => fail(describe_call(&call)),
    }
}

async fn zero(s: &KubeletSession) -> CaseResult {
    let default = default_timeout(s).await?;
    is_deadline_default(&checkpoint_call(s, "timeout=0").await?, default)
}

fn is_deadline_default(call: &JournaledCheckpoint, default: u64) -> CaseResult {
    check(
        deadline_is(call, default) && default > 0,
        format!("{}; the default is {default} s", describe_call(call)),
    )
}

async fn above_default(s: &KubeletSession) -> CaseResult {
    let call = checkpoint_call(s, &format!("timeout={ABOVE_DEFAULT_SECS}")).await?;
    check(
        deadline_is(&call, ABOVE_DEFAULT_SECS),
        format!("{} for timeout={ABOVE_DEFAULT_SECS}", describe_call(&call)),
    )
}

async fn hours(s: &KubeletSession) -> CaseResult {
    let (mut deadlines, mut problems) = (Vec::new(), Vec::new());
    for seconds in [3700, 7200, 100_000, 5_000_000_000] {
        let call = checkpoint_call(s, &format!("timeout={seconds}")).await?;
        let text = format!("{} for timeout={seconds}", describe_call(&call));
        if deadline_is(&call, seconds) {
            deadlines.push(text);
        } else {
            problems.push(text);
        }
    }
    pass_if(problems.is_empty(), deadlines.join(", "), problems.join(", "))
}

async fn parameter_name(s: &KubeletSession) -> CaseResult {
    let default = default_timeout(s).await?;
    let query = "Timeout=517&TIMEOUT=518&timeouts=519&time_out=520&timeout%5B%5D=521&%20timeout=522";
    is_deadline_default(&checkpoint_call(s, query).await?, default)
}

async fn timeout_field(s: &KubeletSession) -> CaseResult {
    let without = checkpoint_call(s, "").await?;
    let with = checkpoint_call(s, &format!("timeout={ABOVE_DEFAULT_SECS}")).await?;
    if !deadline_is(&with, ABOVE_DEFAULT_SECS) {
        return Err(NonPass::Blocked(LARGE_CASE));
    }
    let agrees =
        |call: &JournaledCheckpoint| u64::try_from(call.timeout).is_ok_and(|seconds| deadline_is(call, seconds));
    check(
        agrees(&without) && agrees(&with),
        format!(
            "{} without a timeout, {} with timeout={ABOVE_DEFAULT_SECS}",
            describe_call(&without),
            describe_call(&with)
        ),
    )
}

async fn below_default(s: &KubeletSession) -> CaseResult {
    let default = default_timeout(s).await?;
    let call = checkpoint_call(s, &format!("timeout={}", default / 2)).await?;
    check(
        deadline_is(&call, default),
        format!("{} for timeout={}", describe_call(&call), default / 2),
    )
}

async fn last_value(s: &KubeletSession) -> CaseResult {
    let call = checkpoint_call(s, &format!("timeout={ABOVE_DEFAULT_SECS}")).await?;
    if !deadline_is(&call, ABOVE_DEFAULT_SECS) {
        return Err(NonPass::Blocked(LARGE_CASE));
    }
    let larger = ABOVE_DEFAULT_SECS + 100;
    let (mut deadlines, mut is_last) = (Vec::new(), true);
    for (first, last) in [(ABOVE_DEFAULT_SECS, larger), (larger, ABOVE_DEFAULT_SECS)] {
        let query = format!("timeout={first}&timeout={last}");
        let call = checkpoint_call(s, &query).await?;
        is_last &= deadline_is(&call, last);
        deadlines.push(format!("{} for {query}", describe_call(&call)));
    }
    // A malformed value decides only as the last one.
    let query = format!("timeout=soon&timeout={larger}");
    let call = checkpoint_call(s, &query).await?;
    is_last &= deadline_is(&call, larger);
    deadlines.push(format!("{} for {query}", describe_call(&call)));
    check(is_last, deadlines.join(", "))
}

async fn negative(s: &KubeletSession) -> CaseResult {
    const EXPECTED_MESSAGE: &str = "CheckpointContainer requires the timeout value to be > 0";
    s.require_endpoint().await?;
    let journal_position = s.journal_position().await?;
    let response = s.request("timeout=-1").await?;
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    let not_called = calls.is_none_or(|calls| calls.is_empty());
    let as_expected = response.status == 500 && response.body.contains(EXPECTED_MESSAGE) && not_called;
    check(as_expected, format!("{}; {called}", response.summary()))
}

async fn malformed(s: &KubeletSession) -> CaseResult {
    const EXPECTED_BODY: &str = "cannot parse value of timeout parameter";
    s.require_endpoint().await?;
    let mut problems = Vec::new();
    let values = [
        "",
        "10s",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        "1,000",
        "%2010",
        "10%20",
        "10%00",
        "-",
        "+",
        "ten",
        "true",
        // Digits of another script.
        "%EF%BC%91%EF%BC%90",
        "9223372036854775808",
        "-9223372036854775809",
    ];
    for value in values {
        let response = s.request(&format!("timeout={value}")).await?;
        if response.status != 404 || response.body != EXPECTED_BODY {
            problems.push(format!("timeout={value}: {}", response.summary()));
        }
    }
    pass_if(
        problems.is_empty(),
        format!(
            "404 cannot parse value of timeout parameter, for {} values",
            values.len()
        ),
        problems.join("; "),
    )
}

async fn plus_sign(s: &KubeletSession) -> CaseResult {
    let call = checkpoint_call(s, &format!("timeout=%2B{ABOVE_DEFAULT_SECS}")).await?;
    if deadline_is(&call, default_timeout(s).await?) {
        return Err(NonPass::Blocked(LARGE_CASE));
    }
    check(
        deadline_is(&call, ABOVE_DEFAULT_SECS),
        format!("{} for timeout=+{ABOVE_DEFAULT_SECS}", describe_call(&call)),
    )
}

async fn overflow(s: &KubeletSession) -> CaseResult {
    // Multiplied by 10^9, this value wraps around to a negative number.
    const OVERFLOWING_SECS: i64 = i64::MAX;
    s.require_checkpointable().await?;
    let journal_position = s.journal_position().await?;
    let response = s.request(&format!("timeout={OVERFLOWING_SECS}")).await?;
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    let not_called = calls.is_none_or(|calls| calls.is_empty());
    let as_expected = response.status == 500 && response.body.contains("code = DeadlineExceeded") && not_called;
    check(as_expected, format!("{}; {called}", response.summary()))
}
