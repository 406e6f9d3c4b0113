//! An unmodified kubelet, started by the harness without a cluster, with its Pods on fake-cri or on another runtime.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX/
//!    pods/          the static Pod's manifest
//!    pki/           CA and server certificates
//!    kubelet.yaml   the kubelet's configuration, rewritten for each start
//!    kubeconfig     for the stub API server, which authenticates and authorises the kubelet's clients
//!    kubelet/       the kubelet's root directory, with `checkpoints`
//!    pod-logs/ plugins/ tmp/     directories that are elsewhere by default
//!    runtime/       fake-cri's state
//! ```
//!
//! The kubelet ends with the harness, even if the harness is killed: a shell between them waits for the end of a pipe.
//! `host_state` reverts the kubelet's changes outside the directory. If the harness was killed, `checkpoint-conformance
//! clean` does that.
//!
//! Ways to fail: no root; another kubelet on the machine; a configuration that this version rejects (the error quotes
//! the end of the log); a Pod that does not start.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fake_cri::{FakeCri, LogDestination};
use tokio::sync::Mutex;

use super::{
    AccessRules, ApiServer, ContainerRef, Kubelet, KubeletConfig, Lifecycle as _, Permission, TargetError, embedded,
    identities::{self, TestIdentities},
    pod,
    run_dir::RunDir,
};
use crate::{engine::Suite, report, tls::CertificateAuthority};
use config_file::KubeletVersion;
use host_state::HostState;
use running::RealLifecycle;

mod config_file;
mod host_state;
mod pod_removal;
mod process;
mod running;

/// A kubelet starts in three seconds. The limit is for a busy machine.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(90);
/// The kubelet's default `runtimeRequestTimeout`, which the configuration does not set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// The options of a real kubelet.
#[derive(Clone, Debug)]
pub struct RealKubelet {
    /// The kubelet's executable.
    pub binary: PathBuf,
    /// Additional arguments. Flags override the configuration file.
    pub extra_args: Vec<OsString>,
    /// The CRI endpoint of another runtime. Without it the harness starts a fake-cri.
    pub runtime_endpoint: Option<String>,
    /// The control socket of that runtime, if it is a fake-cri.
    pub control_socket: Option<PathBuf>,
    /// The directory of the logs. Without it the logs are removed with the run directory.
    pub log_dir: Option<PathBuf>,
    /// The executable to start fake-cri from, for programs whose `main` does not call fake-cri's entry point.
    pub executable: Option<PathBuf>,
}

