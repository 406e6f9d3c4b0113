//! Removes what runs have left in a runtime: this one at its end, or killed ones by `--clean`.

use cri_proto::runtime::v1::{ListContainersRequest, ListPodSandboxRequest};

use super::{CALL_TIMEOUT, CriClient, RUN_LABEL, Runtime, call, freeze, removal};
use crate::targets::TargetError;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Containers, by id.
    pub containers: Vec<String>,
    /// Pods, by id.
    pub pods: Vec<String>,
    /// How those were let go that were found frozen.
    pub unfreeze_notes: Vec<String>,
}

/// Removes all Pods and containers that carry [`RUN_LABEL`], of whichever run, those that are frozen as well.
///
/// # Errors
/// The runtime does not answer, or does not remove something: that is named, and the rest is removed all the same.
pub async fn clean(endpoint: &str) -> Result<CleanReport, TargetError> {
    let cri = CriClient::new(endpoint)?;
    remove_by_label(&cri, &freeze::CgroupMounts::read(), None).await
}

/// Removes what one run has made.
pub(super) async fn remove_run(endpoint: &str, run: &str) -> Result<(), TargetError> {
    let removed = remove_by_label(&CriClient::new(endpoint)?, &freeze::CgroupMounts::read(), Some(run)).await;
    removed.map(drop)
}

/// Removes what carries the label, with this value or with any.
async fn remove_by_label(
    cri: &CriClient,
    cgroups: &freeze::CgroupMounts,
    run: Option<&str>,
) -> Result<CleanReport, TargetError> {
    // By hand rather than by the CRI's selector: that takes no label without its value, and runtimes differ in it.
    let has_run_label = |labels: &std::collections::HashMap<String, String>| {
        let value = labels.get(RUN_LABEL);
        value.is_some_and(|value| run.is_none_or(|run| run == value))
    };
    let mut report = CleanReport::default();
    let mut failures = Vec::new();

    let mut client = cri.runtime();
    let message = ListContainersRequest::default();
    let list = call("ListContainers", CALL_TIMEOUT, message, |request| async move {
        client.list_containers(request).await
    });
    for container in list.await?.containers {
        if !has_run_label(&container.labels) {
            continue;
        }
        match removal::remove_container(cri, cgroups, &container.id).await {
            Ok(unfreeze_notes) => {
                report.unfreeze_notes.extend(unfreeze_notes);
                report.containers.push(container.id);
            }
            Err(error) => failures.push(format!("container {}: {error}", container.id)),
        }
    }
    let mut client = cri.runtime();
    let message = ListPodSandboxRequest::default();
    let list = call("ListPodSandbox", CALL_TIMEOUT, message, |request| async move {
        client.list_pod_sandbox(request).await
    });
    for pod in list.await?.items {
        if !has_run_label(&pod.labels) {
            continue;
        }
        match removal::remove_pod(cri, &pod.id).await {
            Ok(()) => report.pods.push(pod.id),
            Err(error) => failures.push(format!("pod {}: {error}", pod.id)),
        }
    }
    if failures.is_empty() {
        return Ok(report);
    }
    Err(TargetError::NotReady(format!(
        "failed to remove {}",
        failures.join("; ")
    )))
}

impl Runtime {
    /// Removes everything of this run, and ends the fake-cri that was started for it.
    ///
    /// # Errors
    /// Something could not be removed; it is named. A fake-cri of ours is ended all the same, with all it has.
    pub async fn shutdown(&self) -> Result<(), TargetError> {
        if let Some(cri) = self.embedded_fake_cri.lock().await.take() {
            // It removes its containers, then ends.
            cri.shutdown().await;
            return Ok(());
        }
        if let Some(fake_cri) = &self.fake_cri {
            fake_cri.clear_rules().await?;
        }
        let report = remove_by_label(&self.cri, &self.cgroups, Some(&self.run_id)).await?;
        let mut unfreeze_notes = self
            .unfreeze_notes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        unfreeze_notes.extend(report.unfreeze_notes);
        Ok(())
    }
}
