//! The handler of `POST /checkpoint/{namespace}/{pod}/{container}`.
//!
//! ```text
//!  pod -> container in its spec -> timeout -> container running -> CheckpointContainer -> 200
//!   404        404                  404 (!)        500                   500
//! ```

use std::os::unix::fs::PermissionsExt as _;
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
use super::pod::{KnownPod, label};
use super::{Config, Mutant, route};

/// What the handler needs.
#[derive(Debug)]
pub(super) struct Checkpoints {
    config: Arc<Config>,
    cri: Arc<Cri>,
    started: Zoned,
}

/// Why a checkpoint was not made; all are 500.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("container {0} not found")]
    NotRunning(String),
    #[error("CheckpointContainer requires the timeout value to be > 0")]
    NegativeTimeout,
    #[error(transparent)]
    Runtime(#[from] CriError),
}

impl Checkpoints {
    pub(super) fn new(config: Arc<Config>, cri: Arc<Cri>) -> Self {
        Self {
            config,
            cri,
            started: Zoned::now(),
        }
    }

    /// Answers one request. `pod` is the one that the path names, if there is one.
    pub(super) async fn handle(&self, names: &[String; 3], pod: Option<KnownPod>, query: Option<&str>) -> Answer {
        let [namespace, pod_name, container] = names;
        let Some(pod) = pod else {
            if self.config.is(Mutant::OkForUnknownPod) {
                let full_name = format!("{pod_name}_{namespace}");
                return self.success(&self.location(&full_name, container));
            }
            return answer::plain(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let first = pod
            .containers
            .first()
            .filter(|_| self.config.is(Mutant::WrongContainer));
        let container = first.unwrap_or(container);
        if !pod.containers.contains(container) {
            let status = if self.config.is(Mutant::UnknownContainer500) {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::NOT_FOUND
            };
            return answer::plain(status, format!("container {container} does not exist"));
        }
        let timeout = match route::query_values(query, "timeout")
            .last()
            .map(|value| value.parse::<i64>())
        {
            None => 0,
            Some(Ok(timeout)) => timeout,
            Some(Err(_)) if self.config.is(Mutant::TimeoutMalformedAccepted) => 0,
            Some(Err(_)) => return answer::plain(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter"),
        };
        let asked_for_zero = query.is_some_and(|query| !route::query_values(Some(query), "timeout").is_empty());
        match self
            .checkpoint(&pod, container, timeout, asked_for_zero && timeout == 0)
            .await
        {
            Ok(location) => self.success(&location),
            Err(failure) => self.failure(&failure, &pod, names, container),
        }
    }

    /// Finds the running container, then asks the runtime.
    async fn checkpoint(&self, pod: &KnownPod, container: &str, timeout: i64, zero: bool) -> Result<PathBuf, Failure> {
        let id = self.running(pod, container).await?;
        let location = self.location(&pod.full_name(), container);
        let Some(container_id) = id else {
            if self.config.is(Mutant::OkForExited) {
                return Ok(location);
            }
            return Err(Failure::NotRunning(container.to_owned()));
        };
        if timeout < 0 {
            self.cri.count(OPERATION, true);
            return Err(Failure::NegativeTimeout);
        }
        let (field, deadline) = self.deadline(timeout, zero);
        let message = CheckpointContainerRequest {
            container_id: container_id.clone(),
            location: location.display().to_string(),
            timeout: field,
        };
        let Some(deadline) = deadline else {
            self.cri.count(OPERATION, true);
            return Err(CriError::deadline().into());
        };
        let cri = Arc::clone(&self.cri);
        let call = async move { cri.checkpoint_container(deadline, message).await };
        // Dropping the handler's future drops the call; only a mutant lets it run on.
        match self.config.mutant {
            Some(Mutant::AnswersEarly) => drop(tokio::spawn(call)),
            Some(Mutant::CancelIgnored) => {
                let lost = |_| CriError {
                    code: Code::Internal,
                    message: "the call was lost".to_owned(),
                };
                tokio::spawn(call).await.unwrap_or_else(|error| Err(lost(error)))?;
            }
            _ => drop(call.await?),
        }
        self.spoil(&container_id, &location).await;
        Ok(location)
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
            state: Some(state),
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
            .find(|found| ours(&found.labels))
            .map(|found| found.id))
    }

    /// What the runtime is sent as `timeout`, and the deadline of the call; none when it has passed before the call.
    fn deadline(&self, timeout: i64, zero: bool) -> (i64, Option<Duration>) {
        let default = self.cri.timeout();
        let seconds = i64::try_from(default.as_secs()).unwrap_or(i64::MAX);
        match self.config.mutant {
            Some(Mutant::TimeoutIgnored) => return (seconds, Some(default)),
            Some(Mutant::TimeoutZeroMeansNow) if zero => return (0, None),
            Some(Mutant::TimeoutShortened) if timeout > 0 => {
                return (timeout, Some(Duration::from_secs(timeout.unsigned_abs())));
            }
            _ => {}
        }
        if timeout <= seconds {
            return (seconds, Some(default));
        }
        // The kubelet's product of seconds and nanoseconds wraps around.
        let nanoseconds = timeout.wrapping_mul(1_000_000_000);
        (
            timeout,
            u64::try_from(nanoseconds)
                .ok()
                .filter(|left| *left > 0)
                .map(Duration::from_nanos),
        )
    }

    /// Where the archive goes: `checkpoint-<pod>_<namespace>-<container>-<time>.tar`.
    fn location(&self, full_name: &str, container: &str) -> PathBuf {
        let now = if self.config.is(Mutant::TimestampStale) {
            self.started.clone()
        } else {
            Zoned::now()
        };
        let time = if self.config.is(Mutant::TimestampWrong) {
            now.timestamp().as_second().to_string()
        } else {
            rfc3339(&now)
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
        let code = match failure {
            Failure::Runtime(error) => Some(error.code),
            _ => None,
        };
        let status = match (self.config.mutant, code) {
            (Some(Mutant::ErrorSwallowed), Some(_)) => {
                return self.success(&self.location(&pod.full_name(), container));
            }
            (Some(Mutant::Unimplemented501), Some(Code::Unimplemented)) => StatusCode::NOT_IMPLEMENTED,
            (Some(Mutant::Error404), Some(code)) if code != Code::Unimplemented => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let why = match (self.config.mutant, failure) {
            (Some(Mutant::ErrorWithoutMessage), Failure::Runtime(_)) => "runtime error".to_owned(),
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

const OPERATION: &str = "checkpoint_container";

/// As Go's `time.RFC3339`: whole seconds, the local zone, `Z` when that is UTC.
fn rfc3339(now: &Zoned) -> String {
    let zone = if now.offset().seconds() == 0 { "Z" } else { "%:z" };
    now.strftime(&format!("%Y-%m-%dT%H:%M:%S{zone}")).to_string()
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
        Checkpoints::new(config, cri)
    }

    #[rstest]
    #[case(0, 120, Some(Duration::from_secs(120)))]
    #[case(1, 120, Some(Duration::from_secs(120)))]
    #[case(120, 120, Some(Duration::from_secs(120)))]
    #[case(121, 121, Some(Duration::from_secs(121)))]
    #[case(i64::MAX, i64::MAX, None)]
    #[tokio::test]
    async fn only_lengthens_the_timeout(#[case] asked: i64, #[case] field: i64, #[case] deadline: Option<Duration>) {
        assert_eq!(checkpoints(None).deadline(asked, asked == 0), (field, deadline));
    }

    #[tokio::test]
    async fn mutants_get_the_timeout_wrong() {
        let default = Some(Duration::from_secs(120));
        assert_eq!(
            checkpoints(Some(Mutant::TimeoutIgnored)).deadline(500, false),
            (120, default)
        );
        assert_eq!(
            checkpoints(Some(Mutant::TimeoutZeroMeansNow)).deadline(0, true),
            (0, None)
        );
        assert_eq!(
            checkpoints(Some(Mutant::TimeoutZeroMeansNow)).deadline(0, false),
            (120, default)
        );
        let short = Some(Duration::from_secs(3));
        assert_eq!(
            checkpoints(Some(Mutant::TimeoutShortened)).deadline(3, false),
            (3, short)
        );
    }

    #[rstest]
    #[case("2026-11-22T14:05:06.789+00:00[UTC]", "2026-11-22T14:05:06Z")]
    #[case("2026-11-22T14:05:06+05:30[Asia/Kolkata]", "2026-11-22T14:05:06+05:30")]
    #[case("2026-11-22T14:05:06-03:30[America/St_Johns]", "2026-11-22T14:05:06-03:30")]
    fn writes_rfc3339(#[case] moment: &str, #[case] expected: &str) {
        assert_eq!(rfc3339(&moment.parse::<Zoned>().unwrap()), expected);
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
