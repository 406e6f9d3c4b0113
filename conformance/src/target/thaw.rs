//! Lets the containers of a judged kubelet go that its runtime left frozen, at the end of a run.
//!
//! Not between cases: that a container was left frozen is found by a later case than the one that had it checkpointed. Only
//! processes that can be seen from here, and are proven to be the workload's by their start time: those of a fake-cri.

use std::time::Duration;

use fake_cri::process::family::Kin;

use super::{ContainerRef, Kubelet, freeze};

impl Kubelet {
    /// Lets go what was left frozen; returns what was found and done, a sentence each.
    pub async fn thaw(&self) -> Vec<String> {
        let mut told = Vec::new();
        for container in [Some(&self.subject), self.neighbours.running.as_ref()]
            .into_iter()
            .flatten()
        {
            told.extend(self.thaw_one(container).await);
        }
        told
    }

    async fn thaw_one(&self, container: &ContainerRef) -> Option<String> {
        // A kubelet that no longer answers must not hold up the end of the run.
        const ANSWER_WITHIN: Duration = Duration::from_secs(2);
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.workload(container)).await;
        let workload = asked.ok()?.ok()?;
        let pid = i32::try_from(workload.pid?).ok()?;
        let first = Kin::of(pid).ok()?;
        if workload.start != Some(first.id.start_time) {
            return None;
        }
        let held = freeze::hold(&freeze::Cgroups::look(), pid, &[])?;
        Some(match freeze::release(&held) {
            Ok(done) => format!("container {container} was left frozen: {held}; {done}"),
            Err(error) => format!("container {container} was left frozen: {held}; {error}"),
        })
    }
}
