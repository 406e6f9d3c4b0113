//! A Pod sandbox whose caller runs out of time, and who asks for it again as the kubelet does.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::{ListPodSandboxRequest, PodSandboxConfig};
use tonic::Code;

use super::{CALL_TIMEOUT, Runtime, call, lifecycle::RETRY_NAMESPACE, removal};
use crate::{
    evidence::{EvidenceKind, record},
    targets::TargetError,
};

/// How long a runtime may take to give up what its caller has given up: the kubelet tries again all the while.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long fake-cri, which is quicker than any deadline, takes for such a sandbox.
const FAKE_CRI_DELAY: Duration = Duration::from_millis(400);

/// What became of a sandbox that was asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxRetry {
    /// The first call was answered in time, so that nothing was asked again.
    FirstCallSucceeded,
    /// The runtime lists it, so that the kubelet finds it.
    Listed,
    /// It was made.
    Created,
    /// Neither: what the last try was answered.
    Failed(Code, String),
}

impl Runtime {
    /// Asks for a sandbox with this deadline, and when that has passed looks for it in the runtime's list and asks for it again,
    /// until it is there or five seconds have passed. It is removed then. fake-cri holds up the call or, with `late`, its answer.
    ///
    /// # Errors
    /// The runtime fails the first call in another way, or does not list or remove sandboxes.
    pub async fn retry_run_pod_sandbox(
        &self,
        deadline: Duration,
        delay_response: bool,
    ) -> Result<SandboxRetry, TargetError> {
        let point = if delay_response { "after" } else { "before" };
        let rule = format!("RunPodSandbox(nth=1):{point}=delay({}ms)", FAKE_CRI_DELAY.as_millis());
        let annotations = [(fake_cri::fault::FAULT_ANNOTATION.to_owned(), rule)].into();
        let (_, config) = self.pod_config(RETRY_NAMESPACE, annotations)?;
        let retry = match self.run_sandbox(&config, deadline).await {
            Ok(id) => {
                removal::remove_pod(&self.cri, &id).await?;
                SandboxRetry::FirstCallSucceeded
            }
            Err(TargetError::Runtime {
                code: Code::DeadlineExceeded | Code::Cancelled,
                ..
            }) => self.retry_until_created(&config).await?,
            Err(error) => return Err(error),
        };
        record(EvidenceKind::Cri, || {
            format!("RunPodSandbox\ndeadline: {:.3} s\n-> {retry:?}", deadline.as_secs_f64())
        });
        Ok(retry)
    }

    async fn retry_until_created(&self, config: &PodSandboxConfig) -> Result<SandboxRetry, TargetError> {
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            if let Some(id) = self.find_sandbox(config).await? {
                removal::remove_pod(&self.cri, &id).await?;
                return Ok(SandboxRetry::Listed);
            }
            match self.run_sandbox(config, CALL_TIMEOUT).await {
                Ok(id) => {
                    removal::remove_pod(&self.cri, &id).await?;
                    return Ok(SandboxRetry::Created);
                }
                Err(TargetError::Runtime { code, message, .. }) if Instant::now() >= deadline => {
                    return Ok(SandboxRetry::Failed(code, message));
                }
                Err(TargetError::Runtime { .. }) => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// The id under which the runtime lists a sandbox of this uid.
    async fn find_sandbox(&self, config: &PodSandboxConfig) -> Result<Option<String>, TargetError> {
        let mut client = self.cri.runtime();
        let message = ListPodSandboxRequest::default();
        let list = call("ListPodSandbox", CALL_TIMEOUT, message, |request| async move {
            client.list_pod_sandbox(request).await
        });
        let listed = list.await?.items.into_iter();
        let same_uid = listed
            .filter(|sandbox| sandbox.metadata.as_ref().map(|m| &m.uid) == config.metadata.as_ref().map(|m| &m.uid));
        Ok(same_uid.map(|sandbox| sandbox.id).next())
    }
}
