//! The embedded target: fake-cri, started from this executable, and the reference kubelet over it.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX/
//!    pods/         the static Pod
//!    pki/          what the kubelet is configured with
//!    kubelet/      its root; `checkpoints` below it
//!    runtime/      fake-cri's sockets, state and log
//! ```
//!
//! All of it goes with the target. When the harness itself is killed, fake-cri notices by its lifeline, removes its
//! containers and ends; the folder then stays, until `checkpoint-conformance clean`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fake_cri::{FakeCri, LogTo};
use futures_util::future::BoxFuture;
use reqwest::Url;
use tokio::sync::Mutex;

use super::{
    Access, Authority, Client, Faults, Gate, Identity, Kubelet, Pair, Steering, TargetError, Trust, folder::Folder, pod,
};
use crate::{
    case::Suite,
    reference::{Authorization, Config, Mutant, ReferenceKubelet},
    report,
};

const NODE: &str = "embedded";
/// As whom the harness comes, and as whom it is denied.
const USER: &str = "checkpoint-conformance";
const DENIED: &str = "checkpoint-conformance-denied";
/// Many times what it takes on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// What is wrong with an embedded target, on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The reference kubelet is.
    Kubelet(Mutant),
    /// fake-cri is: a fault rule or preset that is in force from the start.
    Runtime(String),
}

/// Starts embedded targets.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// What is wrong with it, and the name that reports give it.
    pub defect: Option<(String, Defect)>,
    /// Where the logs go; nowhere by default.
    pub logs: Option<PathBuf>,
    /// What fake-cri is started from, where this program's own `main` does not call its entry point.
    pub executable: Option<PathBuf>,
}

impl Embedded {
    /// Starts fake-cri and the reference kubelet, and waits until the Pod is up.
    ///
    /// # Errors
    /// One of them does not start, or the Pod does not come up. Nothing is left behind.
    pub async fn start(self) -> Result<Kubelet, TargetError> {
        let layout = Layout::make()?;
        let cri = self.start_runtime(&layout).await?;

        let mut config = Config::new(layout.path("kubelet"), cri.endpoint());
        config.node_name = NODE.to_owned();
        config.static_pod_path = Some(layout.path("pods"));
        config.client_ca_file = Some(layout.path("pki/ca.pem"));
        config.token_auth_file = Some(layout.path("pki/tokens"));
        config.authorization = Authorization::Rules(layout.path("pki/rules"));
        config.file_check_frequency = Duration::ZERO;
        config.relist_period = Duration::from_millis(25);
        if let Some((_, Defect::Kubelet(mutant))) = &self.defect {
            config.mutant = Some(*mutant);
        }

        let checkpoints = config.checkpoints_dir();
        let default_timeout = config.runtime_request_timeout;
        let control = cri.control_socket().to_owned();
        let running = Running {
            config,
            kubelet: Mutex::new(None),
            cri: Mutex::new(Some(cri)),
            layout,
        };
        let client = match running.restart(Gate::On).await {
            Ok(client) => client,
            Err(error) => {
                running.shutdown().await?;
                return Err(error);
            }
        };

        let subject = pod::subject(NODE);
        let about = report::Target {
            suite: Suite::Kubelet,
            kind: "embedded".to_owned(),
            description: self.description(),
            endpoint: client.access().base.to_string(),
            container: subject.to_string(),
            node: None,
            mutant: self.defect.map(|(name, _)| name),
        };
        let mut kubelet = Kubelet::new(about, client, subject);
        kubelet.neighbours = pod::neighbours(&kubelet.subject);
        kubelet.checkpoints = Some(checkpoints);
        kubelet.local = true;
        kubelet.owner = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(default_timeout);
        kubelet.steering = Some(Box::new(running));
        let ready = async {
            kubelet.faults = Some(Faults::connect(&control).await?);
            pod::wait_until_told(&kubelet, UP_WITHIN).await
        };
        if let Err(error) = ready.await {
            if let Some(steering) = &kubelet.steering {
                steering.shutdown().await?;
            }
            return Err(error);
        }
        Ok(kubelet)
    }

