//! Removes Pods and containers of runs: of the current run at its end, of killed runs with `--clean`.

use cri_proto::runtime::v1::{ListContainersRequest, ListPodSandboxRequest};

use super::{CALL_TIMEOUT, RUN_LABEL, Runtime, call, connect, freeze, removal};
use crate::{cri_client::CriClient, targets::TargetError};

/// The removed objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// The containers' ids.
    pub containers: Vec<String>,
    /// The Pods' ids.
    pub pods: Vec<String>,
    /// How frozen containers were thawed before their removal.
    pub unfreeze_notes: Vec<String>,
}

/// Removes all Pods and containers with the label [`RUN_LABEL`], of every run, including frozen containers.
///
/// # Errors
/// The runtime does not respond, or an object cannot be removed. The error names the object; all others are removed.
pub async fn clean(endpoint: &str) -> Result<CleanReport, TargetError> {
    let cri = connect(endpoint)?;
    remove_by_label(&cri, &freeze::CgroupMounts::read(), None).await
}

pub(super) async fn remove_run(endpoint: &str, run: &str) -> Result<(), TargetError> {
    let removed = remove_by_label(&connect(endpoint)?, &freeze::CgroupMounts::read(), Some(run)).await;
    removed.map(drop)
}

/// Removes the objects whose label has this value; with `None`, any value.
async fn remove_by_label(
    cri: &CriClient,
    cgroups: &freeze::CgroupMounts,
    run: Option<&str>,
) -> Result<CleanReport, TargetError> {
    // Filters here: the CRI's label selector matches only a label with a value, and runtimes differ in how they apply
    // it.
    let has_run_label = |labels: &std::collections::HashMap<String, String>| {
        let value = labels.get(RUN_LABEL);
        value.is_some_and(|value| run.is_none_or(|run| run == value))
    };
    let mut report = CleanReport::default();
    let mut failures = Vec::new();
    for container in call(cri, CALL_TIMEOUT, ListContainersRequest::default())
        .await?
        .containers
    {
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
    for pod in call(cri, CALL_TIMEOUT, ListPodSandboxRequest::default()).await?.items {
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
    /// Removes all objects of this run and stops the fake-cri that the harness started for it.
    ///
    /// # Errors
    /// An object cannot be removed; the error names it. An embedded fake-cri removes its own containers, so this cannot
    /// fail there.
    pub async fn shutdown(&self) -> Result<(), TargetError> {
        if let Some(cri) = self.embedded_fake_cri.lock().await.take() {
            // `shutdown` removes the containers first.
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
