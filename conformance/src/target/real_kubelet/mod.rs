//! An unmodified kubelet, started here without a cluster, with its Pods on fake-cri or on any other runtime.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX/
//!    pods/          the static Pod
//!    pki/           what the kubelet is configured with
//!    kubelet.yaml   its configuration, made anew for each start
//!    kubeconfig     of the API server of ours that it asks who its clients are and what they may
//!    kubelet/       its root; `checkpoints` below it
//!    pod-logs/ plugins/ tmp/     what it would otherwise keep elsewhere on the machine
//!    runtime/       fake-cri's state
//! ```
//!
//! The kubelet ends with the harness, however that ends: a shell between them waits for the end of a pipe. What it writes
//! outside the folder all the same is put back (`outside`), by `checkpoint-conformance clean` when the harness itself was
//! killed.
//!
//! It fails to start without root, beside another kubelet, with a configuration that this version does not take (its last
//! words are in the error), and when the Pod does not come up.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fake_cri::{FakeCri, LogTo};
use tokio::sync::Mutex;

use super::{
    ApiServer, Authority, ContainerRef, Faults, Kubelet, Right, Rights, Steering as _, TargetError, Variation,
    folder::Folder,
    people::{self, People},
    pod::{self, Wanted},
};
use crate::{case::Suite, report};
use configuration::Version;
use outside::Outside;
use running::Running;

mod configuration;
mod outside;
mod process;
mod removal;
mod running;

/// A kubelet needs three seconds; many times that on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// The kubelet's `runtimeRequestTimeout`, which the configuration leaves alone.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts a real kubelet.
#[derive(Clone, Debug)]
pub struct RealKubelet {
    /// The kubelet's executable.
    pub binary: PathBuf,
    /// More arguments for it; flags win over the configuration that is written here.
    pub args: Vec<OsString>,
    /// Another runtime than a fake-cri of our own.
    pub runtime_endpoint: Option<String>,
    /// The control socket of that runtime, where it is a fake-cri.
    pub control: Option<PathBuf>,
    /// Where the logs go; nowhere by default.
    pub logs: Option<PathBuf>,
    /// What fake-cri is started from, where this program's own `main` does not call its entry point.
    pub executable: Option<PathBuf>,
}