impl RealKubelet {
    /// Starts fake-cri (without `runtime_endpoint`) and the kubelet, and waits until the Pod is ready.
    ///
    /// # Errors
    /// fake-cri or the kubelet does not start, or the Pod does not become ready. Everything that was started is
    /// stopped.
    pub async fn start(self) -> Result<Kubelet, TargetError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(TargetError::Argument("a real kubelet needs root".to_owned()));
        }
        let version = KubeletVersion::detect(&self.binary).await?;
        let run_dir = RunDir::create(None)?;
        for name in ["pods", "pki", "kubelet", "runtime", "pod-logs", "plugins", "tmp"] {
            run_dir.create_subdir(name)?;
        }
        let host_state = HostState::capture(run_dir.path())?;
        host_state.save()?;
        let log_dir = match &self.log_dir {
            Some(log_dir) => log_dir.clone(),
            None => run_dir.path().to_owned(),
        };
        fs::create_dir_all(&log_dir).map_err(TargetError::file(&log_dir))?;
        let cri = match &self.runtime_endpoint {
            Some(_) => None,
            None => {
                let log = LogDestination::File(log_dir.join("fake-cri.log"));
                Some(embedded::start_fake_cri(&run_dir, log, self.executable.as_deref(), &[]).await?)
            }
        };
        let control_socket = cri
            .as_ref()
            .map(|cri| cri.control_socket().to_owned())
            .or(self.control_socket);
        let with_fake_cri = cri.is_some();
        let external_runtime = self.runtime_endpoint.clone();
        let endpoint = self
            .runtime_endpoint
            .or_else(|| cri.as_ref().map(FakeCri::endpoint))
            .unwrap_or_default();
        // In a runtime that others use as well, the Pod's name must be unique.
        let node = if with_fake_cri {
            "real".to_owned()
        } else {
            format!("real-{}", std::process::id())
        };
        let product_version = version.to_string();
        let description = format!(
            "kubelet {version} over {}",
            if with_fake_cri { "fake-cri" } else { &endpoint }
        );
        let container = pod::workload_container(&node);
        if let Some(endpoint) = &external_runtime {
            pod_removal::save_pod(run_dir.path(), endpoint, &container)?;
        }
        let authority = CertificateAuthority::new("checkpoint-conformance")?;
        let identities = write_config(&run_dir, &authority, with_fake_cri)?;
        let api_server = ApiServer::start(&authority, &node, access_rules(&identities)).await?;
        run_dir.write("kubeconfig", &api_server.kubeconfig(&run_dir.path_of("pki/ca.pem")))?;

        let lifecycle = RealLifecycle {
            binary: self.binary,
            extra_args: self.extra_args,
            log: log_dir.join("kubelet.log"),
            version,
            node: node.clone(),
            endpoint,
            container: container.clone(),
            ca_certificate: authority.certificate(),
            identities,
            kubelet: Mutex::new(None),
            cri: Mutex::new(cri),
            host_state: Mutex::new(Some(host_state)),
            _api_server: api_server,
            run_dir,
        };
        let client = match lifecycle.restart(KubeletConfig::Default).await {
            Ok(client) => client,
            Err(error) => {
                lifecycle.shutdown().await?;
                return Err(error);
            }
        };
        let target_info = report::TargetInfo {
            container: container.to_string(),
            product: Some(report::Product::new("kubelet", product_version)),
            ..report::TargetInfo::new(
                Suite::Kubelet,
                "kubelet-binary",
                description,
                client.endpoint().base_url.to_string(),
            )
        };
        let siblings = if with_fake_cri {
            pod::workload_siblings(&container)
        } else {
            pod::discover_siblings(&client, &container).await
        };
        let mut kubelet = Kubelet::new(target_info, client, container);
        kubelet.siblings = siblings;
        kubelet.namesakes = with_fake_cri.then(|| pod::namesakes(&node));
        kubelet.node_name = Some(node);
        kubelet.kubelet_log = Some(lifecycle.log.clone());
        kubelet.checkpoints_dir = Some(lifecycle.run_dir.path_of("kubelet/checkpoints"));
        kubelet.paths_are_local = true;
        kubelet.archive_owner_uid = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(DEFAULT_TIMEOUT);
        kubelet.lifecycle = Some(Box::new(lifecycle));
        embedded::wait_until_ready(kubelet, control_socket.as_deref(), with_fake_cri, STARTUP_TIMEOUT).await
    }
}

fn write_config(
    run_dir: &RunDir,
    authority: &CertificateAuthority,
    with_fake_cri: bool,
) -> Result<TestIdentities, TargetError> {
    let server = authority.issue_server("kubelet")?;
    run_dir.write("pki/ca.pem", &authority.certificate())?;
    run_dir.write("pki/server.pem", &server.certificate)?;
    run_dir.write("pki/server.key", &server.key)?;
    run_dir.write(&format!("pods/{}", pod::MANIFEST_FILE_NAME), pod::MANIFEST)?;
    // The Pods in another runtime have to be removed one by one. There is only the one that most cases need.
    if with_fake_cri {
        for (name, manifest) in pod::namesake_manifests() {
            run_dir.write(&format!("pods/{name}"), &manifest)?;
        }
    }
    TestIdentities::new(authority)
}

fn access_rules(identities: &TestIdentities) -> AccessRules {
    let permission = |(user, verb, subresource): &(&str, &str, &str)| Permission {
        user: (*user).to_owned(),
        verb: (*verb).to_owned(),
        subresource: (*subresource).to_owned(),
    };
    AccessRules {
        tokens: vec![(identities.token.clone(), identities::AUTHORIZED_USER.to_owned())],
        permissions: identities::PERMISSIONS.iter().map(permission).collect(),
    }
}

/// Reverts what a killed harness could not: the kubelet's changes to the machine, and the Pod in another runtime.
pub(super) async fn revert_stale(run_dir: &Path) -> Result<(), TargetError> {
    HostState::revert_saved(run_dir)?;
    pod_removal::remove_saved_pod(run_dir).await
}
