//! The configuration of the reference kubelet.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::behavior::Behavior;

/// The configuration of a [`ReferenceKubelet`](super::ReferenceKubelet).
#[derive(Clone, Debug)]
pub struct Config {
    /// The address for HTTPS. Default 127.0.0.1.
    pub address: IpAddr,
    /// The HTTPS port. Default 0, a free port.
    pub port: u16,
    /// The read-only port, without TLS, authentication and checkpoint route. Default none.
    pub read_only_port: Option<u16>,
    /// The node name, which is appended to the name of each static Pod. Default `reference`.
    pub node_name: String,
    /// The root directory, which contains `checkpoints`. Created if it does not exist.
    pub root_dir: PathBuf,
    /// The directory for the logs of Pods. Default `pod-logs` below the root directory.
    pub pod_logs_dir: PathBuf,
    /// The endpoint of the runtime, as `unix:///PATH` or a path.
    pub runtime_endpoint: String,
    /// The default timeout of CRI calls. A checkpoint timeout can only be longer. Default 2 minutes.
    pub runtime_request_timeout: Duration,
    /// A directory of static Pod manifests, or one manifest. Default none.
    pub static_pod_path: Option<PathBuf>,
    /// The interval for reading the manifests again; zero reads them once. Default 20 seconds.
    pub file_check_frequency: Duration,
    /// The interval for listing the sandboxes and containers of the runtime. Default 100 milliseconds.
    pub relist_period: Duration,
    /// The first delay before a container restart; it doubles up to 5 minutes. Default 10 seconds.
    pub restart_backoff: Duration,
    /// The certificate and key of the server. Default a self-signed certificate that is generated at each start.
    pub server_certificate: Option<CertificateFiles>,
    /// The CAs whose client certificates are accepted. The user is the common name of the subject.
    pub client_ca_file: Option<PathBuf>,
    /// A file of bearer tokens: lines of `token,user,uid,"group1,group2"`.
    pub token_auth_file: Option<PathBuf>,
    /// Whether a request without credentials is accepted as `system:anonymous`. Default false.
    pub anonymous: bool,
    /// The authorization mode. Default [`Authorization::AlwaysAllow`].
    pub authorization: Authorization,
    /// The feature gate `ContainerCheckpoint`. `None` is the default of the kubelet: on since Kubernetes 1.30.
    pub container_checkpoint: Option<bool>,
    /// Whether the timestamp in an archive name has nanoseconds, so that two checkpoints within a second get different
    /// names. Default false: the kubelet writes whole seconds.
    pub fractional_timestamps: bool,
    /// The time zone of the timestamps in archive names. Default that of the machine.
    pub time_zone: TimeZone,
    /// Whether the debugging handlers are served, including the checkpoint route. Default true.
    pub debugging_handlers: bool,
    /// Whether HTTP/2 is offered, as by kubelets up to 1.35. Default false, as in 1.36.
    pub http2: bool,
    /// Whether shutdown stops and removes the Pods. Default false: the Pods keep running, as with a kubelet.
    pub remove_pods_at_shutdown: bool,
    /// What a mutant replaces.
    pub(crate) behavior: Behavior,
}

impl Config {
    /// Creates the default configuration with this root directory and runtime endpoint.
    #[must_use]
    pub fn new(root_dir: impl AsRef<Path>, runtime_endpoint: impl Into<String>) -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            read_only_port: None,
            node_name: "reference".to_owned(),
            root_dir: root_dir.as_ref().to_owned(),
            pod_logs_dir: root_dir.as_ref().join("pod-logs"),
            runtime_endpoint: runtime_endpoint.into(),
            runtime_request_timeout: Duration::from_secs(120),
            static_pod_path: None,
            file_check_frequency: Duration::from_secs(20),
            relist_period: Duration::from_millis(100),
            restart_backoff: Duration::from_secs(10),
            server_certificate: None,
            client_ca_file: None,
            token_auth_file: None,
            anonymous: false,
            authorization: Authorization::AlwaysAllow,
            container_checkpoint: None,
            fractional_timestamps: false,
            time_zone: TimeZone::system(),
            debugging_handlers: true,
            http2: false,
            remove_pods_at_shutdown: false,
            behavior: Behavior::default(),
        }
    }

    /// Returns the directory of the archives.
    #[must_use]
    pub fn checkpoints_dir(&self) -> PathBuf {
        self.root_dir.join("checkpoints")
    }

    /// Whether the feature gate `ContainerCheckpoint` is on.
    pub(crate) fn checkpoint_gate(&self) -> bool {
        self.container_checkpoint.unwrap_or(true)
    }
}

/// The PEM files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The authorization mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// Every authenticated user may do everything.
    #[default]
    AlwaysAllow,
    /// A file with one rule per line: `USER VERB RESOURCE`, such as `alice create nodes/checkpoint`. `*` matches
    /// anything, `group:NAME` matches a group, `#` begins a comment. Requests that no rule allows are denied.
    Rules(PathBuf),
}
