//! The CRI's RuntimeService.

use std::{sync::Arc, time::Instant};

use cri_proto::runtime::v1::{self, runtime_service_server::RuntimeService};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Conditions,
    deadline::{caller_deadline, seconds},
    status::not_built,
    translate,
};
use crate::{
    checkpoint::Caller,
    fault,
    runtime::{CgroupDriver, CheckpointRequest, HANDLERS, Runtime},
};

type Answer<T> = Result<Response<T>, Status>;

/// The stream of a call that is not built: there is never one.
type NoStream<T> = tokio_stream::Empty<Result<T, Status>>;

/// Answers the RuntimeService's calls.
#[derive(Clone, Debug)]
pub struct RuntimeApi {
    runtime: Arc<Runtime>,
    conditions: Arc<Conditions>,
}

impl RuntimeApi {
    /// Answers for this runtime, and with these conditions.
    pub fn new(runtime: Arc<Runtime>, conditions: Arc<Conditions>) -> RuntimeApi {
        RuntimeApi { runtime, conditions }
    }
}

fn condition(name: &str, holds: bool) -> v1::RuntimeCondition {
    let said = |text: &str| match holds {
        true => String::new(),
        false => text.to_owned(),
    };
    v1::RuntimeCondition {
        r#type: name.to_owned(),
        status: holds,
        reason: said("SetByControlApi"),
        message: said("fake-cri was told so through its control API"),
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            // The version of the kubelet's own runtime API, which kubelets compare.
            version: "0.1.0".to_owned(),
            runtime_name: "fake-cri".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
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
                    condition("RuntimeReady", self.conditions.runtime_ready()),
                    condition("NetworkReady", self.conditions.network_ready()),
                ],
            }),
            info,
            runtime_handlers: HANDLERS.iter().map(handler).collect(),
            features: Some(v1::RuntimeFeatures::default()),
        }))
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
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
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        if let Some(network) = network {
            self.runtime.set_pod_cidr(network.pod_cidr);
        }
        Ok(Response::new(Default::default()))
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let pod_sandbox_id = self.runtime.run_pod(request.config, &request.runtime_handler)?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.runtime.stop_pod(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.runtime.remove_pod(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
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
    ) -> Answer<v1::ListPodSandboxResponse> {
        let pods = self.runtime.list_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListPodSandboxResponse {
            items: pods.into_iter().map(translate::pod).collect(),
        }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let runtime = Arc::clone(&self.runtime);
        // One that goes on from an archive has it read, which may take long, and must not hold up other calls. It ends with this
        // future, which is dropped when the caller goes away or its deadline passes.
        let caller = Caller::patient();
        let _present = caller.until_dropped();
        let made = tokio::task::spawn_blocking(move || {
            runtime.create_container(&request.pod_sandbox_id, request.config, &caller)
        });
        let container_id = made
            .await
            .map_err(|error| Status::internal(format!("failed to create a container: {error}")))??;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        self.runtime.start_container(&request.into_inner().container_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.runtime
            .stop_container(&request.container_id, seconds(request.timeout))
            .await?;
        Ok(Response::new(Default::default()))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.runtime
            .remove_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(Default::default()))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        let records = self.runtime.list_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListContainersResponse {
            containers: records.into_iter().map(translate::container).collect(),
        }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        let record = container.record();
        Ok(Response::new(v1::ContainerStatusResponse {
            status: Some(container.status()),
            info: match request.verbose {
                true => translate::container_info(&self.runtime, &record),
                false => Default::default(),
            },
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.runtime.update_resources(&request.container_id, request.linux)?;
        Ok(Response::new(Default::default()))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.runtime.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(Default::default()))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let output = self
            .runtime
            .exec(&request.container_id, request.cmd, seconds(request.timeout))
            .await?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        let usage = self.runtime.usage(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::ContainerStatsResponse {
            stats: Some(translate::container_stats(&self.runtime, usage)),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let usages = self.runtime.list_usage(request.into_inner().filter.as_ref()).await;
        let stats = usages
            .into_iter()
            .map(|usage| translate::container_stats(&self.runtime, usage));
        Ok(Response::new(v1::ListContainerStatsResponse { stats: stats.collect() }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        let deadline = caller_deadline(request.metadata(), Instant::now());
        let injections = request
            .extensions()
            .get::<fault::Injections>()
            .cloned()
            .unwrap_or_default()
            .0;
        let request = request.into_inner();
        self.runtime
            .checkpoint(CheckpointRequest {
                container_id: request.container_id,
                location: request.location,
                timeout: request.timeout,
                deadline,
                injections,
            })
            .await?;
        Ok(Response::new(Default::default()))
    }

    // What follows is not built yet, and says so.

    async fn exec(&self, _: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        Err(not_built("Exec"))
    }

    async fn attach(&self, _: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        Err(not_built("Attach"))
    }

    async fn port_forward(&self, _: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        Err(not_built("PortForward"))
    }

    async fn pod_sandbox_stats(&self, _: Request<v1::PodSandboxStatsRequest>) -> Answer<v1::PodSandboxStatsResponse> {
        Err(not_built("PodSandboxStats"))
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        Err(not_built("ListPodSandboxStats"))
    }

    async fn checkpoint_pod(&self, _: Request<v1::CheckpointPodRequest>) -> Answer<v1::CheckpointPodResponse> {
        Err(not_built("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> Answer<v1::RestorePodResponse> {
        Err(not_built("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        Err(not_built("ListMetricDescriptors"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        Err(not_built("ListPodSandboxMetrics"))
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        Err(not_built("UpdatePodSandboxResources"))
    }

    type StreamPodSandboxesStream = NoStream<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        _: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        Err(not_built("StreamPodSandboxes"))
    }

    type StreamContainersStream = NoStream<v1::StreamContainersResponse>;

    async fn stream_containers(&self, _: Request<v1::StreamContainersRequest>) -> Answer<Self::StreamContainersStream> {
        Err(not_built("StreamContainers"))
    }

    type StreamContainerStatsStream = NoStream<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        _: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        Err(not_built("StreamContainerStats"))
    }

    type StreamPodSandboxStatsStream = NoStream<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        Err(not_built("StreamPodSandboxStats"))
    }

    type StreamPodSandboxMetricsStream = NoStream<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Err(not_built("StreamPodSandboxMetrics"))
    }

    type GetContainerEventsStream = NoStream<v1::ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        Err(not_built("GetContainerEvents"))
    }
}
