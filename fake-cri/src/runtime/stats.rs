//! What containers use: their CPU time and memory as their shims count them.

use cri_proto::runtime::v1;

use super::{Container, Error, Record, Runtime, clock::now};

/// What a container uses. A container that does not run uses nothing that is known.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The container.
    pub record: Record,
    /// When this was asked, in nanoseconds since the epoch.
    pub at: i64,
    /// CPU time since its start, in nanoseconds, and what it used on average since the last call, in nanoseconds a second.
    pub cpu: Option<(u64, u64)>,
    /// Resident memory, in bytes.
    pub memory: Option<u64>,
}

impl Runtime {
    /// What one container uses.
    ///
    /// # Errors
    ///
    /// What finding it fails with.
    pub async fn usage(&self, id: &str) -> Result<Usage, Error> {
        Ok(self.usage_of(&*self.container(id)?).await)
    }

    /// What the containers use that a filter lets through.
    pub async fn list_usage(&self, filter: Option<&v1::ContainerStatsFilter>) -> Vec<Usage> {
        let filter = filter.cloned().unwrap_or_default();
        let records = self.list_containers(Some(&v1::ContainerFilter {
            id: filter.id,
            state: None,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        }));
        let containers = records.iter().filter_map(|record| self.container(&record.id).ok());
        let usages = containers.map(|container| async move { self.usage_of(&container).await });
        futures_util::future::join_all(usages).await
    }

    async fn usage_of(&self, container: &Container) -> Usage {
        let record = container.record();
        let stats = match container.shim().filter(|_| record.state.running()) {
            // A shim that has just ended says nothing, as one of a container that has ended.
            Some(shim) => shim.stats().await.ok(),
            None => None,
        };
        let at = now();
        let cpu = stats.as_ref().map(|stats| {
            let mut sampled = container.sampled.lock().expect("no holder of this lock panics");
            let (before, used) = sampled.unwrap_or((stats.started_at_ns, 0));
            *sampled = Some((at, stats.cpu_ns));
            let elapsed = u64::try_from(at - before).unwrap_or(0).max(1);
            let rate = u128::from(stats.cpu_ns.saturating_sub(used)) * 1_000_000_000 / u128::from(elapsed);
            (stats.cpu_ns, u64::try_from(rate).unwrap_or(u64::MAX))
        });
        Usage {
            record,
            at,
            cpu,
            memory: stats.map(|stats| stats.rss_bytes),
        }
    }
}
