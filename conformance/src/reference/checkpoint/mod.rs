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

use super::answer::{self, Answer};
use super::cri::{Cri, CriError};
use super::pod::{KnownPod, Pods, label};
use super::{Config, Mutant};

mod timeout;

/// What the handler needs.
#[derive(Debug)]
pub(super) struct Checkpoints {
    config: Arc<Config>,
    cri: Arc<Cri>,
    pods: Arc<Pods>,
    started: Zoned,
    /// A mutant's: held while a checkpoint is under way.
    busy: tokio::sync::Semaphore,
}

/// Why a checkpoint was not made; all are 500.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("container {0} not found")]
    NotRunning(String),
    #[error("CheckpointContainer requires the timeout value to be > 0")]
    NegativeTimeout,
    /// Only a mutant looks.
    #[error("{} is not there", .0.display())]
    NoArchive(PathBuf),
    #[error(transparent)]
    Runtime(#[from] CriError),
}

impl Checkpoints {
    pub(super) fn new(config: Arc<Config>, cri: Arc<Cri>, pods: Arc<Pods>) -> Self {
        Self {
            config,
            cri,
            pods,
            started: Zoned::now(),
            busy: tokio::sync::Semaphore::new(1),
        }
    }

    /// Answers one request. `pod` is the one that the path names, if there is one.
    pub(super) async fn handle(&self, names: &[String; 3], pod: Option<KnownPod>, query: Option<&str>) -> Answer {
        let [namespace, pod_name, container] = names;
        if let Some(refused) = self.refused(names, query) {
            return refused;
        }
        let _permit = match self.busy.try_acquire() {
            Err(_) if self.config.is(Mutant::OneAtATime) => {
                return answer::plain(StatusCode::TOO_MANY_REQUESTS, "another checkpoint is under way");
            }
            permit => permit,
        };
        let timeout = timeout::read(query, self.config.mutant);
        let malformed = || answer::plain(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
        if timeout.is_err() && self.config.is(Mutant::TimeoutFirst) {
            return malformed();
        }
        let Some(pod) = pod else {
            if self.config.is(Mutant::OkForUnknownPod) {
                let full_name = format!("{pod_name}_{namespace}");
                return self.success(&self.location(&full_name, container));
            }
            return answer::plain(StatusCode::NOT_FOUND, self.unknown_pod(pod_name, namespace));
        };
        let first = pod
            .containers
            .first()
            .filter(|_| self.config.is(Mutant::WrongContainer) || container.is_empty());
        let container = first.unwrap_or(container);
        if !self.knows(&pod, container) {
            return self.unknown_container(container);
        }
        if self.config.is(Mutant::StateBeforeTimeout) && matches!(self.running(&pod, container).await, Ok(None)) {
            return self.failure(&Failure::NotRunning(container.clone()), &pod, names, container);
        }
        let Ok(timeout) = timeout else { return malformed() };
        match self.checkpoint(&pod, container, timeout).await {
            Ok(location) => self.success(&location),
            Err(failure) => self.failure(&failure, &pod, names, container),
        }
    }

    /// What mutants refuse.
    fn refused(&self, names: &[String; 3], query: Option<&str>) -> Option<Answer> {
        let reason = match self.config.mutant {
            Some(Mutant::StrangeNames400) => {
                let strange = |byte: u8| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte));
                names
                    .iter()
                    .any(|name| name.bytes().any(strange))
                    .then_some("invalid name")
            }
            Some(Mutant::UnknownParameterRefused) => {
                let mut parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
                parts
                    .any(|part| !part.starts_with("timeout"))
                    .then_some("unknown parameter")
            }
            _ => None,
        };
        reason.map(|reason| answer::plain(StatusCode::BAD_REQUEST, reason))
    }

    fn unknown_pod(&self, pod: &str, namespace: &str) -> String {
        let known = self.pods.has_namespace(namespace);
        match self.config.mutant {
            Some(Mutant::UnknownPodBody) if known => format!("pod {pod:?} not found"),
            Some(Mutant::UnknownNamespaceBody) if !known => format!("namespace {namespace:?} not found"),
            _ => "pod does not exist".to_owned(),
        }
    }

    fn knows(&self, pod: &KnownPod, container: &str) -> bool {
        let place = pod.containers.iter().position(|name| name == container);
        let (own, with_init) = pod.counts;
        match self.config.mutant {
            Some(Mutant::InitUnknown) => place.is_some_and(|place| place < own || place >= with_init),
            Some(Mutant::EphemeralUnknown) => place.is_some_and(|place| place < with_init),
            _ => place.is_some(),
        }
    }

    fn unknown_container(&self, container: &str) -> Answer {
        let status = if self.config.is(Mutant::UnknownContainer500) {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::NOT_FOUND
        };
        if self.config.is(Mutant::UnknownContainerBody) {
            return answer::plain(status, "container does not exist");
        }
        answer::plain(status, format!("container {container} does not exist"))
    }

    /// Finds the running container, then asks the runtime.
    async fn checkpoint(&self, pod: &KnownPod, container: &str, timeout: Option<i64>) -> Result<PathBuf, Failure> {
        let id = self.running(pod, container).await?;
        let location = self.location(&pod.full_name(), container);
        let Some(container_id) = id else {
            if self.config.is(Mutant::OkForExited) {
                return Ok(location);
            }
            return Err(Failure::NotRunning(container.to_owned()));
        };
        if timeout.is_some_and(|timeout| timeout < 0) {
            self.cri.count(OPERATION, true);
            return Err(Failure::NegativeTimeout);
        }
        let (field, deadline) = timeout::sent(timeout, self.cri.timeout(), self.config.mutant);
        let message = CheckpointContainerRequest {
            container_id: container_id.clone(),
            location: location.display().to_string(),
            timeout: if self.config.is(Mutant::FieldMissing) { 0 } else { field },
        };
        let Some(deadline) = deadline else {
            self.cri.count(OPERATION, true);
            return Err(CriError::deadline().into());
        };
        if self.config.is(Mutant::FolderLate) {
            let _ = std::fs::DirBuilder::new()
                .mode(0o700)
                .create(self.config.checkpoints_dir());
        }
        self.call(deadline, message).await?;
        self.spoil(&container_id, &location).await;
        if self.config.is(Mutant::ArchiveChecked) && !location.exists() {
            return Err(Failure::NoArchive(location));
        }
        Ok(location)
    }

    /// Calls the runtime. Dropping the handler's future drops the call; only a mutant lets it run on.
    async fn call(&self, deadline: Duration, message: CheckpointContainerRequest) -> Result<(), CriError> {
        let cri = Arc::clone(&self.cri);
        let again = message.clone();
        let call = async move { cri.checkpoint_container(deadline, message).await };
        let result = match self.config.mutant {
            Some(Mutant::AnswersEarly) => {
                tokio::spawn(call);
                return Ok(());
            }
            Some(Mutant::CancelIgnored) => {
                let lost = |_| CriError::lost("the call was lost");
                tokio::spawn(call).await.unwrap_or_else(|error| Err(lost(error)))
            }
            _ => call.await,
        };
        match self.config.mutant {
            Some(Mutant::CallsTwice) if result.is_ok() => {
                self.cri.checkpoint_container(deadline, again).await.map(drop)
            }
            Some(Mutant::LostRetried) => self.retried(result.map(drop), deadline, again).await,
            _ => result.map(drop),
        }
    }

    /// A mutant's: calls again until the runtime is reached, for half a second at most.
    async fn retried(
        &self,
        mut result: Result<(), CriError>,
        deadline: Duration,
        message: CheckpointContainerRequest,
    ) -> Result<(), CriError> {
        const TIMES: usize = 10;
        const PAUSE: Duration = Duration::from_millis(50);
        for _ in 0..TIMES {
            match &result {
                Err(error) if error.local && error.code == Code::Unavailable => {}
                _ => break,
            }
            // The lost connection may not be known as lost yet, and a new one takes a moment.
            tokio::time::sleep(PAUSE).await;
            result = self.cri.checkpoint_container(deadline, message.clone()).await.map(drop);
        }
        result
    }

    /// The id of the running container of that name, as the kubelet asks for it: sandboxes, then containers.
    async fn running(&self, pod: &KnownPod, container: &str) -> Result<Option<String>, CriError> {
        let timeout = self.cri.timeout();
        self.cri
            .list_pod_sandbox(timeout, ListPodSandboxRequest::default())
            .await?;
        let state = ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        };
        let filter = ContainerFilter {
            state: Some(state).filter(|_| !self.config.is(Mutant::CreatedCheckpointed)),
            ..Default::default()
        };
        let list = self
            .cri
            .list_containers(timeout, ListContainersRequest { filter: Some(filter) })
            .await?;
        let ours = |labels: &std::collections::HashMap<String, String>| {
            labels.get(label::POD_UID) == Some(&pod.uid)
                && labels.get(label::CONTAINER_NAME).is_some_and(|name| name == container)
        };
        Ok(list
            .containers
            .into_iter()
            .find(|found| ours(&found.labels) && found.state() != ContainerState::ContainerExited)
            .map(|found| found.id))
    }

    /// Where the archive goes: `checkpoint-<pod>_<namespace>-<container>-<time>.tar`.
    fn location(&self, full_name: &str, container: &str) -> PathBuf {
        let now = match self.config.mutant {
            Some(Mutant::TimestampStale) => self.started.clone(),
            Some(Mutant::TimestampOfAnotherZone) => next_zone(&Zoned::now()),
            _ => Zoned::now(),
        };
        let time = if self.config.is(Mutant::TimestampWrong) {
            now.timestamp().as_second().to_string()
        } else {
            rfc3339(&now, self.config.fractional_timestamps)
        };
        let name = match self.config.mutant {
            Some(Mutant::NameWithoutNamespace) => {
                let pod = full_name.rsplit_once('_').map_or(full_name, |(pod, _)| pod);
                format!("checkpoint-{pod}-{container}-{time}.tar")
            }
            Some(Mutant::NameWithoutContainer) => format!("checkpoint-{full_name}-{time}.tar"),
            _ => format!("checkpoint-{full_name}-{container}-{time}.tar"),
        };
        if self.config.is(Mutant::PlaceOutsideCheckpoints) {
            self.config.root_dir.join(name)
        } else {
            self.config.checkpoints_dir().join(name)
        }
    }

    fn success(&self, location: &Path) -> Answer {
        let location = match self.config.mutant {
            Some(Mutant::BodyOtherFile) => location.with_extension("1.tar"),
            _ => location.to_owned(),
        };
        let location = location.display().to_string();
        let body = match self.config.mutant {
            Some(Mutant::BodyWrong) => serde_json::json!({ "items": location }),
            _ => serde_json::json!({ "items": [location] }),
        };
        match self.config.mutant {
            Some(Mutant::BodyEmpty) => answer::json(""),
            Some(Mutant::ContentTypeWrong) => answer::with_type(StatusCode::OK, answer::TEXT, body.to_string()),
            _ => answer::json(body.to_string()),
        }
    }

    fn failure(&self, failure: &Failure, pod: &KnownPod, names: &[String; 3], container: &str) -> Answer {
        let [namespace, pod_name, _] = names;
        let (code, local) = match failure {
            Failure::Runtime(error) => (Some(error.code), error.local),
            _ => (None, false),
        };
        let status = match (self.config.mutant, code) {
            (Some(Mutant::ErrorSwallowed), Some(_)) if !local => {
                return self.success(&self.location(&pod.full_name(), container));
            }
            (Some(Mutant::Unimplemented501), Some(Code::Unimplemented)) => StatusCode::NOT_IMPLEMENTED,
            (Some(Mutant::Error404), Some(code)) if code != Code::Unimplemented && !local => StatusCode::NOT_FOUND,
            (Some(Mutant::UnavailableAs503), Some(Code::Unavailable)) if !local => StatusCode::SERVICE_UNAVAILABLE,
            (Some(Mutant::DeadlineAs504), Some(Code::DeadlineExceeded)) if local => StatusCode::GATEWAY_TIMEOUT,
            (Some(Mutant::GoneAs502), Some(Code::Unavailable))
                if failure.to_string().contains("Error while dialing") =>
            {
                StatusCode::BAD_GATEWAY
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let why = match (self.config.mutant, failure) {
            (Some(Mutant::ErrorWithoutMessage), Failure::Runtime(error)) if !error.local => "runtime error".to_owned(),
            (Some(Mutant::UnknownWithoutMessage), Failure::Runtime(error)) if error.code == Code::Unknown => {
                "rpc error: code = Unknown".to_owned()
            }
            (Some(Mutant::ErrorUnwrapped), Failure::Runtime(error)) if !error.local => {
                return answer::plain(status, error.message.clone());
            }
            _ => failure.to_string(),
        };
        answer::plain(
            status,
            format!("checkpointing of {namespace}/{pod_name}/{container} failed ({why})"),
        )
    }

    /// What mutants do to a finished checkpoint. Their own failures only make them less wrong.
    async fn spoil(&self, container_id: &str, location: &Path) {
        match self.config.mutant {
            Some(Mutant::ArchiveWorldReadable) => {
                let _ = std::fs::set_permissions(location, std::fs::Permissions::from_mode(0o644));
            }
            Some(Mutant::ArchiveDeleted) => {
                let _ = std::fs::remove_file(location);
            }
            Some(Mutant::OnlyLastKept) => {
                let entries = std::fs::read_dir(self.config.checkpoints_dir());
                for entry in entries.into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    let whole = name.to_string_lossy().starts_with("checkpoint-");
                    if whole && entry.path() != location {
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

/// A mutant's: the same moment an hour further east, or west where there is no further east.
fn next_zone(now: &Zoned) -> Zoned {
    const HOUR: i32 = 3600;
    let east = now.offset().seconds() + HOUR;
    let seconds = if east > 14 * HOUR { east - 2 * HOUR } else { east };
    let offset = jiff::tz::Offset::from_seconds(seconds).expect("an offset within a day");
    now.with_time_zone(jiff::tz::TimeZone::fixed(offset))
}

const OPERATION: &str = "checkpoint_container";

/// As Go's `time.RFC3339`: whole seconds, the local zone, `Z` when that is UTC.
fn rfc3339(now: &Zoned, fraction: bool) -> String {
    let zone = if now.offset().seconds() == 0 { "Z" } else { "%:z" };
    let fraction = if fraction { ".%9f" } else { "" };
    now.strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}{zone}")).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn checkpoints(mutant: Option<Mutant>) -> Checkpoints {
        let config = Arc::new(Config {
            mutant,
            ..Config::new("/root dir", "unix:///run/x.sock")
        });
        let cri = Arc::new(Cri::new(&config.runtime_endpoint, config.runtime_request_timeout).unwrap());
        Checkpoints::new(config, cri, Arc::default())
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
    fn another_zone_is_never_the_same(#[case] moment: &str, #[case] expected: &str) {
        assert_eq!(rfc3339(&next_zone(&moment.parse::<Zoned>().unwrap()), false), expected);
    }

    #[tokio::test]
    async fn names_and_places_the_archive() {
        let text = |mutant| checkpoints(mutant).location("pod_ns", "app").display().to_string();
        assert!(
            text(None).starts_with("/root dir/checkpoints/checkpoint-pod_ns-app-2"),
            "{}",
            text(None)
        );
        assert!(text(Some(Mutant::NameWithoutNamespace)).contains("/checkpoint-pod-app-2"));
        assert!(text(Some(Mutant::NameWithoutContainer)).contains("/checkpoint-pod_ns-2"));
        assert!(text(Some(Mutant::PlaceOutsideCheckpoints)).starts_with("/root dir/checkpoint-"));
    }
}
