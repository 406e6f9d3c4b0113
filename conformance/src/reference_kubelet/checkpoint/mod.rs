//! The handler of `POST /checkpoint/{namespace}/{pod}/{container}`.
//!
//! ```text
//!  pod -> container in its spec -> timeout -> container running -> CheckpointContainer -> 200
//!   404        404                  404 (!)        500                   500
//! ```

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::runtime::v1::{
    CheckpointContainerRequest, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListPodSandboxRequest, StopContainerRequest,
};
use http::StatusCode;
use jiff::Zoned;
use tonic::Code;

use super::pod_store::{PodRecord, PodStore, label};
use super::responses::{self, FullResponse};
use super::runtime_connection::{CriError, RuntimeConnection};
use super::{Config, Mutant};

mod timeout;

#[derive(Debug)]
pub(super) struct CheckpointHandler {
    config: Arc<Config>,
    cri: Arc<RuntimeConnection>,
    pods: Arc<PodStore>,
    started_at: Zoned,
    /// Mutant: acquired during a checkpoint.
    in_progress: tokio::sync::Semaphore,
}

/// Why a checkpoint failed. The response is 500.
#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error("container {0} not found")]
    NotRunning(String),
    #[error("CheckpointContainer requires the timeout value to be > 0")]
    NegativeTimeout,
    /// Only a mutant checks this.
    #[error("{} does not exist", .0.display())]
    NoArchive(PathBuf),
    #[error(transparent)]
    Runtime(#[from] CriError),
}

impl CheckpointHandler {
    pub(super) fn new(config: Arc<Config>, cri: Arc<RuntimeConnection>, pods: Arc<PodStore>) -> Self {
        Self {
            config,
            cri,
            pods,
            started_at: Zoned::now(),
            in_progress: tokio::sync::Semaphore::new(1),
        }
    }

