//! A Pod sandbox whose caller runs out of time, and who asks for it again as the kubelet does.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::{ListPodSandboxRequest, PodSandboxConfig};
use tonic::Code;

use super::{ANSWER_WITHIN, Runtime, call, life::RETRY_NAMESPACE, removal};
use crate::{
    exhibit::{ExhibitKind, show},
    target::TargetError,
};

/// How long a runtime may take to give up what its caller has given up: the kubelet tries again all the while.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(5);
/// How long between two tries.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long fake-cri, which is quicker than any deadline, takes for such a sandbox.
const SLOW_ON_FAKE: Duration = Duration::from_millis(400);

/// What became of a sandbox that was asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedAgain {
    /// The first call was answered in time, so that nothing was asked again.
    InTime,
    /// The runtime lists it, so that the kubelet finds it.
    Listed,
    /// It was made.
    Made,
    /// Neither: what the last try was answered.
    Refused(Code, String),
}

impl Runtime {
    /// Asks for a sandbox with this deadline, and when that has passed looks for it in the runtime's list and asks for it again,
    /// until it is there or five seconds have passed. It is removed then. fake-cri holds up the call or, with `late`, its answer.
    ///
    /// # Errors
    /// The runtime fails the first call in another way, or does not list or remove sandboxes.
    pub async fn ask_again(&self, deadline: Duration, late: bool) -> Result<AskedAgain, TargetError> {
        let point = if late { "after" } else { "before" };
        let rule = format!("RunPodSandbox(nth=1):{point}=delay({}ms)", SLOW_ON_FAKE.as_millis());
        let annotations = [(fake_cri::fault::ANNOTATION.to_owned(), rule)].into();
        let (_, config) = self.pod_config(RETRY_NAMESPACE, annotations)?;
        let came = match self.run_sandbox(&config, deadline).await {
            Ok(id) => {
                removal::remove_pod(&self.cri, &id).await?;
                AskedAgain::InTime
            }
            Err(TargetError::Runtime {
                code: Code::DeadlineExceeded | Code::Cancelled,
                ..
            }) => self.until_there(&config).await?,
            Err(error) => return Err(error),
        };
        show(ExhibitKind::Cri, || {
            format!("RunPodSandbox\ndeadline: {:.3} s\n-> {came:?}", deadline.as_secs_f64())
        });
        Ok(came)
    }

    async fn until_there(&self, config: &PodSandboxConfig) -> Result<AskedAgain, TargetError> {
        let until = Instant::now() + GIVEN_UP_WITHIN;
        loop {
            if let Some(id) = self.find_sandbox(config).await? {
                removal::remove_pod(&self.cri, &id).await?;
                return Ok(AskedAgain::Listed);
            }
            match self.run_sandbox(config, ANSWER_WITHIN).await {
                Ok(id) => {
                    removal::remove_pod(&self.cri, &id).await?;
                    return Ok(AskedAgain::Made);
                }
                Err(TargetError::Runtime { code, message, .. }) if Instant::now() >= until => {
                    return Ok(AskedAgain::Refused(code, message));
                }
                Err(TargetError::Runtime { .. }) => tokio::time::sleep(BETWEEN).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// The id under which the runtime lists a sandbox of this uid.
    async fn find_sandbox(&self, config: &PodSandboxConfig) -> Result<Option<String>, TargetError> {
        let mut client = self.cri.runtime();
        let ask = ListPodSandboxRequest::default();
        let list = call("ListPodSandbox", ANSWER_WITHIN, ask, |request| async move {
            client.list_pod_sandbox(request).await
        });
        let listed = list.await?.items.into_iter();
        let found = listed
            .filter(|sandbox| sandbox.metadata.as_ref().map(|m| &m.uid) == config.metadata.as_ref().map(|m| &m.uid));
        Ok(found.map(|sandbox| sandbox.id).next())
    }
}