impl RealKubelet {
    /// Starts fake-cri, unless there is an endpoint, and the kubelet, and waits until the Pod is up.
    ///
    /// # Errors
    /// One of them does not start, or the Pod does not come up. Nothing is left behind.
    pub async fn start(self) -> Result<Kubelet, TargetError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(TargetError::Argument("a real kubelet needs root".to_owned()));
        }
        let version = Version::of(&self.binary).await?;
        let folder = Folder::make(None)?;
        for name in ["pods", "pki", "kubelet", "runtime", "pod-logs", "plugins", "tmp"] {
            folder.below(name)?;
        }
        let outside = Outside::look(folder.path())?;
        outside.save()?;
        let logs = match &self.logs {
            Some(logs) => logs.clone(),
            None => folder.path().to_owned(),
        };
        fs::create_dir_all(&logs).map_err(TargetError::file(&logs))?;
        let cri = match &self.runtime_endpoint {
            Some(_) => None,
            None => Some(start_runtime(&folder, &logs, self.executable.as_deref()).await?),
        };
        let control = cri.as_ref().map(|cri| cri.control_socket().to_owned()).or(self.control);
        let own = cri.is_some();
        let other = self.runtime_endpoint.clone();
        let endpoint = self
            .runtime_endpoint
            .or_else(|| cri.as_ref().map(FakeCri::endpoint))
            .unwrap_or_default();
        // On a runtime that others use too, the Pod must not be taken for another's.
        let node = if own {
            "real".to_owned()
        } else {
            format!("real-{}", std::process::id())
        };
        let product_version = version.to_string();
        let description = format!("kubelet {version} over {}", if own { "fake-cri" } else { &endpoint });
        let subject = pod::subject(&node);
        if let Some(endpoint) = &other {
            removal::save(folder.path(), endpoint, &subject)?;
        }
        let authority = Authority::new("checkpoint-conformance")?;
        let people = fill(&folder, &authority)?;
        let api_server = ApiServer::start(&authority, &node, rights(&people)).await?;
        folder.write("kubeconfig", &api_server.kubeconfig(&folder.at("pki/ca.pem")))?;

        let running = Running {
            binary: self.binary,
            args: self.args,
            log: logs.join("kubelet.log"),
            version,
            node: node.clone(),
            endpoint,
            subject: subject.clone(),
            authority: authority.certificate(),
            people,
            kubelet: Mutex::new(None),
            cri: Mutex::new(cri),
            outside: Mutex::new(Some(outside)),
            _api_server: api_server,
            folder,
        };
        let client = match running.restart(Variation::Usual).await {
            Ok(client) => client,
            Err(error) => {
                running.shutdown().await?;
                return Err(error);
            }
        };
        let about = report::Target {
            suite: Suite::Kubelet,
            kind: "kubelet-binary".to_owned(),
            description,
            endpoint: client.access().base.to_string(),
            container: subject.to_string(),
            node: None,
            mutant: None,
            product: Some(report::Product::new("kubelet", product_version)),
        };
        let neighbours = if own {
            pod::neighbours(&subject)
        } else {
            pod::discover(&client, &subject).await
        };
        let mut kubelet = Kubelet::new(about, client, subject);
        kubelet.neighbours = neighbours;
        kubelet.node = Some(node);
        kubelet.log = Some(running.log.clone());
        kubelet.checkpoints = Some(running.folder.at("kubelet/checkpoints"));
        kubelet.local = true;
        kubelet.owner = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(DEFAULT_TIMEOUT);
        kubelet.steering = Some(Box::new(running));
        let ready = async {
            if let Some(control) = control {
                kubelet.faults = Some(Faults::connect(&control).await?);
            }
            if own {
                let client = kubelet.client().await;
                pod::wait_until_up(&client, &kubelet.subject, Wanted::All, UP_WITHIN).await?;
                pod::wait_until_told(&kubelet, UP_WITHIN).await?;
            }
            Ok(())
        };
        if let Err(error) = ready.await {
            if let Some(steering) = &kubelet.steering {
                steering.shutdown().await?;
            }
            return Err(error);
        }
        Ok(kubelet)
    }
}

async fn start_runtime(folder: &Folder, logs: &Path, executable: Option<&Path>) -> Result<FakeCri, TargetError> {
    let mut builder = FakeCri::builder()
        .state_dir(folder.at("runtime"))
        .temporary_in(folder.path())
        .log(LogTo::File(logs.join("fake-cri.log")));
    if let Some(executable) = executable {
        builder = builder.executable(executable);
    }
    builder
        .start()
        .await
        .map_err(|error| TargetError::NotReady(error.to_string()))
}

/// What the kubelet is configured with.
fn fill(folder: &Folder, authority: &Authority) -> Result<People, TargetError> {
    let server = authority.server("kubelet")?;
    folder.write("pki/ca.pem", &authority.certificate())?;
    folder.write("pki/server.pem", &server.certificate)?;
    folder.write("pki/server.key", &server.key)?;
    folder.write(&format!("pods/{}", pod::FILE), pod::MANIFEST)?;
    People::new(authority)
}

/// What the API server answers about them.
fn rights(people: &People) -> Rights {
    let right = |(user, verb, subresource): &(&str, &str, &str)| Right {
        user: (*user).to_owned(),
        verb: (*verb).to_owned(),
        subresource: (*subresource).to_owned(),
    };
    Rights {
        tokens: vec![(people.token.clone(), people::USER.to_owned())],
        rights: people::RIGHTS.iter().map(right).collect(),
    }
}

/// Puts back what a harness that was killed could not: the machine as its kubelet found it, and the Pod in a runtime that
/// others use as well.
///
/// # Errors
/// Names what could not be put back.
pub(super) async fn put_back_after(folder: &Path) -> Result<(), TargetError> {
    Outside::put_back_saved(folder)?;
    removal::remove_saved(folder).await
}
