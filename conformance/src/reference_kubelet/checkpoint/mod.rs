//! The handler of `POST /checkpoint/{namespace}/{pod}/{container}`.
//!
//! ```text
//!  pod -> container in its spec -> timeout -> container running -> CheckpointContainer -> 200
//!   404        404                  404 (!)        500                   500
//! ```
//!
//! Source: kubernetes pkg/kubelet/server/server.go, `checkpoint`, and pkg/kubelet/kubelet.go, `CheckpointContainer`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::runtime::v1::{
    CheckpointContainerRequest, ContainerState, ListContainersRequest, ListPodSandboxRequest,
};
use http::StatusCode;
use http::request::Parts;
use jiff::Zoned;
use tokio::sync::Semaphore;

use super::Config;
use super::pod_store::{PodRecord, PodStore, label};
use super::responses::{self, FullResponse, Rejection, reject};
use super::route::PathNames;
use super::runtime_connection::{CriError, RuntimeCall, RuntimeConnection};
use crate::cri_client::CriRequest as _;

pub(crate) mod timeout;

#[derive(Debug)]
pub(crate) struct CheckpointHandler {
    config: Arc<Config>,
    cri: Arc<RuntimeConnection>,
    pods: Arc<PodStore>,
    slots: Semaphore,
}

/// Why a checkpoint failed. The response is 500.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("container {0} not found")]
    NotRunning(String),
    #[error("CheckpointContainer requires the timeout value to be > 0")]
    NegativeTimeout,
    #[error(transparent)]
    Runtime(#[from] CriError),
}

impl CheckpointHandler {
    pub(super) fn new(config: Arc<Config>, cri: Arc<RuntimeConnection>, pods: Arc<PodStore>) -> Self {
        let slots = Semaphore::new(config.behavior.max_checkpoints);
        Self {
            config,
            cri,
            pods,
            slots,
        }
    }

    pub(crate) async fn handle(&self, names: &PathNames, request: &Parts) -> Result<FullResponse, Rejection> {
        let _slot = self
            .slots
            .try_acquire()
            .map_err(|_| reject(StatusCode::TOO_MANY_REQUESTS, "another checkpoint is in progress"))?;
        let behavior = &self.config.behavior;
        let pod = (behavior.find_pod)(&self.pods, names)?;
        let container = (behavior.find_container)(&self.pods, &pod, names)?;
        let timeout = (behavior.parse_timeout)(request.uri.query())?;
        Ok(match self.checkpoint(&pod, &container, timeout).await {
            Ok(location) => (behavior.success_response)(&location),
            Err(error) => (behavior.error_response)(names, &error),
        })
    }

    async fn checkpoint(
        &self,
        pod: &PodRecord,
        container: &str,
        timeout: Option<i64>,
    ) -> Result<PathBuf, CheckpointError> {
        let behavior = &self.config.behavior;
        let Some(container_id) = self.running_container_id(pod, container).await? else {
            return Err(CheckpointError::NotRunning(container.to_owned()));
        };
        let now = || Zoned::now().with_time_zone(self.config.time_zone.clone());
        let time = behavior.archive_time.clone().unwrap_or_else(now);
        let location = (behavior.archive_location)(&self.config, pod, container, &time);
        if timeout.is_some_and(|timeout| timeout < 0) {
            self.cri.count_operation(CheckpointContainerRequest::OPERATION, true);
            return Err(CheckpointError::NegativeTimeout);
        }
        let (timeout, deadline) = (behavior.call_timeout)(timeout, self.cri.timeout());
        let Some(deadline) = deadline else {
            self.cri.count_operation(CheckpointContainerRequest::OPERATION, true);
            return Err(CriError::deadline_exceeded().into());
        };
        let message = CheckpointContainerRequest {
            container_id,
            location: location.display().to_string(),
            timeout,
        };
        (behavior.call_runtime)(Arc::clone(&self.cri), deadline, message).await?;
        Ok(location)
    }

