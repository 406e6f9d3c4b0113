//! Robustness: properties that an operator expects, and behaviour that only the kubelet's code defines.

use std::time::Duration;

use super::session::{
    ARCHIVE_CASE, KEEPS_RUNNING_CASE, KubeletSession, LATE_ARCHIVE_TIMEOUT, WHEN_DONE_CASE, next_second,
};
use crate::{
    engine::{Authority, Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass, skip},
    suites::authority,
    targets::{FileSnapshot, Workload},
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/cancellation/cancels-runtime-call", Level::Reference)
        .requirement("The kubelet must cancel the call to the runtime when the client disconnects.")
        .authority(authority::KUBELET)
        .expected("the runtime's call is cancelled")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(client_disconnects(s))),
    case("kubelet/checkpoint/repeatable", Level::Robust)
        .requirement("A container must be checkpointable again after a checkpoint.")
        .authority(Authority::PROJECT)
        .motivation("containerd 2.4-beta: a second checkpoint failed after a checkpoint that exceeded its deadline")
        .expected("200 for the second checkpoint")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(second_checkpoint(s))),
    case("kubelet/archive-name/unique-within-a-second", Level::Robust)
        .requirement("Two checkpoints within one second must not overwrite each other.")
        .authority(Authority::PROJECT)
        .motivation("kubernetes#115888: two checkpoints within one second get the same name")
        .expected("two different locations")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(6)
        .run(|s| Box::pin(names_differ(s))),
    case("kubelet/archive/absent-after-error", Level::Robust)
        .requirement("No file must remain at the location after an error of the runtime.")
        .authority(authority::CWE_INCOMPLETE_CLEANUP)
        .motivation("containerd 2.4: a failed copy leaves a partial file")
        .expected("no file")
        .requires(&[Capability::FakeCriControl, Capability::ReadArchives])
        .may_depend_on(&[ARCHIVE_CASE, WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(no_partial_archive(s))),
    case("kubelet/container/keeps-running-after-error", Level::Robust)
        .requirement("The container must keep running as the same process after a failed checkpoint.")
        .authority(authority::KEP_FAILED)
        .motivation(
            "containerd 2.4: a container stayed frozen after a deadline, while its status was \
            CONTAINER_RUNNING",
        )
        .expected("same process, and a later heartbeat")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/runtime-error/status-code"])
        .run(|s| Box::pin(keeps_running_after_error(s))),
];

async fn client_disconnects(s: &KubeletSession) -> CaseResult {
    // Without cancellation the runtime would hang until the kubelet's own deadline, minutes later.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    control.inject(s.container_under_test(), "before", "hang").await?;
    let journal_position = control.journal_position().await?;
    // As soon as the runtime has the call, the request is dropped together with its connection.
    let runtime_called = tokio::select! {
        response = s.request("") => {
            // The kubelet did not wait for the runtime.
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
            format!("the call ended with code {}, cancelled: {}", call.code, call.cancelled),
        ),
        None => fail(format!(
            "the runtime's call has not ended after {} s",
            WAIT_TIMEOUT.as_secs()
        )),
    }
}

async fn second_checkpoint(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let response = s.request("").await?;
    check(response.status == 200, response.summary())
}

async fn names_differ(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    // After next_second() the pair has a whole second, unless the machine stalls.
    for pair in 0..3 {
        if pair > 0 {
            next_second().await;
        }
        let one = s.checkpoint(s.container_under_test()).await?;
        let two = s.checkpoint(s.container_under_test()).await?;
        let (Some(a), Some(b)) = (&one.location, &two.location) else {
            return skip("requires a body, a journal or a checkpoints directory that names the archives");
        };
        if a == b {
            return fail(format!("both at {a}"));
        }
        if one.started.as_second() == two.ended.as_second() {
            return pass(format!("{a} and {b}"));
        }
    }
    skip("requires two checkpoints within one second: the checkpoints took longer")
}

async fn no_partial_archive(s: &KubeletSession) -> CaseResult {
    let first = s.first_attempt().await?;
    if first.response.status != 200
        && let Some(call) = &first.runtime_call
    {
        // The first checkpoint failed without an injected fault. This case checks what remains at its location.
        return check_nothing_left(s, &call.location, first.response.status, &[]);
    }
    s.require_archive_file().await?;
    s.require_usable()?;
    let beside = first.location.as_deref().unwrap_or_default();
    let control = s.require_fake_cri_control()?;
    // The fault acts when the archive is complete and about to appear, not at the start of the call.
    control
        .inject(s.container_under_test(), "finish", "error(Internal,\"injected\")")
        .await?;
    let journal_position = control.journal_position().await?;
    // The timestamp has a resolution of one second, so an earlier archive may have the same name. That archive may
    // remain.
    let before = s.archives_beside(beside);
    let response = s.request("").await?;
    match control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await? {
        Some(call) => check_nothing_left(s, &call.location, response.status, &before),
        None => fail(format!("{}; the runtime was not called", response.summary())),
    }
}

fn check_nothing_left(s: &KubeletSession, location: &str, status: u16, before: &[FileSnapshot]) -> CaseResult {
    let Some(path) = s.local_path(location) else {
        return Err(NonPass::Missing(Capability::ReadArchives));
    };
    match FileSnapshot::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => pass(format!("{status}, no file")),
        Err(error) => fail(format!("{status}, {}: {error}", path.display())),
        // An earlier archive with the same name.
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
        return skip(format!(
            "requires a test workload: the log of {} has no heartbeats",
            s.container_under_test()
        ));
    }
    let container_under_test = s.container_under_test();
    control
        .inject(container_under_test, "write", "error(Internal,\"injected\")")
        .await?;
    let response = s.kubelet.checkpoint(container_under_test, "").await?;
    if response.status == 200 {
        // The state after a success proves nothing about the state after an error.
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
        Some(_) => fail(format!("{}, different process", response.status)),
        None => fail(format!(
            "{}, no heartbeat after heartbeat {}",
            response.status, now.heartbeat
        )),
    }
}