    async fn start_runtime(&self, layout: &Layout) -> Result<FakeCri, TargetError> {
        let log = match &self.logs {
            Some(folder) => LogTo::File(folder.join("fake-cri.log")),
            None => LogTo::Temporary,
        };
        let mut builder = FakeCri::builder()
            .state_dir(layout.path("runtime"))
            .temporary_in(layout.folder.path())
            .log(log);
        if let Some(executable) = &self.executable {
            builder = builder.executable(executable);
        }
        if let Some((_, Defect::Runtime(rule))) = &self.defect {
            builder = builder.fault(rule);
        }
        builder
            .start()
            .await
            .map_err(|error| TargetError::NotReady(error.to_string()))
    }

    fn description(&self) -> String {
        match &self.defect {
            None => "the embedded reference kubelet over fake-cri".to_owned(),
            Some((name, Defect::Kubelet(_))) => format!("the embedded reference kubelet, wrong on purpose: {name}"),
            Some((name, Defect::Runtime(_))) => {
                format!("the embedded reference kubelet over fake-cri, which is wrong on purpose: {name}")
            }
        }
    }
}

/// The folder of a target and what was put into it.
struct Layout {
    folder: Folder,
    user: Pair,
    denied: Pair,
}

impl Layout {
    fn make() -> Result<Layout, TargetError> {
        let folder = Folder::make(None)?;
        for name in ["pods", "pki", "kubelet", "runtime"] {
            folder.below(name)?;
        }
        let authority = Authority::new("checkpoint-conformance")?;
        let layout = Layout {
            user: authority.client(USER, "checkpoint-conformance")?,
            denied: authority.client(DENIED, "checkpoint-conformance")?,
            folder,
        };
        layout.write("pki/ca.pem", &authority.certificate())?;
        // Nobody knows this token; that there are tokens makes any other one wrong.
        let token: [u8; 16] = rand::random();
        layout.write(
            "pki/tokens",
            &format!("{:032x},{USER},1,\"\"\n", u128::from_be_bytes(token)),
        )?;
        layout.write("pki/rules", &format!("{USER} * *\n{DENIED} get *\n"))?;
        layout.write(&format!("pods/{}", pod::FILE), pod::MANIFEST)?;
        Ok(layout)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> Result<(), TargetError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(TargetError::file(path))
    }
}

/// What runs, and can be started again or ended.
struct Running {
    config: Config,
    kubelet: Mutex<Option<ReferenceKubelet>>,
    cri: Mutex<Option<FakeCri>>,
    // Last: fields are dropped in their order, and the folder must outlive what works in it.
    layout: Layout,
}

impl Running {
    fn client(&self, kubelet: &ReferenceKubelet) -> Result<Client, TargetError> {
        let base = format!("https://{}/", kubelet.address());
        let identity = |pair: &Pair| Identity::Certificate {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
        };
        Ok(Client::new(Access {
            base: Url::parse(&base).map_err(|error| TargetError::Argument(format!("{base}: {error}")))?,
            trust: Trust::Authorities(kubelet.certificate().to_owned()),
            identity: identity(&self.layout.user),
            denied: Some(identity(&self.layout.denied)),
        }))
    }
}

impl Steering for Running {
    fn restart(&self, gate: Gate) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut running = self.kubelet.lock().await;
            if let Some(kubelet) = running.take() {
                kubelet.shutdown().await;
            }
            let mut config = self.config.clone();
            config.container_checkpoint = gate == Gate::On;
            let kubelet = ReferenceKubelet::start(config)
                .await
                .map_err(|error| TargetError::NotReady(format!("the reference kubelet did not start: {error}")))?;
            let client = self.client(&kubelet)?;
            *running = Some(kubelet);
            pod::wait_until_up(&client, &pod::subject(NODE), UP_WITHIN).await?;
            Ok(client)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            if let Some(kubelet) = self.kubelet.lock().await.take() {
                kubelet.shutdown().await;
            }
            if let Some(cri) = self.cri.lock().await.take() {
                // It removes its containers, then ends.
                cri.shutdown().await;
            }
            Ok(())
        })
    }
}
