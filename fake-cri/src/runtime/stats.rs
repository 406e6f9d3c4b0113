//! CPU time and memory of containers, as their shims count them.

use cri_proto::runtime::v1;

use super::{Container, ContainerRecord, Runtime, RuntimeError, clock::now};

/// The resource usage of a container. Usage is `None` if the container does not run.
#[derive(Clone, Debug)]
pub struct ContainerUsage {
    /// The record of the container.
    pub record: ContainerRecord,
    /// Time of the measurement, in nanoseconds since the epoch.
    pub timestamp_ns: i64,
    /// CPU time since the start, in nanoseconds, and the average rate since the last request, in nanoseconds per
    /// second.
    pub cpu_ns_and_rate: Option<(u64, u64)>,
    /// Resident memory, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Runtime {
    /// Returns the usage of one container.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::container`].
    pub async fn usage(&self, id: &str) -> Result<ContainerUsage, RuntimeError> {
        Ok(self.usage_of(&*self.container(id)?).await)
    }

    /// Returns the usage of the containers that match a filter.
    pub async fn list_usage(&self, filter: Option<&v1::ContainerStatsFilter>) -> Vec<ContainerUsage> {
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

    async fn usage_of(&self, container: &Container) -> ContainerUsage {
        let record = container.record();
        let stats = match container.shim().filter(|_| record.state.is_running()) {
            // The shim may have just exited. The container then has no usage, like an exited one.
            Some(shim) => shim.stats().await.ok(),
            None => None,
        };
        let timestamp_ns = now();
        let cpu = stats.as_ref().map(|stats| {
            let mut last_sample = container.last_cpu_sample.lock().expect("no holder of this lock panics");
            let (previous_at, previous_cpu_ns) = last_sample.unwrap_or((stats.started_at_ns, 0));
            *last_sample = Some((timestamp_ns, stats.cpu_ns));
            let elapsed = u64::try_from(timestamp_ns - previous_at).unwrap_or(0).max(1);
            let rate = u128::from(stats.cpu_ns.saturating_sub(previous_cpu_ns)) * 1_000_000_000 / u128::from(elapsed);
            (stats.cpu_ns, u64::try_from(rate).unwrap_or(u64::MAX))
        });
        ContainerUsage {
            record,
            timestamp_ns,
            cpu_ns_and_rate: cpu,
            memory_bytes: stats.map(|stats| stats.rss_bytes),
        }
    }
}
