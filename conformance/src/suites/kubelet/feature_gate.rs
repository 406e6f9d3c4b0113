//! Where the endpoint exists: 404 with the feature gate off, without debugging handlers and on the read-only port; 200
//! with the default of the gate.

use reqwest::Method;

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, WHEN_DONE_CASE, describe_calls};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, check},
    suites::authority,
    targets::{Credentials, HttpResponse, KubeletConfig},
};

const GATE_OFF_CASE: &str = "kubelet/feature-gate/disabled";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/feature-gate/disabled", Level::Documented)
        .requirement("The kubelet must return 404 for a checkpoint when the feature gate ContainerCheckpoint is off.")
        .authority(authority::API_RESPONSE)
        .expected("404")
        .requires(&[Capability::RestartKubelet])
        .may_depend_on(&[WHEN_DONE_CASE])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(gate_off(s))),
    case("kubelet/feature-gate/disabled-body", Level::Reference)
        .requirement("The kubelet must send the body of an unknown route when the feature gate is off.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 page not found, with a newline at the end")
        .requires(&[Capability::RestartKubelet])
        .depends_on(&["kubelet/feature-gate/disabled"])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(gate_off_body(s))),
    case("kubelet/feature-gate/disabled-before-authentication", Level::Reference)
        .requirement("The kubelet must return 404 for a request without credentials when the feature gate is off.")
        .authority(authority::KUBELET_SERVER)
        .expected("404")
        .requires(&[Capability::RestartKubelet])
        .depends_on(&["kubelet/feature-gate/disabled"])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(without_credentials(s))),
    case("kubelet/feature-gate/enabled-by-default", Level::Reference)
        .requirement(
            "The kubelet must serve checkpoints when its configuration does not set the feature gate \
            ContainerCheckpoint.",
        )
        .authority(authority::KUBE_FEATURES)
        .expected("200")
        .requires(&[Capability::RestartKubelet])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Restarting)
        .run(|s| Box::pin(gate_default(s))),
    case("kubelet/endpoint/requires-debugging-handlers", Level::Reference)
        .requirement("The kubelet must not register the endpoint when debugging handlers are disabled.")
        .authority(authority::KUBELET_SERVER)
        .expected("404 page not found with a newline at the end, with and without credentials")
        .requires(&[Capability::RestartKubelet])
        .may_depend_on(&[WHEN_DONE_CASE])
        .stage(Stage::Restarting)
        .run(|s| Box::pin(debugging_off(s))),
    case("kubelet/endpoint/absent-on-read-only-port", Level::Reference)
        .requirement("The kubelet must not serve checkpoints on the read-only port, which authenticates nobody.")
        .authority(authority::KUBELET_SERVER)
        .motivation("CVE-2025-0426: checkpoints through the read-only port filled the disk")
        .expected("404 page not found with a newline at the end, and no call to the runtime")
        .requires(&[Capability::ReadOnlyPort])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .run(|s| Box::pin(read_only_port(s))),
];

async fn checkpoint_with_gate_off(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
    s.require_endpoint().await?;
    s.require_configuration(KubeletConfig::GateOff).await?;
    Ok(s.kubelet
        .checkpoint_as(credentials, s.container_under_test(), "")
        .await?)
}

async fn gate_off(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_with_gate_off(s, Credentials::Authorized).await?;
    check(response.status == 404, response.summary())
}

async fn gate_off_body(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_with_gate_off(s, Credentials::Authorized).await?;
    if response.status != 404 {
        return Err(NonPass::Blocked(GATE_OFF_CASE));
    }
    check(response.body == "404 page not found\n", format!("{:?}", response.body))
}

async fn without_credentials(s: &KubeletSession) -> CaseResult {
    let response = checkpoint_with_gate_off(s, Credentials::Authorized).await?;
    if response.status != 404 {
        return Err(NonPass::Blocked(GATE_OFF_CASE));
    }
    let response = s
        .kubelet
        .checkpoint_as(Credentials::Anonymous, s.container_under_test(), "")
        .await?;
    check(response.status == 404, response.summary())
}

async fn gate_default(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    s.require_configuration(KubeletConfig::GateDefault).await?;
    let response = s.request("").await?;
    check(response.status == 200, response.summary())
}

/// The body of a response for a path without a handler (Go's `net/http.NotFound`).
pub(super) const NO_ROUTE_BODY: &str = "404 page not found\n";

async fn debugging_off(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    s.require_configuration(KubeletConfig::DebuggingHandlersOff).await?;
    let good = s.request("").await?;
    let none = s
        .kubelet
        .checkpoint_as(Credentials::Anonymous, s.container_under_test(), "")
        .await?;
    let as_expected = [&good, &none]
        .iter()
        .all(|response| response.status == 404 && response.body == NO_ROUTE_BODY);
    check(
        as_expected,
        format!("{} with credentials, {} without", good.summary(), none.summary()),
    )
}

async fn read_only_port(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let journal_position = s.journal_position().await?;
    let path = format!("/checkpoint/{}", s.container_under_test());
    let client = s.kubelet.client().await;
    let Some(response) = client.send_read_only(Method::POST, &path).await? else {
        return Err(NonPass::Missing(Capability::ReadOnlyPort));
    };
    s.kubelet.remember_archives(&response);
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    let as_expected =
        response.status == 404 && response.body == NO_ROUTE_BODY && calls.is_none_or(|calls| calls.is_empty());
    check(as_expected, format!("{}; {called}", response.summary()))
}
