//! What a careful operator wants, and what the kubelet promises its callers only by its code.

use std::time::Duration;

use super::{
    fault_rule,
    session::{KubeletSession, LATE_ARCHIVE_TIMEOUT, WHEN_DONE_CASE, next_second},
};
use crate::{
    engine::{Authority, Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass},
    suites::authority,
    targets::{FileSnapshot, Workload},
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/cancellation/cancels-runtime-call",
            requirement: "a client that goes away ends the call to the runtime",
            authority: authority::KUBELET,
            motivation: "",
            level: Level::Reference,
            expected: "the runtime's call is cancelled",
        },
        |s| Box::pin(client_disconnects(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/checkpoint/repeatable",
            requirement: "a container can be checkpointed again",
            authority: Authority::PROJECT,
            motivation: "containerd 2.4-beta: a second checkpoint failed after one that ran out of time",
            level: Level::Robust,
            expected: "200 again",
        },
        |s| Box::pin(second_checkpoint(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/archive-name/unique-within-a-second",
            requirement: "two checkpoints within one second do not overwrite each other",
            authority: Authority::PROJECT,
            motivation: "kubernetes#115888: two checkpoints within a second share a name",
            level: Level::Robust,
            expected: "two locations",
        },
        |s| Box::pin(names_differ(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/archive/absent-after-error",
            requirement: "after an error of the runtime nothing is left at the location",
            authority: authority::CWE_INCOMPLETE_CLEANUP,
            motivation: "containerd 2.4: a failed copy leaves a partial file behind",
            level: Level::Robust,
            expected: "no file",
        },
        |s| Box::pin(no_partial_archive(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container/keeps-running-after-error",
            requirement: "after a checkpoint that failed the container runs on as it was",
            authority: authority::KEP_FAILED,
            motivation: "containerd 2.4: a container was left frozen after a deadline, while its status said RUNNING",
            level: Level::Robust,
            expected: "the same process, and its counter moves",
        },
        |s| Box::pin(keeps_running_after_error(s)),
    ),
];

async fn client_disconnects(s: &KubeletSession) -> CaseResult {
    // The runtime would hang until the kubelet's own deadline, minutes later.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    control
        .add_rules(&[&fault_rule(s.container_under_test(), "before", "hang")])
        .await?;
    let journal_position = control.journal_position().await?;
    // The request is dropped, and its connection with it, as soon as the runtime has the call.
    let runtime_called = tokio::select! {
        response = s.kubelet.checkpoint(s.container_under_test(), "") => {
            // It did not wait for the runtime at all.
            response?;
            return Err(NonPass::Blocked(WHEN_DONE_CASE));
        }
        runtime_called = control.wait_until_fired(WAIT_TIMEOUT) => runtime_called?,
    };
    if !runtime_called {
        return fail("the runtime was not called");
    }
    match control.next_checkpoint(journal_position, WAIT_TIMEOUT).await? {
        Some(call) => check(
            call.cancelled,
            format!("the call ended with code {}, cancelled {}", call.code, call.cancelled),
        ),
        None => fail(format!("the runtime's call goes on {} s later", WAIT_TIMEOUT.as_secs())),
    }
}

async fn second_checkpoint(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    check(response.status == 200, response.summary())
}

async fn names_differ(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    // A pair that begins with a second has all of it, unless the machine stands still.
    for pair in 0..3 {
        if pair > 0 {
            next_second().await;
        }
        let one = s.checkpoint(s.container_under_test()).await?;
        let two = s.checkpoint(s.container_under_test()).await?;
        let (Some(a), Some(b)) = (&one.location, &two.location) else {
            return Err(NonPass::Skip(
                "neither body, journal nor folder says where the archives are".to_owned(),
            ));
        };
        if a == b {
            return fail(format!("both at {a}"));
        }
        if one.started.as_second() == two.ended.as_second() {
            return pass(format!("{a} and {b}"));
        }
    }
    Err(NonPass::Skip(
        "no two checkpoints were done within one second".to_owned(),
    ))
}

async fn no_partial_archive(s: &KubeletSession) -> CaseResult {
    let first = s.first_attempt().await?;
    if first.response.status != 200
        && let Some(call) = &first.runtime_call
    {
        // It failed by itself, and that is what is to be judged.
        return check_nothing_left(s, &call.location, first.response.status, &[]);
    }
    s.require_archive_file().await?;
    s.require_usable()?;
    let beside = first.location.as_deref().unwrap_or_default();
    let control = s.require_fake_cri_control()?;
    // Not at the call's beginning but when the archive is whole and about to appear.
    control
        .add_rules(&[&fault_rule(
            s.container_under_test(),
            "finish",
            "error(Internal,\"asked for\")",
        )])
        .await?;
    let journal_position = control.journal_position().await?;
    // The name holds whole seconds, so an earlier archive may be there by the same name; that one may stay.
    let before = s.archives_beside(beside);
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    match control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await? {
        Some(call) => check_nothing_left(s, &call.location, response.status, &before),
        None => fail(format!("{}, and the runtime was not called", response.summary())),
    }
}

fn check_nothing_left(s: &KubeletSession, location: &str, status: u16, before: &[FileSnapshot]) -> CaseResult {
    let Some(path) = s.local_path(location) else {
        return Err(NonPass::Skip(
            "needs the kubelet's archives: --checkpoints-dir".to_owned(),
        ));
    };
    match FileSnapshot::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => pass(format!("{status}, no file")),
        Err(error) => fail(format!("{status}, {}: {error}", path.display())),
        // Of an earlier one by the same name.
        Ok(file) if before.contains(&file) => pass(format!("{status}, no file")),
        Ok(file) => fail(format!("{status}, {} bytes at {}", file.length, path.display())),
    }
}

async fn keeps_running_after_error(s: &KubeletSession) -> CaseResult {
    const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    let before = s.kubelet.workload(s.container_under_test()).await?;
    if !before.is_test_workload() {
        return Err(NonPass::Skip(format!(
            "{} is no test workload: its log tells no heartbeats",
            s.container_under_test()
        )));
    }
    let container_under_test = s.container_under_test();
    control
        .add_rules(&[&fault_rule(
            container_under_test,
            "write",
            "error(Internal,\"asked for\")",
        )])
        .await?;
    let response = s.kubelet.checkpoint(container_under_test, "").await?;
    if response.status == 200 {
        // What a success leaves behind says nothing of an error.
        return Err(NonPass::Blocked("kubelet/runtime-error/status-code"));
    }
    let now = s.kubelet.workload(container_under_test).await?;
    let enough = |later: &Workload| !later.same_process(&before) || later.heartbeat >= now.heartbeat + 2;
    match s
        .kubelet
        .workload_until(container_under_test, WAIT_TIMEOUT, enough)
        .await?
    {
        Some(later) if later.same_process(&before) => check(
            true,
            format!(
                "{}, heartbeat {} before, {} after",
                response.status, before.heartbeat, later.heartbeat
            ),
        ),
        Some(_) => fail(format!("{}, and it is another process", response.status)),
        None => fail(format!(
            "{}, and it stands still at heartbeat {}",
            response.status, now.heartbeat
        )),
    }
}