    /// Handles one request. `pod` is the Pod of the path, if it exists.
    pub(super) async fn handle(
        &self,
        names: &[String; 3],
        pod: Option<PodRecord>,
        query: Option<&str>,
    ) -> FullResponse {
        let [namespace, pod_name, container] = names;
        if let Some(refused) = self.refused_by_mutant(names, query) {
            return refused;
        }
        let _permit = match self.in_progress.try_acquire() {
            Err(_) if self.config.has_mutant(Mutant::OneAtATime) => {
                return responses::with_sniffed_type(
                    StatusCode::TOO_MANY_REQUESTS,
                    "another checkpoint is in progress",
                );
            }
            permit => permit,
        };
        let timeout = timeout::parse(query, self.config.mutant);
        let malformed =
            || responses::with_sniffed_type(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
        if timeout.is_err() && self.config.has_mutant(Mutant::TimeoutValidatedBeforeLookup) {
            return malformed();
        }
        let Some(pod) = pod else {
            if self.config.has_mutant(Mutant::PodUnknown200) {
                let full_name = format!("{pod_name}_{namespace}");
                return self.success_response(&self.archive_location(&full_name, container));
            }
            return responses::with_sniffed_type(StatusCode::NOT_FOUND, self.pod_not_found(pod_name, namespace));
        };
        let first = pod
            .containers
            .first()
            .filter(|_| self.config.has_mutant(Mutant::ContainerNameIgnored) || container.is_empty());
        let container = first.unwrap_or(container);
        if !self.has_container(&pod, container) {
            return self.container_not_found(container);
        }
        if self.config.has_mutant(Mutant::StateCheckedBeforeTimeout)
            && matches!(self.running_container_id(&pod, container).await, Ok(None))
        {
            return self.failure_response(&CheckpointError::NotRunning(container.clone()), &pod, names, container);
        }
        let Ok(timeout) = timeout else { return malformed() };
        match self.checkpoint(&pod, container, timeout).await {
            Ok(location) => self.success_response(&location),
            Err(failure) => self.failure_response(&failure, &pod, names, container),
        }
    }

    /// Returns the response for a request that only a mutant rejects.
    fn refused_by_mutant(&self, names: &[String; 3], query: Option<&str>) -> Option<FullResponse> {
        let reason = match self.config.mutant {
            Some(Mutant::InvalidNames400) => {
                let is_invalid =
                    |byte: u8| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte));
                names
                    .iter()
                    .any(|name| name.bytes().any(is_invalid))
                    .then_some("invalid name")
            }
            Some(Mutant::UnknownParameter400) => {
                let mut parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
                parts
                    .any(|part| !part.starts_with("timeout"))
                    .then_some("unknown parameter")
            }
            _ => None,
        };
        reason.map(|reason| responses::with_sniffed_type(StatusCode::BAD_REQUEST, reason))
    }

    fn pod_not_found(&self, pod: &str, namespace: &str) -> String {
        let namespace_exists = self.pods.has_namespace(namespace);
        match self.config.mutant {
            Some(Mutant::PodUnknownWrongBody) if namespace_exists => format!("pod {pod:?} not found"),
            Some(Mutant::NamespaceUnknownWrongBody) if !namespace_exists => {
                format!("namespace {namespace:?} not found")
            }
            _ => "pod does not exist".to_owned(),
        }
    }

    fn has_container(&self, pod: &PodRecord, container: &str) -> bool {
        let index = pod.containers.iter().position(|name| name == container);
        let (container_count, with_init) = pod.container_counts;
        match self.config.mutant {
            Some(Mutant::InitContainer404) => index.is_some_and(|index| index < container_count || index >= with_init),
            Some(Mutant::EphemeralContainer404) => index.is_some_and(|index| index < with_init),
            _ => index.is_some(),
        }
    }

    fn container_not_found(&self, container: &str) -> FullResponse {
        let status = if self.config.has_mutant(Mutant::ContainerUnknown500) {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::NOT_FOUND
        };
        if self.config.has_mutant(Mutant::ContainerUnknownWrongBody) {
            return responses::with_sniffed_type(status, "container does not exist");
        }
        responses::with_sniffed_type(status, format!("container {container} does not exist"))
    }

    async fn checkpoint(
        &self,
        pod: &PodRecord,
        container: &str,
        timeout: Option<i64>,
    ) -> Result<PathBuf, CheckpointError> {
        let id = self.running_container_id(pod, container).await?;
        let location = self.archive_location(&pod.full_name(), container);
        let Some(container_id) = id else {
            if self.config.has_mutant(Mutant::Exited200) {
                return Ok(location);
            }
            return Err(CheckpointError::NotRunning(container.to_owned()));
        };
        if timeout.is_some_and(|timeout| timeout < 0) {
            self.cri.count_operation(CHECKPOINT_OPERATION, true);
            return Err(CheckpointError::NegativeTimeout);
        }
        let (field, deadline) = timeout::field_and_deadline(timeout, self.cri.timeout(), self.config.mutant);
        let message = CheckpointContainerRequest {
            container_id: container_id.clone(),
            location: location.display().to_string(),
            timeout: if self.config.has_mutant(Mutant::CriTimeoutFieldMissing) {
                0
            } else {
                field
            },
        };
        let Some(deadline) = deadline else {
            self.cri.count_operation(CHECKPOINT_OPERATION, true);
            return Err(CriError::deadline_exceeded().into());
        };
        if self.config.has_mutant(Mutant::CheckpointsDirCreatedLate) {
            let _ = std::fs::DirBuilder::new()
                .mode(0o700)
                .create(self.config.checkpoints_dir());
        }
        self.call(deadline, message).await?;
        self.apply_mutant(&container_id, &location).await;
        if self.config.has_mutant(Mutant::MissingArchive500) && !location.exists() {
            return Err(CheckpointError::NoArchive(location));
        }
        Ok(location)
    }

    /// Calls the runtime. Dropping the future of the handler cancels the call, except for mutants that spawn the call.
    async fn call(&self, deadline: Duration, message: CheckpointContainerRequest) -> Result<(), CriError> {
        let cri = Arc::clone(&self.cri);
        let retry_message = message.clone();
        let call = async move { cri.checkpoint_container(deadline, message).await };
        let result = match self.config.mutant {
            Some(Mutant::RespondsEarly) => {
                tokio::spawn(call);
                return Ok(());
            }
            Some(Mutant::CancelIgnored) => {
                let call_lost = |_| CriError::unavailable("the task of the call failed");
                tokio::spawn(call).await.unwrap_or_else(|error| Err(call_lost(error)))
            }
            _ => call.await,
        };
        match self.config.mutant {
            Some(Mutant::CriCalledTwice) if result.is_ok() => {
                self.cri.checkpoint_container(deadline, retry_message).await.map(drop)
            }
            Some(Mutant::LostCallRetried) => self.retry_lost_call(result.map(drop), deadline, retry_message).await,
            _ => result.map(drop),
        }
    }

    /// Mutant: repeats the call until the runtime is reachable, for at most half a second.
    async fn retry_lost_call(
        &self,
        mut result: Result<(), CriError>,
        deadline: Duration,
        message: CheckpointContainerRequest,
    ) -> Result<(), CriError> {
        const MAX_RETRIES: usize = 10;
        const RETRY_INTERVAL: Duration = Duration::from_millis(50);
        for _ in 0..MAX_RETRIES {
            match &result {
                Err(error) if error.raised_locally && error.code == Code::Unavailable => {}
                _ => break,
            }
            // The client may not have noticed the broken connection yet, and a new connection takes time.
            tokio::time::sleep(RETRY_INTERVAL).await;
            result = self.cri.checkpoint_container(deadline, message.clone()).await.map(drop);
        }
        result
    }

    /// Returns the id of the running container. Like the kubelet, it lists the sandboxes first, then the containers.
    async fn running_container_id(&self, pod: &PodRecord, container: &str) -> Result<Option<String>, CriError> {
        let timeout = self.cri.timeout();
        self.cri
            .list_pod_sandbox(timeout, ListPodSandboxRequest::default())
            .await?;
        let state = ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        };
        let filter = ContainerFilter {
            state: Some(state).filter(|_| !self.config.has_mutant(Mutant::CreatedCheckpointed)),
            ..Default::default()
        };
        let list = self
            .cri
            .list_containers(timeout, ListContainersRequest { filter: Some(filter) })
            .await?;
        let labels_match = |labels: &std::collections::HashMap<String, String>| {
            labels.get(label::POD_UID) == Some(&pod.uid)
                && labels.get(label::CONTAINER_NAME).is_some_and(|name| name == container)
        };
        Ok(list
            .containers
            .into_iter()
            .find(|candidate| labels_match(&candidate.labels) && candidate.state() != ContainerState::ContainerExited)
            .map(|found| found.id))
    }

    /// Returns the location of the archive: `checkpoint-<pod>_<namespace>-<container>-<time>.tar`.
    fn archive_location(&self, full_name: &str, container: &str) -> PathBuf {
        let timestamp = match self.config.mutant {
            Some(Mutant::TimestampOfKubeletStart) => self.started_at.clone(),
            Some(Mutant::TimestampWrongZone) => shift_time_zone(&Zoned::now()),
            _ => Zoned::now(),
        };
        let time = if self.config.has_mutant(Mutant::TimestampUnixSeconds) {
            timestamp.timestamp().as_second().to_string()
        } else {
            rfc3339(&timestamp, self.config.fractional_timestamps)
        };
        let name = match self.config.mutant {
            Some(Mutant::ArchiveNameWithoutNamespace) => {
                let pod = full_name.rsplit_once('_').map_or(full_name, |(pod, _)| pod);
                format!("checkpoint-{pod}-{container}-{time}.tar")
            }
            Some(Mutant::ArchiveNameWithoutContainer) => format!("checkpoint-{full_name}-{time}.tar"),
            _ => format!("checkpoint-{full_name}-{container}-{time}.tar"),
        };
        if self.config.has_mutant(Mutant::ArchiveOutsideCheckpointsDir) {
            self.config.root_dir.join(name)
        } else {
            self.config.checkpoints_dir().join(name)
        }
    }

    fn success_response(&self, location: &Path) -> FullResponse {
        let location = match self.config.mutant {
            Some(Mutant::BodyWrongLocation) => location.with_extension("1.tar"),
            _ => location.to_owned(),
        };
        let location = location.display().to_string();
        let body = match self.config.mutant {
            Some(Mutant::BodyItemsString) => serde_json::json!({ "items": location }),
            _ => serde_json::json!({ "items": [location] }),
        };
        match self.config.mutant {
            Some(Mutant::BodyEmpty) => responses::json(""),
            Some(Mutant::ContentTypeTextPlain) => {
                responses::with_type(StatusCode::OK, responses::TEXT_PLAIN, body.to_string())
            }
            _ => responses::json(body.to_string()),
        }
    }

    fn failure_response(
        &self,
        failure: &CheckpointError,
        pod: &PodRecord,
        names: &[String; 3],
        container: &str,
    ) -> FullResponse {
        let [namespace, pod_name, _] = names;
        let (code, local) = match failure {
            CheckpointError::Runtime(error) => (Some(error.code), error.raised_locally),
            _ => (None, false),
        };
        let status = match (self.config.mutant, code) {
            (Some(Mutant::RuntimeError200), Some(_)) if !local => {
                return self.success_response(&self.archive_location(&pod.full_name(), container));
            }
            (Some(Mutant::Unimplemented501), Some(Code::Unimplemented)) => StatusCode::NOT_IMPLEMENTED,
            (Some(Mutant::RuntimeError404), Some(code)) if code != Code::Unimplemented && !local => {
                StatusCode::NOT_FOUND
            }
            (Some(Mutant::Unavailable503), Some(Code::Unavailable)) if !local => StatusCode::SERVICE_UNAVAILABLE,
            (Some(Mutant::DeadlineExceeded504), Some(Code::DeadlineExceeded)) if local => StatusCode::GATEWAY_TIMEOUT,
            (Some(Mutant::RuntimeUnreachable502), Some(Code::Unavailable))
                if failure.to_string().contains("Error while dialing") =>
            {
                StatusCode::BAD_GATEWAY
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let reason = match (self.config.mutant, failure) {
            (Some(Mutant::RuntimeErrorWithoutMessage), CheckpointError::Runtime(error)) if !error.raised_locally => {
                "runtime error".to_owned()
            }
            (Some(Mutant::GrpcUnknownWithoutMessage), CheckpointError::Runtime(error))
                if error.code == Code::Unknown =>
            {
                "rpc error: code = Unknown".to_owned()
            }
            (Some(Mutant::RuntimeErrorUnwrapped), CheckpointError::Runtime(error)) if !error.raised_locally => {
                return responses::with_sniffed_type(status, error.message.clone());
            }
            _ => failure.to_string(),
        };
        responses::with_sniffed_type(
            status,
            format!("checkpointing of {namespace}/{pod_name}/{container} failed ({reason})"),
        )
    }

    /// Applies the defect of a mutant to a finished checkpoint. Errors are ignored: without the defect the mutant is
    /// reported as not caught.
    async fn apply_mutant(&self, container_id: &str, location: &Path) {
        match self.config.mutant {
            Some(Mutant::ArchiveMode0644) => {
                let _ = std::fs::set_permissions(location, std::fs::Permissions::from_mode(0o644));
            }
            Some(Mutant::ArchiveDeleted) => {
                let _ = std::fs::remove_file(location);
            }
            Some(Mutant::EarlierArchivesDeleted) => {
                let entries = std::fs::read_dir(self.config.checkpoints_dir());
                for entry in entries.into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    let is_archive = name.to_string_lossy().starts_with("checkpoint-");
                    if is_archive && entry.path() != location {
                        let _ = std::fs::remove_file(entry.path());
                    }
                }
            }
            Some(Mutant::ContainerStopped) => {
                let message = StopContainerRequest {
                    container_id: container_id.to_owned(),
                    timeout: 0,
                };
                let _ = self.cri.stop_container(self.cri.timeout(), message).await;
            }
            _ => {}
        }
    }
}

