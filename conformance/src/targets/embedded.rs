//! The embedded target: fake-cri, started from this executable, and the reference kubelet in front of it.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX/
//!    pods/         the static Pod's manifest
//!    pki/          CA certificate, tokens and authorization rules of the kubelet
//!    kubelet/      the kubelet's root directory, with `checkpoints`
//!    runtime/      fake-cri's sockets, state and log
//! ```
//!
//! The directory is removed with the target. If the harness is killed, fake-cri notices the end of its lifeline pipe,
//! removes its containers and exits. The directory then stays until `checkpoint-conformance clean`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fake_cri::{FakeCri, LogDestination};
use futures_util::future::BoxFuture;
use jiff::tz::{Offset, TimeZone};
use tokio::sync::Mutex;

use super::{
    Client, FakeCriControl, Kubelet, KubeletConfig, Lifecycle, NamesakePods, SHORT_REQUEST_TIMEOUT, ServerVerification,
    TargetError,
    identities::{self, TestIdentities},
    pod,
    run_dir::RunDir,
};
use crate::{
    engine::Suite,
    reference_kubelet::{Authorization, Config, ReferenceKubelet},
    report,
    tls::CertificateAuthority,
};

const NODE_NAME: &str = "embedded";
/// Many times the duration of a start on a busy machine.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// A defect of an embedded target.
#[derive(Clone, Debug)]
pub enum Defect {
    /// A defect of the reference kubelet: changes its configuration before each start.
    Kubelet(fn(&mut Config)),
    /// A defect of fake-cri: a fault rule or preset that is active from the start.
    Runtime(String),
}

/// Starts embedded targets.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// The defect, with the name that reports show.
    pub defect: Option<(String, Defect)>,
    /// Archive names contain fractions of a second, so that two checkpoints within one second have different names. The
    /// Kubernetes kubelet's names have whole seconds.
    pub fractional_timestamps: bool,
    /// The directory of the logs. Without it the logs are discarded.
    pub log_dir: Option<PathBuf>,
    /// The executable to start fake-cri from, for programs whose `main` does not call fake-cri's entry point.
    pub executable: Option<PathBuf>,
}

impl Embedded {
    /// Starts fake-cri and the reference kubelet, and waits until the Pod is ready.
    ///
    /// # Errors
    /// fake-cri or the kubelet does not start, or the Pod does not become ready. Everything that was started is
    /// stopped.
    pub async fn start(self) -> Result<Kubelet, TargetError> {
        let run_dir = RunDir::create(None)?;
        for name in ["pods", "pki", "kubelet", "runtime"] {
            run_dir.create_subdir(name)?;
        }
        let identities = write_config(&run_dir)?;
        let log = match &self.log_dir {
            Some(log_dir) => LogDestination::File(log_dir.join("fake-cri.log")),
            None => LogDestination::Temporary,
        };
        let rules = match &self.defect {
            Some((_, Defect::Runtime(rule))) => std::slice::from_ref(rule),
            _ => &[],
        };
        let cri = start_fake_cri(&run_dir, log, self.executable.as_deref(), rules).await?;

        let mut config = Config::new(run_dir.path_of("kubelet"), cri.endpoint());
        config.node_name = NODE_NAME.to_owned();
        config.static_pod_path = Some(run_dir.path_of("pods"));
        config.client_ca_file = Some(run_dir.path_of("pki/ca.pem"));
        config.token_auth_file = Some(run_dir.path_of("pki/tokens"));
        config.authorization = Authorization::Rules(run_dir.path_of("pki/rules"));
        config.container_checkpoint = Some(true);
        config.read_only_port = Some(0);
        config.http2 = true;
        config.fractional_timestamps = self.fractional_timestamps;
        config.file_check_frequency = Duration::ZERO;
        config.relist_period = Duration::from_millis(25);

        let checkpoints = config.checkpoints_dir();
        let default_timeout = config.runtime_request_timeout;
        let control = cri.control_socket().to_owned();
        let lifecycle = EmbeddedLifecycle {
            config,
            defect: match &self.defect {
                Some((_, Defect::Kubelet(apply))) => Some(*apply),
                _ => None,
            },
            identities,
            kubelet: Mutex::new(None),
            cri: Mutex::new(Some(cri)),
            _run_dir: run_dir,
        };
        let client = match lifecycle.restart(KubeletConfig::Default).await {
            Ok(client) => client,
            Err(error) => {
                lifecycle.shutdown().await?;
                return Err(error);
            }
        };

        let container = pod::workload_container(NODE_NAME);
        let description = self.description();
        let target_info = report::TargetInfo {
            container: container.to_string(),
            mutant: self.defect.map(|(name, _)| name),
            product: Some(report::Product::new("reference-kubelet", env!("CARGO_PKG_VERSION"))),
            ..report::TargetInfo::new(
                Suite::Kubelet,
                "embedded",
                description,
                client.endpoint().base_url.as_str(),
            )
        };
        let mut kubelet = Kubelet::new(target_info, client, container);
        kubelet.siblings = pod::workload_siblings(&kubelet.container_under_test);
        kubelet.namesakes = Some(pod::namesakes(NODE_NAME));
        kubelet.siblings.ephemeral = Some(kubelet.container_under_test.sibling("debugger"));
        kubelet.node_name = Some(NODE_NAME.to_owned());
        kubelet.checkpoints_dir = Some(checkpoints);
        kubelet.paths_are_local = true;
        kubelet.archive_owner_uid = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(default_timeout);
        kubelet.lifecycle = Some(Box::new(lifecycle));
        wait_until_ready(kubelet, Some(&control), true, STARTUP_TIMEOUT).await
    }

