//! Removes what runs have left in a runtime: this one at its end, or killed ones by `--clean`.

use cri_proto::runtime::v1::{ListContainersRequest, ListPodSandboxRequest};

use super::{ANSWER_WITHIN, Cri, RUN_LABEL, Runtime, call, freeze, removal};
use crate::target::TargetError;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Containers, by id.
    pub containers: Vec<String>,
    /// Pods, by id.
    pub pods: Vec<String>,
    /// How those were let go that were found frozen.
    pub thawed: Vec<String>,
}

/// Removes all Pods and containers that carry [`RUN_LABEL`], of whichever run, those that are frozen as well.
///
/// # Errors
/// The runtime does not answer, or does not remove something: that is named, and the rest is removed all the same.
pub async fn clean(endpoint: &str) -> Result<Cleaned, TargetError> {
    let cri = Cri::new(endpoint)?;
    remove_labelled(&cri, &freeze::Cgroups::look(), None).await
}

/// Removes what one run has made.
pub(super) async fn remove_run(endpoint: &str, run: &str) -> Result<(), TargetError> {
    let removed = remove_labelled(&Cri::new(endpoint)?, &freeze::Cgroups::look(), Some(run)).await;
    removed.map(drop)
}

/// Removes what carries the label, with this value or with any.
async fn remove_labelled(cri: &Cri, cgroups: &freeze::Cgroups, run: Option<&str>) -> Result<Cleaned, TargetError> {
    // By hand rather than by the CRI's selector: that takes no label without its value, and runtimes differ in it.
    let ours = |labels: &std::collections::HashMap<String, String>| {
        let value = labels.get(RUN_LABEL);
        value.is_some_and(|value| run.is_none_or(|run| run == value))
    };
    let mut cleaned = Cleaned::default();
    let mut left = Vec::new();

    let mut client = cri.runtime();
    let ask = ListContainersRequest::default();
    let list = call("ListContainers", ANSWER_WITHIN, ask, |request| async move {
        client.list_containers(request).await
    });
    for container in list.await?.containers {
        if !ours(&container.labels) {
            continue;
        }
        match removal::remove_container(cri, cgroups, &container.id).await {
            Ok(thawed) => {
                cleaned.thawed.extend(thawed);
                cleaned.containers.push(container.id);
            }
            Err(error) => left.push(format!("container {}: {error}", container.id)),
        }
    }
    let mut client = cri.runtime();
    let ask = ListPodSandboxRequest::default();
    let list = call("ListPodSandbox", ANSWER_WITHIN, ask, |request| async move {
        client.list_pod_sandbox(request).await
    });
    for pod in list.await?.items {
        if !ours(&pod.labels) {
            continue;
        }
        match removal::remove_pod(cri, &pod.id).await {
            Ok(()) => cleaned.pods.push(pod.id),
            Err(error) => left.push(format!("pod {}: {error}", pod.id)),
        }
    }
    if left.is_empty() {
        return Ok(cleaned);
    }
    Err(TargetError::NotReady(format!("failed to remove {}", left.join("; "))))
}

impl Runtime {
    /// Removes everything of this run, and ends the fake-cri that was started for it.
    ///
    /// # Errors
    /// Something could not be removed; it is named. A fake-cri of ours is ended all the same, with all it has.
    pub async fn shutdown(&self) -> Result<(), TargetError> {
        if let Some(cri) = self.embedded.lock().await.take() {
            // It removes its containers, then ends.
            cri.shutdown().await;
            return Ok(());
        }
        if let Some(faults) = &self.faults {
            faults.clear().await?;
        }
        let cleaned = remove_labelled(&self.cri, &self.cgroups, Some(&self.run)).await?;
        let mut thawed = self.thawed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        thawed.extend(cleaned.thawed);
        Ok(())
    }
}
