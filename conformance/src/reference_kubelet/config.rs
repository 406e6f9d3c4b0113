//! Every knob of the reference kubelet.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Mutant;

/// How a [`ReferenceKubelet`](super::ReferenceKubelet) is to be. [`Config::new`] gives the kubelet's own defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTPS is served. Default 127.0.0.1.
    pub address: IpAddr,
    /// Its port; 0, the default here, takes a free one.
    pub port: u16,
    /// The port without TLS and without authentication, which has no checkpoint route. Default none.
    pub read_only_port: Option<u16>,
    /// The node's name, which follows the name of each static Pod. Default `reference`.
    pub node_name: String,
    /// The root directory; `checkpoints` lies below it. Made if it is not there.
    pub root_dir: PathBuf,
    /// Where the logs of Pods are written. Default `pod-logs` below the root directory.
    pub pod_logs_dir: PathBuf,
    /// The runtime, as `unix:///PATH`; a bare path is taken for one.
    pub runtime_endpoint: String,
    /// The CRI's default timeout, which a checkpoint cannot shorten. Default 2 minutes.
    pub runtime_request_timeout: Duration,
    /// A directory of manifests, or one manifest. Default none.
    pub static_pod_path: Option<PathBuf>,
    /// How often manifests are read again. Default 20 seconds; zero reads them once.
    pub file_check_frequency: Duration,
    /// How often the runtime is asked what became of the containers. Default 100 milliseconds.
    pub relist_period: Duration,
    /// The first pause before a container is started again; it doubles up to 5 minutes. Default 10 seconds.
    pub restart_backoff: Duration,
    /// The server's certificate and key; without, one is made at each start.
    pub server_certificate: Option<CertificateFiles>,
    /// Certificate authorities whose client certificates are accepted; the user is the subject's common name.
    pub client_ca_file: Option<PathBuf>,
    /// Bearer tokens, as lines of `token,user,uid,"group1,group2"`.
    pub token_auth_file: Option<PathBuf>,
    /// Whether a request without credentials is let in, as `system:anonymous`. Default false.
    pub anonymous: bool,
    /// Who may do what.
    pub authorization: Authorization,
    /// The feature gate `ContainerCheckpoint`; none is the default, which is on since Kubernetes 1.30.
    pub container_checkpoint: Option<bool>,
    /// Whether the timestamp in an archive's name has nanoseconds, so that two checkpoints within a second have two names. Default
    /// off: the kubelet writes whole seconds.
    pub fractional_timestamps: bool,
    /// Whether the debugging handlers are served, the checkpoint among them. Default on.
    pub debugging_handlers: bool,
    /// Whether HTTP/2 is offered, as kubelets up to 1.35 do. Default off, as 1.36 has it.
    pub http2: bool,
    /// Whether shutdown stops and removes the Pods; otherwise they run on, as a kubelet's do. Default off.
    pub remove_pods_at_shutdown: bool,
    /// What is to be wrong.
    pub mutant: Option<Mutant>,
}

impl Config {
    /// The kubelet's defaults, with what must be told.
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
            debugging_handlers: true,
            http2: false,
            remove_pods_at_shutdown: false,
            mutant: None,
        }
    }

    /// Where archives go.
    #[must_use]
    pub fn checkpoints_dir(&self) -> PathBuf {
        self.root_dir.join("checkpoints")
    }

    /// Whether the feature gate `ContainerCheckpoint` is on.
    pub(super) fn checkpoint_gate(&self) -> bool {
        self.container_checkpoint
            .unwrap_or(!self.has_mutant(Mutant::GateDefaultOff))
    }

    /// Whether this is the single wrong thing that was asked for.
    pub(super) fn has_mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// Whoever is authenticated may do everything.
    #[default]
    AlwaysAllow,
    /// A file of rules, one a line: `USER VERB RESOURCE`, as `alice create nodes/checkpoint`; `*` is any, `group:NAME`
    /// a group, `#` opens a comment. What no rule allows is denied.
    Rules(PathBuf),
}