    fn description(&self) -> String {
        match &self.defect {
            None => "the embedded reference kubelet over fake-cri".to_owned(),
            Some((name, Defect::Kubelet(_))) => format!("the embedded reference kubelet, with the defect {name}"),
            Some((name, Defect::Runtime(_))) => {
                format!("the embedded reference kubelet over fake-cri, with the fake-cri defect {name}")
            }
        }
    }
}

/// Only an API server can add ephemeral containers. The reference kubelet knows this container from the manifest and
/// never starts it.
const EPHEMERAL_CONTAINER: &str =
    "\n  ephemeralContainers:\n    - name: debugger\n      image: localhost/test-workload:latest\n";

fn write_config(run_dir: &RunDir) -> Result<TestIdentities, TargetError> {
    let authority = CertificateAuthority::new("checkpoint-conformance")?;
    let identities = TestIdentities::new(&authority)?;
    run_dir.write("pki/ca.pem", &authority.certificate())?;
    run_dir.write(
        "pki/tokens",
        &format!("{},{},1,\"\"\n", identities.token, identities::AUTHORIZED_USER),
    )?;
    let rules = identities::PERMISSIONS.iter().map(|(user, verb, sub)| match *sub {
        "*" => format!("{user} {verb} *\n"),
        sub => format!("{user} {verb} nodes/{sub}\n"),
    });
    run_dir.write("pki/rules", &rules.collect::<String>())?;
    let manifest = format!("{}{EPHEMERAL_CONTAINER}", pod::MANIFEST.trim_end());
    run_dir.write(&format!("pods/{}", pod::MANIFEST_FILE_NAME), &manifest)?;
    for (name, manifest) in pod::namesake_manifests() {
        run_dir.write(&format!("pods/{name}"), &manifest)?;
    }
    Ok(identities)
}

struct EmbeddedLifecycle {
    config: Config,
    defect: Option<fn(&mut Config)>,
    identities: TestIdentities,
    kubelet: Mutex<Option<ReferenceKubelet>>,
    cri: Mutex<Option<FakeCri>>,
    // Last: fields are dropped in declaration order, and the directory must outlive the processes that use it.
    _run_dir: RunDir,
}

impl EmbeddedLifecycle {
    fn client(&self, kubelet: &ReferenceKubelet) -> Result<Client, TargetError> {
        let verification = ServerVerification::CaBundle(kubelet.certificate().to_owned());
        let read_only = kubelet.read_only_address().map(|address| format!("http://{address}/"));
        let base = format!("https://{}/", kubelet.address());
        Ok(Client::new(self.identities.endpoint(&base, verification, read_only)?))
    }
}

