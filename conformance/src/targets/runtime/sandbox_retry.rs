//! A RunPodSandbox call that exceeds its deadline and is retried, as the kubelet does.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::{ListPodSandboxRequest, PodSandboxConfig};
use tonic::Code;

use super::{CALL_TIMEOUT, Runtime, call, lifecycle::RETRY_NAMESPACE, removal};
use crate::{
    evidence::{EvidenceKind, record},
    targets::TargetError,
};

/// How long a runtime may take to clean up a RunPodSandbox call that was cancelled. The kubelet keeps retrying
/// meanwhile.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The delay of RunPodSandbox in fake-cri, which otherwise finishes before any deadline.
const FAKE_CRI_DELAY: Duration = Duration::from_millis(400);

/// The result of a RunPodSandbox call and its retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxRetry {
    /// The first call succeeded before its deadline, so there was no retry.
    FirstCallSucceeded,
    /// ListPodSandbox contains the sandbox, so the kubelet would find it.
    Listed,
    /// A retry created the sandbox.
    Created,
    /// The sandbox is neither listed nor created. The last retry's code and message.
    Failed(Code, String),
}

impl Runtime {
    /// Calls RunPodSandbox with this deadline. After a passed deadline, looks for the sandbox in ListPodSandbox and
    /// retries the call until the sandbox exists or five seconds have passed. Removes the sandbox. A fake-cri delays
    /// the call or, with `delay_response`, only its response.
    ///
    /// # Errors
    /// The first call fails for another reason, or sandboxes cannot be listed or removed.
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

    async fn find_sandbox(&self, config: &PodSandboxConfig) -> Result<Option<String>, TargetError> {
        let message = ListPodSandboxRequest::default();
        let list = call(&self.cri, CALL_TIMEOUT, message);
        let listed = list.await?.items.into_iter();
        let same_uid = listed
            .filter(|sandbox| sandbox.metadata.as_ref().map(|m| &m.uid) == config.metadata.as_ref().map(|m| &m.uid));
        Ok(same_uid.map(|sandbox| sandbox.id).next())
    }
}
