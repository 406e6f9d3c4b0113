//! A CRI runtime without processes. It keeps its state in memory, records every call, and the test selects the behavior
//! of CheckpointContainer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use cri_proto::runtime::v1::*;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::{Code, Status};

/// The behavior of CheckpointContainer.
#[derive(Clone, Debug)]
pub enum CheckpointScript {
    /// Writes a small file.
    Write,
    /// Returns an error.
    Error(Code, String),
    /// Never returns.
    Hang,
}

#[derive(Clone, Debug)]
pub struct RecordedCall {
    pub rpc: String,
    pub message: Bytes,
    /// The deadline that the client sent, in milliseconds.
    pub deadline: Option<u64>,
    /// Whether the client cancelled the call.
    pub cancelled: bool,
}

#[derive(Default)]
struct ScriptedState {
    calls: Vec<RecordedCall>,
    script: Option<CheckpointScript>,
    sandboxes: BTreeMap<String, (PodSandboxConfig, PodSandboxState)>,
    containers: BTreeMap<String, (String, ContainerConfig, ContainerStatus)>,
    images: Vec<String>,
    next_id: i64,
}

/// The runtime. Dropping it stops the server.
pub struct ScriptedRuntime {
    directory: tempfile::TempDir,
    state: Arc<Mutex<ScriptedState>>,
    changes: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ScriptedRuntime {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ScriptedRuntime {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("cri.sock")).unwrap();
        let state = Arc::new(Mutex::new(ScriptedState::default()));
        let (changes, _) = watch::channel(0);
        let task = tokio::spawn(serve(listener, Arc::clone(&state), changes.clone()));
        Self {
            directory,
            state,
            changes,
            task,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.directory.path().join("cri.sock").display())
    }

    /// Sets the behavior of later CheckpointContainer calls.
    pub fn script(&self, script: CheckpointScript) {
        self.state.lock().unwrap().script = Some(script);
    }

    /// Returns all calls of one RPC so far.
    pub fn calls(&self, rpc: &str) -> Vec<RecordedCall> {
        self.state
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter(|call| call.rpc == rpc)
            .cloned()
            .collect()
    }

    /// Returns the messages of all calls of one RPC so far.
    pub fn messages<M: Message + Default>(&self, rpc: &str) -> Vec<M> {
        self.calls(rpc)
            .into_iter()
            .map(|call| M::decode(call.message).unwrap())
            .collect()
    }

    /// Returns the names of the RPCs that changed the state, in order.
    pub fn mutating_calls(&self) -> Vec<String> {
        let read_only_calls = [
            "Version",
            "ListPodSandbox",
            "ListContainers",
            "ContainerStatus",
            "ImageStatus",
        ];
        let state = self.state.lock().unwrap();
        state
            .calls
            .iter()
            .map(|call| call.rpc.clone())
            .filter(|rpc| !read_only_calls.contains(&rpc.as_str()))
            .collect()
    }

    /// Returns name, attempt and state of each container.
    pub fn containers(&self) -> Vec<(String, u32, ContainerState)> {
        let state = self.state.lock().unwrap();
        let values = state.containers.values();
        values
            .map(|(_, config, status)| (container_name(config), attempt(config), status.state()))
            .collect()
    }

    pub fn sandboxes(&self) -> Vec<(PodSandboxConfig, PodSandboxState)> {
        self.state.lock().unwrap().sandboxes.values().cloned().collect()
    }

    /// Makes the running container with this name exit.
    pub fn exit_container(&self, container: &str, code: i32) {
        let mut state = self.state.lock().unwrap();
        let running = |status: &ContainerStatus| status.state() == ContainerState::ContainerRunning;
        let entry = state
            .containers
            .values_mut()
            .find(|(_, config, status)| container_name(config) == container && running(status));
        let (_, _, status) = entry.expect("the container is running");
        status.set_state(ContainerState::ContainerExited);
        status.exit_code = code;
        status.finished_at = status.started_at + 1;
        status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    }

    /// Removes all sandboxes, as a reboot of the host does.
    pub fn lose_sandboxes(&self) {
        let mut state = self.state.lock().unwrap();
        state
            .sandboxes
            .values_mut()
            .for_each(|sandbox| sandbox.1 = PodSandboxState::SandboxNotready);
        for (_, _, status) in state.containers.values_mut() {
            status.set_state(ContainerState::ContainerExited);
        }
    }

    /// Waits until a condition holds. The condition is evaluated after every call.
    pub async fn wait_until(&self, description: &str, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = async {
            while !condition(self) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("timeout: {description}"));
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn container_name(config: &ContainerConfig) -> String {
    config.metadata.clone().unwrap_or_default().name
}

fn attempt(config: &ContainerConfig) -> u32 {
    config.metadata.clone().unwrap_or_default().attempt
}

async fn serve(listener: UnixListener, state: Arc<Mutex<ScriptedState>>, changes: watch::Sender<u64>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (state, changes) = (Arc::clone(&state), changes.clone());
        let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&state), changes.clone()));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}