impl Lifecycle for EmbeddedLifecycle {
    fn restart(&self, kubelet_config: KubeletConfig) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut current = self.kubelet.lock().await;
            if let Some(kubelet) = current.take() {
                kubelet.shutdown().await;
            }
            let mut config = self.config.clone();
            match kubelet_config {
                KubeletConfig::Default => {}
                KubeletConfig::GateOff => config.container_checkpoint = Some(false),
                KubeletConfig::GateDefault => config.container_checkpoint = None,
                KubeletConfig::DebuggingHandlersOff => config.debugging_handlers = false,
                KubeletConfig::ShortRequestTimeout => config.runtime_request_timeout = SHORT_REQUEST_TIMEOUT,
                KubeletConfig::TimeZone(seconds) => {
                    let offset = Offset::from_seconds(seconds);
                    config.time_zone = offset.map_or(TimeZone::UTC, Offset::to_time_zone);
                }
            }
            if let Some(apply) = self.defect {
                apply(&mut config);
            }
            let kubelet = ReferenceKubelet::start(config)
                .await
                .map_err(|error| TargetError::NotReady(format!("the reference kubelet did not start: {error}")))?;
            let client = self.client(&kubelet)?;
            *current = Some(kubelet);
            if kubelet_config.serves_endpoint() {
                pod::wait_until_running(
                    &client,
                    &pod::workload_container(NODE_NAME),
                    pod::PodReadiness::ContainerUnderTest,
                    STARTUP_TIMEOUT,
                )
                .await?;
            }
            Ok(client)
        })
    }

    fn owns_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.cri.lock().await.is_some() })
    }

    fn kill_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(kill_fake_cri(&self.cri))
    }

    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(restart_fake_cri(&self.cri))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            if let Some(kubelet) = self.kubelet.lock().await.take() {
                kubelet.shutdown().await;
            }
            if let Some(cri) = self.cri.lock().await.take() {
                // `shutdown` removes the containers first.
                cri.shutdown().await;
            }
            Ok(())
        })
    }
}

/// Starts a fake-cri in the directory `runtime` of a run, with these fault rules or presets.
pub(super) async fn start_fake_cri(
    run_dir: &RunDir,
    log: LogDestination,
    executable: Option<&Path>,
    rules: &[String],
) -> Result<FakeCri, TargetError> {
    let mut builder = FakeCri::builder()
        .state_dir(run_dir.path_of("runtime"))
        .temporary_in(run_dir.path())
        .log(log);
    if let Some(executable) = executable {
        builder = builder.executable(executable);
    }
    for rule in rules {
        builder = builder.fault(rule);
    }
    builder
        .start()
        .await
        .map_err(|error| TargetError::NotReady(error.to_string()))
}

/// Connects to the control socket and, if `wait`, waits until the Pod and its workload are ready. Stops the target if
/// they do not become ready.
pub(super) async fn wait_until_ready(
    mut kubelet: Kubelet,
    control: Option<&Path>,
    wait: bool,
    timeout: Duration,
) -> Result<Kubelet, TargetError> {
    let ready = async {
        if let Some(control) = control {
            kubelet.fake_cri = Some(FakeCriControl::connect(control).await?);
        }
        if wait {
            let client = kubelet.client().await;
            let container = &kubelet.container_under_test;
            pod::wait_until_running(&client, container, pod::PodReadiness::AllContainers, timeout).await?;
            for container in kubelet.namesakes.iter().flat_map(NamesakePods::iter) {
                pod::wait_until_running(&client, container, pod::PodReadiness::ContainerUnderTest, timeout).await?;
            }
            pod::wait_until_workload_ready(&kubelet, timeout).await?;
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        if let Some(lifecycle) = &kubelet.lifecycle {
            lifecycle.shutdown().await?;
        }
        return Err(error);
    }
    Ok(kubelet)
}

/// Kills fake-cri. Its containers keep running. Returns false if there is no fake-cri.
pub(super) async fn kill_fake_cri(cri: &Mutex<Option<FakeCri>>) -> bool {
    match cri.lock().await.as_mut() {
        Some(cri) => {
            cri.kill().await;
            true
        }
        None => false,
    }
}

/// Starts fake-cri again after [`kill_fake_cri`]. Does nothing if it is running.
pub(super) async fn restart_fake_cri(cri: &Mutex<Option<FakeCri>>) -> Result<(), TargetError> {
    match cri.lock().await.as_mut() {
        Some(cri) if cri.pid().is_none() => {
            let restarted = cri.restart().await;
            restarted.map_err(|error| TargetError::NotReady(error.to_string()))
        }
        _ => Ok(()),
    }
}