/// Mutant: returns the same time in the zone one hour further east, or west beyond UTC+14.
fn shift_time_zone(now: &Zoned) -> Zoned {
    const HOUR_SECONDS: i32 = 3600;
    let eastward_seconds = now.offset().seconds() + HOUR_SECONDS;
    let seconds = if eastward_seconds > 14 * HOUR_SECONDS {
        eastward_seconds - 2 * HOUR_SECONDS
    } else {
        eastward_seconds
    };
    let offset = jiff::tz::Offset::from_seconds(seconds).expect("the offset is less than a day");
    now.with_time_zone(jiff::tz::TimeZone::fixed(offset))
}

const CHECKPOINT_OPERATION: &str = "checkpoint_container";

/// Formats a time as Go's `time.RFC3339`: whole seconds and the local zone, `Z` for UTC.
fn rfc3339(now: &Zoned, fraction: bool) -> String {
    let zone = if now.offset().seconds() == 0 { "Z" } else { "%:z" };
    let fraction = if fraction { ".%9f" } else { "" };
    now.strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}{zone}")).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn checkpoints(mutant: Option<Mutant>) -> CheckpointHandler {
        let config = Arc::new(Config {
            mutant,
            ..Config::new("/root dir", "unix:///run/x.sock")
        });
        let cri = Arc::new(RuntimeConnection::new(&config.runtime_endpoint, config.runtime_request_timeout).unwrap());
        CheckpointHandler::new(config, cri, Arc::default())
    }

    #[rstest]
    #[case("2026-11-22T14:05:06.789+00:00[UTC]", "2026-11-22T14:05:06Z")]
    #[case("2026-11-22T14:05:06+05:30[Asia/Kolkata]", "2026-11-22T14:05:06+05:30")]
    #[case("2026-11-22T14:05:06-03:30[America/St_Johns]", "2026-11-22T14:05:06-03:30")]
    fn writes_rfc3339(#[case] moment: &str, #[case] expected: &str) {
        assert_eq!(rfc3339(&moment.parse::<Zoned>().unwrap(), false), expected);
    }

    #[rstest]
    #[case("2026-11-22T14:05:06+00:00[UTC]", "2026-11-22T15:05:06+01:00")]
    #[case("2026-11-22T14:05:06+14:00[Pacific/Kiritimati]", "2026-11-22T13:05:06+13:00")]
    fn shifted_zone_always_differs(#[case] moment: &str, #[case] expected: &str) {
        assert_eq!(
            rfc3339(&shift_time_zone(&moment.parse::<Zoned>().unwrap()), false),
            expected
        );
    }

    #[tokio::test]
    async fn computes_the_archive_location() {
        let text = |mutant| {
            checkpoints(mutant)
                .archive_location("pod_ns", "app")
                .display()
                .to_string()
        };
        assert!(
            text(None).starts_with("/root dir/checkpoints/checkpoint-pod_ns-app-2"),
            "{}",
            text(None)
        );
        assert!(text(Some(Mutant::ArchiveNameWithoutNamespace)).contains("/checkpoint-pod-app-2"));
        assert!(text(Some(Mutant::ArchiveNameWithoutContainer)).contains("/checkpoint-pod_ns-2"));
        assert!(text(Some(Mutant::ArchiveOutsideCheckpointsDir)).starts_with("/root dir/checkpoint-"));
    }
}
