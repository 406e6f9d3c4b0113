//! An unmodified kubelet, started here without a cluster, with its Pods on fake-cri or on any other runtime.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX/
//!    pods/          the static Pod
//!    pki/           what the kubelet is configured with
//!    kubelet.yaml   its configuration; the gate stands in it
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
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use fake_cri::{FakeCri, LogTo};
use futures_util::future::BoxFuture;
use reqwest::{Method, Url};
use tokio::sync::Mutex;

use super::{
    Access, Authority, Client, ContainerRef, Credentials, Faults, Gate, Identity, Kubelet, Pair, Steering, TargetError,
    Trust, folder::Folder, pod,
};
use crate::{case::Suite, report};
use configuration::{Configuration, Version};
use outside::Outside;
use process::Process;

mod configuration;
mod outside;
mod process;
mod removal;

/// As whom the harness comes.
const USER: &str = "checkpoint-conformance";
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
        let layout = Layout::make()?;
        let outside = Outside::look(layout.folder.path())?;
        outside.save()?;
        let logs = match &self.logs {
            Some(folder) => folder.clone(),
            None => layout.folder.path().to_owned(),
        };
        fs::create_dir_all(&logs).map_err(TargetError::file(&logs))?;
        let cri = match &self.runtime_endpoint {
            Some(_) => None,
            None => Some(start_runtime(&layout, &logs).await?),
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
        let subject = pod::subject(&node);
        if let Some(endpoint) = &other {
            removal::save(layout.folder.path(), endpoint, &subject)?;
        }
        let description = format!("kubelet {version} over {}", if own { "fake-cri" } else { &endpoint });

        let running = Running {
            binary: self.binary,
            args: self.args,
            log: logs.join("kubelet.log"),
            version,
            node,
            endpoint,
            subject: subject.clone(),
            kubelet: Mutex::new(None),
            cri: Mutex::new(cri),
            outside: Mutex::new(Some(outside)),
            layout,
        };
        let client = match running.restart(Gate::On).await {
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
        };
        let mut kubelet = Kubelet::new(about, client, subject);
        kubelet.neighbours = pod::neighbours(&kubelet.subject);
        kubelet.checkpoints = Some(running.layout.path("kubelet/checkpoints"));
        kubelet.local = true;
        kubelet.owner = nix::unistd::geteuid().as_raw();
        kubelet.default_timeout = Some(DEFAULT_TIMEOUT);
        kubelet.steering = Some(Box::new(running));
        let ready = async {
            if let Some(control) = control {
                kubelet.faults = Some(Faults::connect(&control).await?);
            }
            if own {
                pod::wait_until_told(&kubelet, UP_WITHIN).await
            } else {
                Ok(())
            }
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

async fn start_runtime(layout: &Layout, logs: &Path) -> Result<FakeCri, TargetError> {
    let builder = FakeCri::builder()
        .state_dir(layout.path("runtime"))
        .temporary_in(layout.folder.path())
        .log(LogTo::File(logs.join("fake-cri.log")));
    builder
        .start()
        .await
        .map_err(|error| TargetError::NotReady(error.to_string()))
}

/// The folder of a target and what was put into it.
struct Layout {
    folder: Folder,
    authority: String,
    user: Pair,
}

impl Layout {
    fn make() -> Result<Layout, TargetError> {
        let folder = Folder::make(None)?;
        for name in ["pods", "pki", "kubelet", "runtime", "pod-logs", "plugins", "tmp"] {
            folder.below(name)?;
        }
        let authority = Authority::new("checkpoint-conformance")?;
        let server = authority.server("kubelet")?;
        let user = authority.client(USER, "checkpoint-conformance")?;
        let layout = Layout {
            authority: authority.certificate(),
            user,
            folder,
        };
        layout.write("pki/ca.pem", &layout.authority)?;
        layout.write("pki/server.pem", &server.certificate)?;
        layout.write("pki/server.key", &server.key)?;
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

/// What runs, and can be started again or ended. Dropped, it ends in the order of its fields.
struct Running {
    binary: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    version: Version,
    node: String,
    endpoint: String,
    subject: ContainerRef,
    kubelet: Mutex<Option<Process>>,
    cri: Mutex<Option<FakeCri>>,
    outside: Mutex<Option<Outside>>,
    layout: Layout,
}

impl Running {
    /// Starts the kubelet and waits until it serves. A port that another program took meanwhile is tried again.
    async fn start(&self, gate: Gate) -> Result<(Process, Client), TargetError> {
        let mut last = None;
        for _ in 0..3 {
            let port = free_port()?;
            let configuration = Configuration {
                folder: self.layout.folder.path(),
                port,
                endpoint: &self.endpoint,
                checkpoint: gate == Gate::On,
            };
            self.layout
                .write("kubelet.yaml", &configuration.render(self.version)?)?;
            let mut args: Vec<OsString> = vec![
                format!("--config={}", self.layout.path("kubelet.yaml").display()).into(),
                format!("--root-dir={}", self.layout.path("kubelet").display()).into(),
                format!("--cert-dir={}", self.layout.path("pki").display()).into(),
                format!("--hostname-override={}", self.node).into(),
                "--v=2".into(),
            ];
            args.extend(self.args.iter().cloned());
            let mut process = Process::start(&self.binary, &args, &self.layout.path("tmp"), &self.log)?;
            let client = self.client(port)?;
            tokio::select! {
                served = serves(&client) => served?,
                ended = process.ended() => {
                    last = Some(ended);
                    continue;
                }
            }
            return Ok((process, client));
        }
        let words = last.unwrap_or_default();
        Err(TargetError::NotReady(format!(
            "the kubelet ended as soon as it was started: {words}"
        )))
    }

    fn client(&self, port: u16) -> Result<Client, TargetError> {
        let base = format!("https://127.0.0.1:{port}/");
        Ok(Client::new(Access {
            base: Url::parse(&base).map_err(|error| TargetError::Argument(format!("{base}: {error}")))?,
            trust: Trust::Authorities(self.layout.authority.clone()),
            identity: Identity::Certificate {
                certificate: self.layout.user.certificate.clone(),
                key: self.layout.user.key.clone(),
            },
            denied: None,
        }))
    }
}

impl Steering for Running {
    fn restart(&self, gate: Gate) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut running = self.kubelet.lock().await;
            if let Some(process) = running.take() {
                process.stop().await;
            }
            let (process, client) = self.start(gate).await?;
            let process = running.insert(process);
            if gate == Gate::On {
                tokio::select! {
                    up = pod::wait_until_up(&client, &self.subject, UP_WITHIN) => up?,
                    ended = process.ended() => {
                        return Err(TargetError::NotReady(format!("the kubelet ended: {ended}")));
                    }
                }
            }
            Ok(client)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            if let Some(process) = self.kubelet.lock().await.take() {
                process.stop().await;
            }
            let removed = match self.cri.lock().await.take() {
                // It removes its containers, then ends.
                Some(cri) => {
                    cri.shutdown().await;
                    Ok(())
                }
                None => removal::remove(&self.endpoint, &self.subject).await,
            };
            // What the kubelet left is put back also when the runtime did not do its part.
            if let Some(outside) = self.outside.lock().await.take() {
                outside.put_back()?;
            }
            let folder = self.layout.folder.path();
            fs::remove_dir_all(folder).map_err(TargetError::file(folder))?;
            removed
        })
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

/// Waits until the kubelet answers as one that is well.
async fn serves(client: &Client) -> Result<(), TargetError> {
    // It has no event for it.
    const POLL: Duration = Duration::from_millis(50);
    let asked = async {
        loop {
            match client
                .send(Credentials::Good, Method::GET, client.url("/healthz"))
                .await
            {
                Ok(answer) if answer.status == 200 => return,
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    let late = |_| TargetError::NotReady(format!("the kubelet does not serve after {} s", UP_WITHIN.as_secs()));
    tokio::time::timeout(UP_WITHIN, asked).await.map_err(late)
}

/// A port that is free now: a kubelet takes none by itself.
fn free_port() -> Result<u16, TargetError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let refused = |error| TargetError::NotReady(format!("no port is free on 127.0.0.1: {error}"));
    Ok(listener.map_err(refused)?.port())
}
