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

use std::{path::PathBuf, time::Duration};

use fake_cri::{FakeCri, LogTo};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    Authority, Client, Faults, Kubelet, SHORT_DEADLINE, Steering, TargetError, Trust, Variation,
    folder::Folder,
    people::{self, People},
    pod,
};
use crate::{
    case::Suite,
    reference::{Authorization, Config, Mutant, ReferenceKubelet},
    report,
};

const NODE: &str = "embedded";
/// Many times what it takes on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(60);

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
    /// Archives have names with fractions of a second, so that two of one second differ: the Kubernetes kubelet's have not.
    pub fractional_timestamps: bool,
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
        let folder = Folder::make(None)?;
        for name in ["pods", "pki", "kubelet", "runtime"] {
            folder.below(name)?;
        }
        let people = fill(&folder)?;
        let cri = self.start_runtime(&folder).await?;

        let mut config = Config::new(folder.at("kubelet"), cri.endpoint());
        config.node_name = NODE.to_owned();
        config.static_pod_path = Some(folder.at("pods"));
        config.client_ca_file = Some(folder.at("pki/ca.pem"));
        config.token_auth_file = Some(folder.at("pki/tokens"));
        config.authorization = Authorization::Rules(folder.at("pki/rules"));
        config.container_checkpoint = Some(true);
        config.read_only_port = Some(0);
        config.http2 = true;
        config.fractional_timestamps = self.fractional_timestamps;
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
            people,
            kubelet: Mutex::new(None),
            cri: Mutex::new(Some(cri)),
            _folder: folder,
        };
        let client = match running.restart(Variation::Usual).await {
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
            product: Some(report::Product::new("reference-kubelet", env!("CARGO_PKG_VERSION"))),
        };
        let mut kubelet = Kubelet::new(about, client, subject);
        kubelet.neighbours = pod::neighbours(&kubelet.subject);
        kubelet.neighbours.ephemeral = Some(kubelet.subject.sibling("debugger"));
        kubelet.node = Some(NODE.to_owned());
        kubelet.checkpoints = Some(checkpoints);
        kubelet.local = true;
        kubelet.owner = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(default_timeout);
        kubelet.steering = Some(Box::new(running));
        let ready = async {
            kubelet.faults = Some(Faults::connect(&control).await?);
            let client = kubelet.client().await;
            pod::wait_until_up(&client, &kubelet.subject, pod::Wanted::All, UP_WITHIN).await?;
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

    async fn start_runtime(&self, folder: &Folder) -> Result<FakeCri, TargetError> {
        let log = match &self.logs {
            Some(logs) => LogTo::File(logs.join("fake-cri.log")),
            None => LogTo::Temporary,
        };
        let mut builder = FakeCri::builder()
            .state_dir(folder.at("runtime"))
            .temporary_in(folder.path())
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

/// An ephemeral container in the spec, as only an API server adds one: the reference kubelet knows it, and starts none.
const EPHEMERAL: &str = "\n  ephemeralContainers:\n    - name: debugger\n      image: localhost/stand-in:latest\n";

/// What the kubelet is configured with.
fn fill(folder: &Folder) -> Result<People, TargetError> {
    let authority = Authority::new("checkpoint-conformance")?;
    let people = People::new(&authority)?;
    folder.write("pki/ca.pem", &authority.certificate())?;
    folder.write("pki/tokens", &format!("{},{},1,\"\"\n", people.token, people::USER))?;
    let rights = people::RIGHTS.iter().map(|(user, verb, sub)| match *sub {
        "*" => format!("{user} {verb} *\n"),
        sub => format!("{user} {verb} nodes/{sub}\n"),
    });
    folder.write("pki/rules", &rights.collect::<String>())?;
    let manifest = format!("{}{EPHEMERAL}", pod::MANIFEST.trim_end());
    folder.write(&format!("pods/{}", pod::FILE), &manifest)?;
    Ok(people)
}

/// What runs, and can be started again or ended.
struct Running {
    config: Config,
    people: People,
    kubelet: Mutex<Option<ReferenceKubelet>>,
    cri: Mutex<Option<FakeCri>>,
    // Last: fields are dropped in their order, and the folder must outlive what works in it.
    _folder: Folder,
}

impl Running {
    fn client(&self, kubelet: &ReferenceKubelet) -> Result<Client, TargetError> {
        let trust = Trust::Authorities(kubelet.certificate().to_owned());
        let read_only = kubelet.read_only_address().map(|address| format!("http://{address}/"));
        let base = format!("https://{}/", kubelet.address());
        Ok(Client::new(self.people.access(&base, trust, read_only)?))
    }
}

impl Steering for Running {
    fn restart(&self, variation: Variation) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut running = self.kubelet.lock().await;
            if let Some(kubelet) = running.take() {
                kubelet.shutdown().await;
            }
            let mut config = self.config.clone();
            match variation {
                Variation::Usual => {}
                Variation::GateOff => config.container_checkpoint = Some(false),
                Variation::GateDefault => config.container_checkpoint = None,
                Variation::DebuggingOff => config.debugging_handlers = false,
                Variation::ShortDeadline => config.runtime_request_timeout = SHORT_DEADLINE,
            }
            let kubelet = ReferenceKubelet::start(config)
                .await
                .map_err(|error| TargetError::NotReady(format!("the reference kubelet did not start: {error}")))?;
            let client = self.client(&kubelet)?;
            *running = Some(kubelet);
            if variation.serves() {
                pod::wait_until_up(&client, &pod::subject(NODE), pod::Wanted::Subject, UP_WITHIN).await?;
            }
            Ok(client)
        })
    }

    fn kill_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(kill(&self.cri))
    }

    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(restart(&self.cri))
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

/// Kills a fake-cri, whose containers live on; false when there is none.
pub(super) async fn kill(cri: &Mutex<Option<FakeCri>>) -> bool {
    match cri.lock().await.as_mut() {
        Some(cri) => {
            cri.kill().await;
            true
        }
        None => false,
    }
}

/// Starts a fake-cri again that was killed.
///
/// # Errors
/// It does not start; its last words are in the error.
pub(super) async fn restart(cri: &Mutex<Option<FakeCri>>) -> Result<(), TargetError> {
    match cri.lock().await.as_mut() {
        Some(cri) if cri.pid().is_none() => {
            let restarted = cri.restart().await;
            restarted.map_err(|error| TargetError::NotReady(error.to_string()))
        }
        _ => Ok(()),
    }
}