    /// Returns the id of the running container. Like the kubelet, it lists the sandboxes first, then the containers.
    async fn running_container_id(&self, pod: &PodRecord, container: &str) -> Result<Option<String>, CriError> {
        let timeout = self.cri.timeout();
        self.cri.call(timeout, ListPodSandboxRequest::default()).await?;
        let message = ListContainersRequest {
            filter: Some(self.config.behavior.container_filter.clone()),
        };
        let list = self.cri.call(timeout, message).await?;
        let is_container = self.config.behavior.is_container;
        Ok(list
            .containers
            .into_iter()
            .find(|candidate| {
                is_container(&candidate.labels, pod, container) && candidate.state() != ContainerState::ContainerExited
            })
            .map(|found| found.id))
    }
}

pub(crate) fn is_container(labels: &HashMap<String, String>, pod: &PodRecord, name: &str) -> bool {
    labels.get(label::POD_UID) == Some(&pod.uid) && labels.get(label::CONTAINER_NAME).is_some_and(|label| label == name)
}

pub(crate) fn find_pod(pods: &PodStore, [namespace, pod, _]: &PathNames) -> Result<PodRecord, Rejection> {
    pods.find(namespace, pod)
        .ok_or_else(|| reject(StatusCode::NOT_FOUND, "pod does not exist"))
}

pub(crate) fn find_container(_: &PodStore, pod: &PodRecord, [.., name]: &PathNames) -> Result<String, Rejection> {
    if pod.has_container(name) {
        return Ok(name.clone());
    }
    Err(container_not_found(name))
}

pub(crate) fn container_not_found(name: &str) -> Rejection {
    reject(StatusCode::NOT_FOUND, format!("container {name} does not exist"))
}

/// Returns the location of the archive: `checkpoint-<pod>_<namespace>-<container>-<time>.tar`.
pub(crate) fn archive_location(config: &Config, pod: &PodRecord, container: &str, time: &Zoned) -> PathBuf {
    let time = rfc3339(time, config.fractional_timestamps);
    let name = format!("checkpoint-{}-{container}-{time}.tar", pod.full_name());
    config.checkpoints_dir().join(name)
}

pub(crate) fn call_runtime(
    cri: Arc<RuntimeConnection>,
    deadline: Duration,
    message: CheckpointContainerRequest,
) -> RuntimeCall {
    Box::pin(async move { cri.call(deadline, message).await.map(drop) })
}

pub(crate) fn success_response(location: &Path) -> FullResponse {
    responses::json(serde_json::json!({ "items": [location.display().to_string()] }).to_string())
}

pub(crate) fn error_response(names: &PathNames, error: &CheckpointError) -> FullResponse {
    let text = format!("checkpointing of {} failed ({error})", names.join("/"));
    responses::with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// Formats a time as Go's `time.RFC3339`: whole seconds and the local zone, `Z` for UTC.
pub(crate) fn rfc3339(time: &Zoned, fraction: bool) -> String {
    let zone = if time.offset().seconds() == 0 { "Z" } else { "%:z" };
    let fraction = if fraction { ".%9f" } else { "" };
    time.strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}{zone}")).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-11-22T14:05:06.789+00:00[UTC]", "2026-11-22T14:05:06Z")]
    #[case("2026-11-22T14:05:06+05:30[Asia/Kolkata]", "2026-11-22T14:05:06+05:30")]
    #[case("2026-11-22T14:05:06-03:30[America/St_Johns]", "2026-11-22T14:05:06-03:30")]
    fn writes_rfc3339(#[case] moment: &str, #[case] expected: &str) {
        assert_eq!(rfc3339(&moment.parse::<Zoned>().unwrap(), false), expected);
    }

    #[test]
    fn computes_the_archive_location() {
        let config = Config::new("/root dir", "unix:///run/x.sock");
        let pod = PodRecord {
            name: "pod".to_owned(),
            namespace: "ns".to_owned(),
            ..PodRecord::default()
        };
        let time = "2026-11-22T14:05:06+00:00[UTC]".parse().unwrap();
        assert_eq!(
            archive_location(&config, &pod, "app", &time),
            Path::new("/root dir/checkpoints/checkpoint-pod_ns-app-2026-11-22T14:05:06Z.tar")
        );
    }
}
