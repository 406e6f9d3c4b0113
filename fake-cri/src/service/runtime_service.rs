//! The CRI's RuntimeService.

use std::{sync::Arc, time::Instant};

use cri_proto::runtime::v1::{self, runtime_service_server::RuntimeService};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Conditions,
    call_defects::CallDefects,
    deadline::{caller_deadline, seconds_to_duration},
    status::unimplemented,
    translate,
};
use crate::{
    checkpoint::CancelFlag,
    fault::CheckpointFaults,
    runtime::{CgroupDriver, CheckpointRequest, RUNTIME_HANDLERS, Runtime},
};

type RuntimeRpcResult<T> = Result<Response<T>, Status>;

type EmptyStream<T> = tokio_stream::Empty<Result<T, Status>>;

/// Implements the RuntimeService.
#[derive(Clone, Debug)]
pub struct RuntimeApi {
    runtime: Arc<Runtime>,
    call_defects: Arc<CallDefects>,
    conditions: Arc<Conditions>,
}

impl RuntimeApi {
    /// Creates a service for a runtime. Status returns `conditions`.
    pub fn new(runtime: Arc<Runtime>, conditions: Arc<Conditions>) -> RuntimeApi {
        RuntimeApi {
            call_defects: Arc::new(CallDefects::new(Arc::clone(&runtime))),
            runtime,
            conditions,
        }
    }
}

