//! 200: a running container is checkpointed, and the response names the archive.

use std::{collections::BTreeSet, time::Duration};

use super::{
    feature_gate::NO_ROUTE_BODY,
    session::{
        KEEPS_RUNNING_CASE, KubeletAttempt, KubeletSession, LATE_ARCHIVE_TIMEOUT, NoArchive, OK_CASE, TAR_CASE,
        WHEN_DONE_CASE, first_item, memory_expectation,
    },
};
use crate::engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, check, fail, pass, skip};
use crate::{
    suites::{
        authority,
        inspection::{inspect_with, is_complete_tar},
    },
    targets::policy,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/checkpoint/succeeds", Level::Documented)
        .requirement("The kubelet must return 200 for a checkpoint of a running container.")
        .authority(authority::API_RESPONSE)
        .expected("200")
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(ok(s))),
    case("kubelet/archive/at-location", Level::Documented)
        .requirement(
            "The archive must exist at the location that the kubelet requested from the runtime when the \
            response is 200.",
        )
        .authority(authority::API_OPERATIONS)
        .expected("a regular file at the location")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(archive_exists(s))),
    case("kubelet/response/body", Level::Reference)
        .requirement(
            "The body of a 200 must be a JSON object whose `items` lists the location of the archive, without \
            a newline at the end.",
        )
        .authority(authority::KUBELET_SERVER)
        .expected(r#"{"items":["<location>"]}"#)
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(response_body(s))),
    case("kubelet/response/location-as-requested", Level::Reference)
        .requirement("The location in the response body must be the location that the kubelet sent to the runtime.")
        .authority(authority::KUBELET_SERVER)
        .expected("the location in the CRI request")
        .depends_on(&[OK_CASE])
        .may_depend_on(&["kubelet/response/body"])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(body_location(s))),
    case("kubelet/response/content-type", Level::Reference)
        .requirement("The content type of a 200 must be application/json.")
        .authority(authority::KUBELET_SERVER)
        .expected("application/json")
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(content_type(s))),
    case("kubelet/checkpoint/waits-for-runtime", Level::Documented)
        .requirement("The kubelet must not respond before the runtime has finished the checkpoint.")
        .authority(authority::API_PARAMETERS)
        .expected("200 after the runtime has finished")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .max_archives(1)
        .stage(Stage::Early)
        .run(|s| Box::pin(waits_for_runtime(s))),
    case("kubelet/checkpoint/named-container-only", Level::Documented)
        .requirement("The kubelet must checkpoint the container that the path names, and no other container.")
        .authority(authority::API_OPERATIONS)
        .expected("a call for the named container, or its canary in the archive")
        .requires(&[Capability::SiblingContainer])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, TAR_CASE])
        .max_archives(1)
        .stage(Stage::Early)
        .run(|s| Box::pin(named_container(s))),
    case("kubelet/checkpoint/named-pod-only", Level::Documented)
        .requirement("The kubelet must checkpoint the container of the Pod and the namespace that the path names.")
        .authority(authority::API_OPERATIONS)
        .motivation("a lookup by the container's name alone writes the memory of another Pod, of another namespace")
        .expected("a call for another container for each of three Pods, and the canary of each in its archive")
        .requires(&[Capability::FakeCriControl, Capability::NamesakePods])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, TAR_CASE])
        .max_archives(3)
        .run(|s| Box::pin(named_pod(s))),
];

async fn ok(s: &KubeletSession) -> CaseResult {
    let first = s.first_attempt().await?;
    if first.response.status == 500 && policy::is_checkpoint_disabled(&first.response.body) {
        return Err(NonPass::Policy(first.response.summary()));
    }
    let mut actual = first.response.summary();
    if first.response.status == 404 && first.response.body == NO_ROUTE_BODY {
        actual
            .push_str("; the endpoint does not exist: is the feature gate ContainerCheckpoint of the kubelet enabled?");
    }
    check(first.response.status == 200, actual)
}

async fn archive_exists(s: &KubeletSession) -> CaseResult {
    match &s.first_checkpoint_ok().await?.file {
        Ok(file) => pass(format!("{} bytes at {}", file.length, file.path.display())),
        Err(NoArchive::NotFound(reason)) => fail(reason.clone()),
        Err(NoArchive::NotAccessible) => Err(NonPass::Missing(Capability::ReadArchives)),
    }
}

