//! Estimates the disk space that a run needs on a kubelet's node, and the free space there: from the kubelet's stats,
//! and from the file system of the checkpoints directory if it is readable locally.

use serde_json::Value;

use super::{ContainerRef, Kubelet, SiblingContainers};
use crate::report::Footprint;

impl Kubelet {
    /// The footprint of at most `archives` archives. Without archives only the container under test is listed.
    pub async fn footprint(&self, archives: u64) -> Footprint {
        let mut containers = vec![self.container_under_test.to_string()];
        if archives > 0 {
            let SiblingContainers {
                running,
                exited: _,
                init: _,
                sidecar,
                ephemeral,
                restarting: _,
                created: _,
            } = &self.siblings;
            // Checkpoints of terminated containers fail and leave no archive.
            let siblings = [running, sidecar, ephemeral].into_iter().flatten();
            containers.extend(siblings.map(ToString::to_string));
        }
        let summary = self.summary().await;
        let bytes_per_archive = summary
            .as_ref()
            .and_then(|summary| container_memory(summary, &self.container_under_test));
        let on_disk = self.checkpoints_dir.as_ref().and_then(|directory| {
            let disk = nix::sys::statvfs::statvfs(directory).ok()?;
            Some(disk.blocks_available() as u64 * disk.fragment_size() as u64)
        });
        let by_stats = || {
            let free = summary.as_ref()?.pointer("/node/fs/availableBytes")?.as_u64()?;
            Some((free, "stats/summary".to_owned()))
        };
        let free = match on_disk {
            Some(free) => Some((free, "checkpoints-dir".to_owned())),
            None => by_stats(),
        };
        let (free_bytes, free_bytes_source) = free.unzip();
        Footprint {
            max_archives: archives,
            containers,
            bytes_per_archive,
            free_bytes,
            free_bytes_source,
        }
    }

    /// The kubelet's `/stats/summary`; `None` if it is not readable with the user's credentials.
    async fn summary(&self) -> Option<Value> {
        let client = self.client().await;
        let response = client
            .get("/stats/summary")
            .await
            .ok()
            .filter(|response| response.status == 200)?;
        serde_json::from_str(&response.body).ok()
    }
}

/// The memory of a container in the stats: its resident set, or else its working set.
fn container_memory(summary: &Value, subject: &ContainerRef) -> Option<u64> {
    let find_entry =
        |list: Option<&Value>, is: &dyn Fn(&Value) -> bool| list?.as_array()?.iter().find(|one| is(one)).cloned();
    let pod = find_entry(summary.get("pods"), &|pod| {
        pod.pointer("/podRef/name") == Some(&Value::from(subject.pod.as_str()))
            && pod.pointer("/podRef/namespace") == Some(&Value::from(subject.namespace.as_str()))
    })?;
    let container = find_entry(pod.get("containers"), &|container| {
        container.get("name") == Some(&Value::from(subject.container.as_str()))
    })?;
    let bytes_of = |name: &str| {
        container
            .pointer(name)
            .and_then(Value::as_u64)
            .filter(|bytes| *bytes > 0)
    };
    bytes_of("/memory/rssBytes").or_else(|| bytes_of("/memory/workingSetBytes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_the_memory_of_the_right_container() {
        let container = |name: &str, memory: Value| json!({"name": name, "memory": memory});
        let pod = |name: &str, containers: Vec<Value>| json!({"podRef": {"name": name, "namespace": "default"}, "containers": containers});
        let summary = json!({"pods": [
            pod("api", vec![container("app", json!({"rssBytes": 1}))]),
            pod("web", vec![
                container("proxy", json!({"rssBytes": 2})),
                container("app", json!({"rssBytes": 4096, "workingSetBytes": 8192})),
                container("idle", json!({"rssBytes": 0, "workingSetBytes": 16})),
            ]),
        ]});
        let subject = |pod: &str, container: &str| ContainerRef {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        };
        assert_eq!(container_memory(&summary, &subject("web", "app")), Some(4096));
        assert_eq!(container_memory(&summary, &subject("web", "idle")), Some(16));
        assert_eq!(container_memory(&summary, &subject("web", "other")), None);
        assert_eq!(container_memory(&json!({}), &subject("web", "app")), None);
    }
}