fn runtime_condition(name: &str, is_true: bool) -> v1::RuntimeCondition {
    let text_if_false = |text: &str| match is_true {
        true => String::new(),
        false => text.to_owned(),
    };
    v1::RuntimeCondition {
        r#type: name.to_owned(),
        status: is_true,
        reason: text_if_false("SetByControlApi"),
        message: text_if_false("set through the control API of fake-cri"),
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    async fn version(&self, _: Request<v1::VersionRequest>) -> RuntimeRpcResult<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            // The version of the kubelet runtime API, which the kubelet compares with its own.
            version: "0.1.0".to_owned(),
            runtime_name: "fake-cri".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> RuntimeRpcResult<v1::StatusResponse> {
        let handler = |name: &&str| v1::RuntimeHandler {
            name: (*name).to_owned(),
            features: Some(v1::RuntimeHandlerFeatures::default()),
        };
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            let config = &self.runtime.config;
            let config = json!({
                "stateDir": self.runtime.state_dir(),
                "exec": format!("{:?}", config.exec),
                "strictImages": config.strict_images,
                "fsync": config.fsync,
                "strictCapture": config.strict_capture,
                "podCIDR": self.runtime.pod_cidr(),
            });
            info.insert("config".to_owned(), config.to_string());
        }
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![
                    runtime_condition("RuntimeReady", self.conditions.runtime_ready()),
                    runtime_condition("NetworkReady", self.conditions.network_ready()),
                ],
            }),
            info,
            runtime_handlers: RUNTIME_HANDLERS.iter().map(handler).collect(),
            features: Some(v1::RuntimeFeatures::default()),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> RuntimeRpcResult<v1::RuntimeConfigResponse> {
        let driver = match self.runtime.config.cgroup_driver {
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
        };
        Ok(Response::new(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration {
                cgroup_driver: driver as i32,
            }),
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> RuntimeRpcResult<v1::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        if let Some(network) = network {
            self.runtime.set_pod_cidr(network.pod_cidr);
        }
        Ok(Response::new(Default::default()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> RuntimeRpcResult<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let pod_sandbox_id = self.runtime.run_pod(request.config, &request.runtime_handler)?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> RuntimeRpcResult<v1::StopPodSandboxResponse> {
        self.runtime.stop_pod(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> RuntimeRpcResult<v1::RemovePodSandboxResponse> {
        self.runtime.remove_pod(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> RuntimeRpcResult<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.runtime.pod(&request.pod_sandbox_id)?;
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(translate::pod_status(&pod)),
            info: if request.verbose {
                translate::pod_info(&pod)
            } else {
                Default::default()
            },
            // Only a runtime that sends container events fills these.
            containers_statuses: Vec::new(),
            timestamp: 0,
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> RuntimeRpcResult<v1::ListPodSandboxResponse> {
        let pods = self.runtime.list_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListPodSandboxResponse {
            items: pods.into_iter().map(translate::pod).collect(),
        }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> RuntimeRpcResult<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let runtime = Arc::clone(&self.runtime);
        // For a restored container the archive is read, which may take long and must not block other calls. The read
        // stops when this future is dropped: the caller cancels, or its deadline passes.
        let caller = CancelFlag::new();
        let _cancel_on_drop = caller.cancel_on_drop();
        let creation = tokio::task::spawn_blocking(move || {
            runtime.create_container(&request.pod_sandbox_id, request.config, &caller)
        });
        let container_id = creation
            .await
            .map_err(|error| Status::internal(format!("failed to create a container: {error}")))??;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> RuntimeRpcResult<v1::StartContainerResponse> {
        self.runtime.start_container(&request.into_inner().container_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> RuntimeRpcResult<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.runtime
            .stop_container(&request.container_id, seconds_to_duration(request.timeout))
            .await?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> RuntimeRpcResult<v1::RemoveContainerResponse> {
        self.runtime
            .remove_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(Default::default()))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> RuntimeRpcResult<v1::ListContainersResponse> {
        let records = self.runtime.list_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListContainersResponse {
            containers: records.into_iter().map(translate::container).collect(),
        }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> RuntimeRpcResult<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        let record = container.record();
        Ok(Response::new(v1::ContainerStatusResponse {
            status: Some(self.call_defects.status(&record)),
            info: match request.verbose {
                true => translate::container_info(&self.runtime, &record),
                false => Default::default(),
            },
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> RuntimeRpcResult<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.runtime.update_resources(&request.container_id, request.linux)?;
        Ok(Response::new(Default::default()))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> RuntimeRpcResult<v1::ReopenContainerLogResponse> {
        self.runtime.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> RuntimeRpcResult<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let output = self
            .call_defects
            .exec(&request.container_id, request.cmd, seconds_to_duration(request.timeout))
            .await?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> RuntimeRpcResult<v1::ContainerStatsResponse> {
        let usage = self.runtime.usage(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::ContainerStatsResponse {
            stats: Some(translate::container_stats(&self.runtime, usage)),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> RuntimeRpcResult<v1::ListContainerStatsResponse> {
        let usages = self.runtime.list_usage(request.into_inner().filter.as_ref()).await;
        let stats = usages
            .into_iter()
            .map(|usage| translate::container_stats(&self.runtime, usage));
        Ok(Response::new(v1::ListContainerStatsResponse { stats: stats.collect() }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> RuntimeRpcResult<v1::CheckpointContainerResponse> {
        let deadline = caller_deadline(request.metadata(), Instant::now());
        let faults = request.extensions().get::<CheckpointFaults>().cloned();
        let request = request.into_inner();
        self.call_defects
            .checkpoint(CheckpointRequest {
                container_id: request.container_id,
                location: request.location,
                timeout: request.timeout,
                deadline,
                faults: faults.unwrap_or_default(),
            })
            .await?;
        Ok(Response::new(Default::default()))
    }

    // The following rpcs are not implemented.

    async fn exec(&self, _: Request<v1::ExecRequest>) -> RuntimeRpcResult<v1::ExecResponse> {
        Err(unimplemented("Exec"))
    }

    async fn attach(&self, _: Request<v1::AttachRequest>) -> RuntimeRpcResult<v1::AttachResponse> {
        Err(unimplemented("Attach"))
    }

    async fn port_forward(&self, _: Request<v1::PortForwardRequest>) -> RuntimeRpcResult<v1::PortForwardResponse> {
        Err(unimplemented("PortForward"))
    }

    async fn pod_sandbox_stats(
        &self,
        _: Request<v1::PodSandboxStatsRequest>,
    ) -> RuntimeRpcResult<v1::PodSandboxStatsResponse> {
        Err(unimplemented("PodSandboxStats"))
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> RuntimeRpcResult<v1::ListPodSandboxStatsResponse> {
        Err(unimplemented("ListPodSandboxStats"))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<v1::CheckpointPodRequest>,
    ) -> RuntimeRpcResult<v1::CheckpointPodResponse> {
        Err(unimplemented("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> RuntimeRpcResult<v1::RestorePodResponse> {
        Err(unimplemented("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> RuntimeRpcResult<v1::ListMetricDescriptorsResponse> {
        Err(unimplemented("ListMetricDescriptors"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> RuntimeRpcResult<v1::ListPodSandboxMetricsResponse> {
        Err(unimplemented("ListPodSandboxMetrics"))
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> RuntimeRpcResult<v1::UpdatePodSandboxResourcesResponse> {
        Err(unimplemented("UpdatePodSandboxResources"))
    }

    type StreamPodSandboxesStream = EmptyStream<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        _: Request<v1::StreamPodSandboxesRequest>,
    ) -> RuntimeRpcResult<Self::StreamPodSandboxesStream> {
        Err(unimplemented("StreamPodSandboxes"))
    }

    type StreamContainersStream = EmptyStream<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        _: Request<v1::StreamContainersRequest>,
    ) -> RuntimeRpcResult<Self::StreamContainersStream> {
        Err(unimplemented("StreamContainers"))
    }

    type StreamContainerStatsStream = EmptyStream<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        _: Request<v1::StreamContainerStatsRequest>,
    ) -> RuntimeRpcResult<Self::StreamContainerStatsStream> {
        Err(unimplemented("StreamContainerStats"))
    }

    type StreamPodSandboxStatsStream = EmptyStream<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> RuntimeRpcResult<Self::StreamPodSandboxStatsStream> {
        Err(unimplemented("StreamPodSandboxStats"))
    }

    type StreamPodSandboxMetricsStream = EmptyStream<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> RuntimeRpcResult<Self::StreamPodSandboxMetricsStream> {
        Err(unimplemented("StreamPodSandboxMetrics"))
    }

    type GetContainerEventsStream = EmptyStream<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> RuntimeRpcResult<Self::GetContainerEventsStream> {
        Err(unimplemented("GetContainerEvents"))
    }
}
