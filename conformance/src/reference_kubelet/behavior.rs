//! The parts of the kubelet that a mutant can replace.
//!
//! Each default is the behavior of the Kubernetes kubelet. The handlers call a part where a kubelet would decide, and
//! know no mutant. A mutant replaces one part, or changes the [`Config`] before the start.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cri_proto::runtime::v1::{CheckpointContainerRequest, ContainerFilter, ContainerState, ContainerStateValue};
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Zoned;
use tokio::sync::Semaphore;

use super::authentication::{Authentication, UserInfo};
use super::authorization::Attributes;
use super::checkpoint::{self, CheckpointError, timeout};
use super::pod_store::{PodRecord, PodStore};
use super::responses::{FullResponse, Rejection};
use super::route::{self, PathNames, ServedRoutes};
use super::runtime_connection::{RuntimeCall, RuntimeConnection};
use super::server::Handlers;
use super::{Config, create_checkpoints_dir};

/// A check before a step of a request. The kubelet has none.
type Precheck = fn(&Handlers, &Parts) -> Result<(), Rejection>;

#[derive(Clone, Debug)]
pub(crate) struct Behavior {
    /// Creates `checkpoints` at the start.
    pub(crate) create_checkpoints_dir: fn(&Path) -> std::io::Result<()>,

    /// Changes a request before it is routed.
    pub(crate) edit_request: fn(&mut Parts),
    /// The routes of a port; the flag is true for the port with authentication.
    pub(crate) served_routes: fn(&Config, bool) -> ServedRoutes,
    pub(crate) before_authentication: Precheck,
    pub(crate) authenticate: fn(&Authentication, &Parts) -> Option<UserInfo>,
    pub(crate) before_authorization: Precheck,
    pub(crate) authorize: fn(&Handlers, &UserInfo, &mut Attributes) -> bool,
    /// What follows a response with a status of 400 to 499, before it is sent. The kubelet does nothing.
    pub(crate) after_refusal: fn(&Arc<Handlers>, &Parts, StatusCode) -> BoxFuture<'static, ()>,
    /// Changes a response before it is sent.
    pub(crate) edit_response: fn(&Arc<Handlers>, &Parts, FullResponse) -> FullResponse,

    /// The names in the path of a checkpoint request.
    pub(crate) path_names: fn(&str) -> Result<PathNames, Rejection>,
    /// Checks the method of a checkpoint request.
    pub(crate) check_method: fn(&Method) -> Result<(), Rejection>,
    pub(crate) before_lookup: Precheck,
    pub(crate) find_pod: fn(&PodStore, &PathNames) -> Result<PodRecord, Rejection>,
    /// The name of the container to checkpoint.
    pub(crate) find_container: fn(&PodStore, &PodRecord, &PathNames) -> Result<String, Rejection>,
    /// The parameter `timeout` of a query.
    pub(crate) parse_timeout: fn(Option<&str>) -> Result<Option<i64>, Rejection>,
    /// The filter for the containers that can be checkpointed.
    pub(crate) container_filter: ContainerFilter,
    /// Whether these labels are those of a Pod's container.
    pub(crate) is_container: fn(&HashMap<String, String>, &PodRecord, &str) -> bool,
    /// The field `timeout` of the CRI request and the deadline of the call, from the parameter and the default.
    pub(crate) call_timeout: fn(Option<i64>, Duration) -> (i64, Option<Duration>),
    /// The time in archive names; `None` is the current time.
    pub(crate) archive_time: Option<Zoned>,
    pub(crate) archive_location: fn(&Config, &PodRecord, &str, &Zoned) -> PathBuf,
    pub(crate) call_runtime: fn(Arc<RuntimeConnection>, Duration, CheckpointContainerRequest) -> RuntimeCall,
    pub(crate) success_response: fn(&Path) -> FullResponse,
    pub(crate) error_response: fn(&PathNames, &CheckpointError) -> FullResponse,
    /// The number of concurrent checkpoints.
    pub(crate) max_checkpoints: usize,
    /// What a mutant remembers from one request to the next. The kubelet remembers nothing.
    pub(crate) memory: Arc<Mutex<BTreeSet<String>>>,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            create_checkpoints_dir,
            edit_request: |_| {},
            served_routes: ServedRoutes::new,
            before_authentication: |_, _| Ok(()),
            authenticate: Authentication::user,
            before_authorization: |_, _| Ok(()),
            authorize: |handlers, user, attributes| handlers.authorizer.allows(user, attributes),
            after_refusal: |_, _, _| Box::pin(std::future::ready(())),
            edit_response: |_, _, response| response,
            path_names: route::path_names,
            check_method: |method| route::check_method(method, Method::POST),
            before_lookup: |_, _| Ok(()),
            find_pod: checkpoint::find_pod,
            find_container: checkpoint::find_container,
            parse_timeout: timeout::parse,
            container_filter: ContainerFilter {
                state: Some(ContainerStateValue {
                    state: ContainerState::ContainerRunning.into(),
                }),
                ..ContainerFilter::default()
            },
            is_container: checkpoint::is_container,
            call_timeout: timeout::field_and_deadline,
            archive_time: None,
            archive_location: checkpoint::archive_location,
            call_runtime: checkpoint::call_runtime,
            success_response: checkpoint::success_response,
            error_response: checkpoint::error_response,
            max_checkpoints: Semaphore::MAX_PERMITS,
            memory: Arc::default(),
        }
    }
}