/// Marks a call as cancelled when it is dropped before its response.
struct CancellationRecorder(Arc<Mutex<ScriptedState>>, usize, watch::Sender<u64>, bool);

impl Drop for CancellationRecorder {
    fn drop(&mut self) {
        if !self.3 {
            self.0.lock().unwrap().calls[self.1].cancelled = true;
        }
        self.2.send_modify(|count| *count += 1);
    }
}

type GrpcResponse = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<ScriptedState>>,
    changes: watch::Sender<u64>,
) -> Result<GrpcResponse, hyper::Error> {
    let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let deadline = request
        .headers()
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    let message = request.into_body().collect().await?.to_bytes().slice(5..);
    let call = RecordedCall {
        rpc: rpc.clone(),
        message: message.clone(),
        deadline,
        cancelled: false,
    };
    let index = {
        let mut state = state.lock().unwrap();
        state.calls.push(call);
        state.calls.len() - 1
    };
    changes.send_modify(|count| *count += 1);
    let mut unanswered = CancellationRecorder(Arc::clone(&state), index, changes, false);
    let script = state.lock().unwrap().script.clone().unwrap_or(CheckpointScript::Write);
    if rpc == "CheckpointContainer" && matches!(script, CheckpointScript::Hang) {
        std::future::pending::<()>().await;
    }
    let result = state.lock().unwrap().dispatch(&rpc, message, &script);
    unanswered.3 = true;
    let (code, text, body) = match result {
        Ok(body) => (0, String::new(), body),
        Err(status) => (status.code() as i32, status.message().to_owned(), Bytes::new()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !text.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_str(&percent_encode(&text)).unwrap());
    }
    let mut frame = BytesMut::new();
    if code == 0 {
        frame.put_u8(0);
        frame.put_u32(u32::try_from(body.len()).unwrap());
        frame.put(body);
    }
    let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn percent_encode(text: &str) -> String {
    const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn parse_timeout(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.len() - 1);
    let digits: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => digits * 3_600_000,
        "M" => digits * 60_000,
        "S" => digits * 1000,
        "m" => digits,
        "u" => digits / 1000,
        _ => digits / 1_000_000,
    })
}

