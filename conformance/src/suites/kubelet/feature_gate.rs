//! Where the endpoint is served and where it is not: 404 with the feature gate off, without debugging handlers, on the
//! read-only port; 200 where the gate is left alone.

use reqwest::Method;

use super::session::{KubeletSession, describe_calls};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check},
    suites::authority,
    targets::{Credentials, HttpResponse, KubeletConfig},
};

const GATE_OFF_CASE: &str = "kubelet/feature-gate/disabled";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: GATE_OFF_CASE,
            requirement: "with the feature gate ContainerCheckpoint off a checkpoint is answered 404",
            authority: authority::API_RESPONSE,
            motivation: "",
            level: Level::Documented,
            expected: "404",
        },
        |s| Box::pin(gate_off(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/feature-gate/disabled-body",
            requirement: "with the gate off there is no such route, so its 404 is that of any unknown path",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 page not found and a newline",
        },
        |s| Box::pin(gate_off_body(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/feature-gate/disabled-before-authentication",
            requirement: "with the gate off there is nothing to authenticate for: no credentials, 404 as well",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404",
        },
        |s| Box::pin(without_credentials(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/feature-gate/enabled-by-default",
            requirement: "a kubelet whose configuration does not name the feature gate ContainerCheckpoint serves checkpoints",
            authority: authority::KUBE_FEATURES,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(gate_default(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/endpoint/requires-debugging-handlers",
            requirement: "without debugging handlers there is no such route",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "404 page not found and a newline, with credentials and without",
        },
        |s| Box::pin(debugging_off(s)),
    ),
];

/// What needs no restart.
pub(super) const READ_ONLY_PORT_CASES: &[Case<KubeletSession>] = &[Case::new(
    CaseInfo {
        id: "kubelet/endpoint/absent-on-read-only-port",
        requirement: "the port that asks nobody who they are has no checkpoints",
        authority: authority::KUBELET_SERVER,
        motivation: "CVE-2025-0426: checkpoints through the read-only port filled the disk",
        level: Level::Reference,
        expected: "404 page not found and a newline, and the runtime is not called",
    },
    |s| Box::pin(read_only_port(s)),
)];

/// Sees to it that the kubelet runs with one thing changed; the runner puts it back for cases that build on the usual configuration.
async fn require_configuration(s: &KubeletSession, variation: KubeletConfig) -> Result<(), NonPass> {
    s.require_endpoint().await?;
    s.require_usable()?;
    match s.kubelet.configure(variation).await {
        Some(configured) => Ok(configured?),
        None => Err(NonPass::Skip(
            "needs a kubelet that can be started again with another configuration".to_owned(),
        )),
    }
}

async fn checkpoint_with_gate_off(s: &KubeletSession, credentials: Credentials) -> Result<HttpResponse, NonPass> {
    require_configuration(s, KubeletConfig::GateOff).await?;
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
    require_configuration(s, KubeletConfig::GateDefault).await?;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    check(response.status == 200, response.summary())
}

const NO_ROUTE_BODY: &str = "404 page not found\n";

async fn debugging_off(s: &KubeletSession) -> CaseResult {
    require_configuration(s, KubeletConfig::DebuggingHandlersOff).await?;
    let good = s.kubelet.checkpoint(s.container_under_test(), "").await?;
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
        return Err(NonPass::Skip("needs a kubelet with a read-only port".to_owned()));
    };
    s.kubelet.remember_archives(&response);
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    let as_expected =
        response.status == 404 && response.body == NO_ROUTE_BODY && calls.is_none_or(|calls| calls.is_empty());
    check(as_expected, format!("{}; {called}", response.summary()))
}