async fn waits_for_runtime(s: &KubeletSession) -> CaseResult {
    // Long enough to distinguish the delay from scheduling latency, short enough to keep the run fast.
    const RUNTIME_DELAY: Duration = Duration::from_millis(300);
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    control
        .inject(s.container_under_test(), "before", "delay(300ms)")
        .await?;
    let journal_position = control.journal_position().await?;
    let started = std::time::Instant::now();
    let response = s.request("").await?;
    let took = started.elapsed();
    let actual = format!(
        "{} after {} ms, the runtime delayed its response by {} ms",
        response.status,
        took.as_millis(),
        RUNTIME_DELAY.as_millis()
    );
    if took < RUNTIME_DELAY {
        s.mark_unusable(WHEN_DONE_CASE);
        // Waits for the call that is still in progress, so that no later case mistakes that call for its own.
        control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?;
    }
    check(response.status == 200 && took >= RUNTIME_DELAY, actual)
}

async fn named_container(s: &KubeletSession) -> CaseResult {
    let other = s.require_sibling(Capability::SiblingContainer)?;
    let first = s.require_checkpointable().await?;
    let second = s.checkpoint(other).await?;
    if second.response.status != 200 {
        return fail(second.response.summary());
    }
    if let (Some(one), Some(two)) = (&first.runtime_call, &second.runtime_call) {
        let differ = one.container_id != two.container_id;
        let actual = format!(
            "{} for {}, {} for {other}",
            one.container_id,
            s.container_under_test(),
            two.container_id
        );
        return check(differ, actual);
    }
    contains_own_canary(second).await
}

async fn named_pod(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let namesakes = s.kubelet.namesakes.as_ref();
    let namesakes = namesakes.ok_or(NonPass::Missing(Capability::NamesakePods))?;
    // The namesakes first: a kubelet that finds the container of the first Pod finds a wrong one in either order.
    let containers = [
        &namesakes.other_namespace,
        &namesakes.other_pod,
        s.container_under_test(),
    ];
    let mut ids = Vec::new();
    for container in containers {
        let attempt = s.checkpoint(container).await?;
        let Some(call) = &attempt.runtime_call else {
            return fail(format!(
                "{} for {container}; the runtime was not called",
                attempt.response.summary()
            ));
        };
        ids.push(format!("{} for {container}", call.container_id));
        let own_canary = match &attempt.file {
            Ok(_) => contains_own_canary(attempt).await.map(drop),
            Err(_) => Ok(()),
        };
        match own_canary {
            Err(NonPass::Fail(actual)) => return fail(format!("{container}: {actual}")),
            Err(other) if !matches!(other, NonPass::Skip(_)) => return Err(other),
            _ => {}
        }
    }
    let distinct: BTreeSet<_> = ids.iter().filter_map(|id| id.split(' ').next()).collect();
    check(distinct.len() == containers.len(), ids.join(", "))
}

async fn contains_own_canary(second: KubeletAttempt) -> CaseResult {
    let (Ok(file), Some(canary)) = (second.file, second.workload.canary) else {
        return skip("requires the runtime's journal, or the archive and the canary of a test workload");
    };
    let archive = inspect_with(&file.path, memory_expectation(Some(canary))).await?;
    if !is_complete_tar(&archive) {
        return Err(NonPass::Blocked(TAR_CASE));
    }
    if !archive.is_criu() {
        return skip("requires an archive in CRIU's format");
    }
    let page_match = archive.memory.flatten();
    check(
        page_match.is_some(),
        format!("canary of the named container: {page_match:?}"),
    )
}

async fn response_body(s: &KubeletSession) -> CaseResult {
    let first = s.first_checkpoint_ok().await?;
    let actual = format!("{:?}", first.response.body);
    let Some(item) = first_item(&first.response) else {
        return fail(actual);
    };
    let exact = serde_json::json!({ "items": [item] }).to_string();
    check(first.response.body == exact, actual)
}

async fn body_location(s: &KubeletSession) -> CaseResult {
    let first = s.first_checkpoint_ok().await?;
    let item = first_item(&first.response).ok_or(NonPass::Blocked("kubelet/response/body"))?;
    match &first.runtime_call {
        Some(call) => check(
            item == call.location,
            format!("{item}; the runtime received {}", call.location),
        ),
        None => match &first.file {
            Ok(file) => pass(format!("{item}, found as {}", file.path.display())),
            Err(NoArchive::NotFound(reason)) => fail(reason.clone()),
            // With a journal, this case does not need the archive, so it does not require the capability.
            Err(NoArchive::NotAccessible) => skip(Capability::ReadArchives.reason()),
        },
    }
}

async fn content_type(s: &KubeletSession) -> CaseResult {
    let actual = s.first_checkpoint_ok().await?.response.header("content-type");
    check(actual == "application/json", actual)
}