impl ScriptedState {
    fn new_id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}{:04}", self.next_id)
    }

    fn dispatch(&mut self, rpc: &str, message: Bytes, script: &CheckpointScript) -> Result<Bytes, Status> {
        fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
            M::decode(message).map_err(|error| Status::internal(error.to_string()))
        }
        let reply = |message: &dyn Fn() -> Vec<u8>| Ok(Bytes::from(message()));
        let not_found = || Status::not_found("no such id");
        match rpc {
            "Version" => {
                let version = VersionResponse {
                    version: "0.1.0".into(),
                    runtime_name: "scripted".into(),
                    runtime_version: "1".into(),
                    runtime_api_version: "v1".into(),
                };
                reply(&|| version.encode_to_vec())
            }
            "RunPodSandbox" => {
                let config = read::<RunPodSandboxRequest>(message)?.config.unwrap_or_default();
                let pod_sandbox_id = self.new_id("s");
                self.sandboxes
                    .insert(pod_sandbox_id.clone(), (config, PodSandboxState::SandboxReady));
                reply(&|| {
                    RunPodSandboxResponse {
                        pod_sandbox_id: pod_sandbox_id.clone(),
                    }
                    .encode_to_vec()
                })
            }
            "StopPodSandbox" => {
                let id = read::<StopPodSandboxRequest>(message)?.pod_sandbox_id;
                if let Some(sandbox) = self.sandboxes.get_mut(&id) {
                    sandbox.1 = PodSandboxState::SandboxNotready;
                }
                for (_, _, status) in self.containers.values_mut().filter(|container| container.0 == id) {
                    status.set_state(ContainerState::ContainerExited);
                }
                reply(&Vec::new)
            }
            "RemovePodSandbox" => {
                let id = read::<RemovePodSandboxRequest>(message)?.pod_sandbox_id;
                self.sandboxes.remove(&id);
                self.containers.retain(|_, container| container.0 != id);
                reply(&Vec::new)
            }
            "ListPodSandbox" => {
                let item = |(id, (config, state)): (&String, &(PodSandboxConfig, PodSandboxState))| PodSandbox {
                    id: id.clone(),
                    metadata: config.metadata.clone(),
                    state: i32::from(*state),
                    labels: config.labels.clone(),
                    annotations: config.annotations.clone(),
                    ..PodSandbox::default()
                };
                let items: Vec<_> = self.sandboxes.iter().map(item).collect();
                reply(&|| ListPodSandboxResponse { items: items.clone() }.encode_to_vec())
            }
            "CreateContainer" => {
                let request = read::<CreateContainerRequest>(message)?;
                let sandbox = self.sandboxes.get(&request.pod_sandbox_id).ok_or_else(not_found)?;
                if sandbox.1 != PodSandboxState::SandboxReady {
                    return Err(Status::failed_precondition("the sandbox is not ready"));
                }
                let config = request.config.unwrap_or_default();
                let container_id = self.new_id("c");
                let status = ContainerStatus {
                    id: container_id.clone(),
                    metadata: config.metadata.clone(),
                    image: config.image.clone(),
                    created_at: self.next_id,
                    ..ContainerStatus::default()
                };
                self.containers
                    .insert(container_id.clone(), (request.pod_sandbox_id, config, status));
                reply(&|| {
                    CreateContainerResponse {
                        container_id: container_id.clone(),
                    }
                    .encode_to_vec()
                })
            }
            "StartContainer" => {
                let id = read::<StartContainerRequest>(message)?.container_id;
                let (sandbox, config, status) = self.containers.get_mut(&id).ok_or_else(not_found)?;
                status.set_state(ContainerState::ContainerRunning);
                status.started_at = 1_700_000_000_000_000_000;
                let directory = &self.sandboxes[sandbox].0.log_directory;
                let path = Path::new(directory).join(&config.log_path);
                std::fs::write(
                    path,
                    format!("2026-01-01T00:00:00Z stdout F hello from {}\n", container_name(config)),
                )?;
                reply(&Vec::new)
            }
            "StopContainer" => {
                let id = read::<StopContainerRequest>(message)?.container_id;
                let (_, _, status) = self.containers.get_mut(&id).ok_or_else(not_found)?;
                status.set_state(ContainerState::ContainerExited);
                reply(&Vec::new)
            }
            "RemoveContainer" => {
                self.containers
                    .remove(&read::<RemoveContainerRequest>(message)?.container_id);
                reply(&Vec::new)
            }
            "ListContainers" => {
                let filter = read::<ListContainersRequest>(message)?
                    .filter
                    .and_then(|filter| filter.state);
                let matches =
                    |status: &ContainerStatus| filter.as_ref().is_none_or(|wanted| wanted.state == status.state);
                let item = |(id, (sandbox, config, status)): (&String, &(String, ContainerConfig, ContainerStatus))| {
                    matches(status).then(|| Container {
                        id: id.clone(),
                        pod_sandbox_id: sandbox.clone(),
                        metadata: config.metadata.clone(),
                        state: status.state,
                        created_at: status.created_at,
                        labels: config.labels.clone(),
                        annotations: config.annotations.clone(),
                        ..Container::default()
                    })
                };
                let containers: Vec<_> = self.containers.iter().filter_map(item).collect();
                reply(&|| {
                    ListContainersResponse {
                        containers: containers.clone(),
                    }
                    .encode_to_vec()
                })
            }
            "ContainerStatus" => {
                let id = read::<ContainerStatusRequest>(message)?.container_id;
                let status = self.containers.get(&id).ok_or_else(not_found)?.2.clone();
                let response = ContainerStatusResponse {
                    status: Some(status),
                    ..ContainerStatusResponse::default()
                };
                reply(&|| response.encode_to_vec())
            }
            "ImageStatus" => {
                let image = read::<ImageStatusRequest>(message)?.image.unwrap_or_default().image;
                let image = self.images.contains(&image).then(|| Image {
                    id: image,
                    ..Image::default()
                });
                reply(&|| {
                    ImageStatusResponse {
                        image: image.clone(),
                        ..ImageStatusResponse::default()
                    }
                    .encode_to_vec()
                })
            }
            "PullImage" => {
                let image = read::<PullImageRequest>(message)?.image.unwrap_or_default().image;
                if image.starts_with("missing") {
                    return Err(Status::not_found(format!("{image}: not found")));
                }
                self.images.push(image.clone());
                reply(&|| {
                    PullImageResponse {
                        image_ref: image.clone(),
                    }
                    .encode_to_vec()
                })
            }
            "CheckpointContainer" => {
                let location = PathBuf::from(read::<CheckpointContainerRequest>(message)?.location);
                match script {
                    CheckpointScript::Error(code, text) => Err(Status::new(*code, text)),
                    CheckpointScript::Write | CheckpointScript::Hang => {
                        std::fs::write(location, "tar")?;
                        reply(&Vec::new)
                    }
                }
            }
            _ => Err(Status::unimplemented(format!("unknown method {rpc}"))),
        }
    }
}
