//! How a shim comes into being: fake-cri's side, and the shim's first steps.

use std::{
    fs,
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    time::timeout,
};

use super::{Exit, LaunchSpec, NAME, ROLE, ShimError, folder, server::Server};
use crate::{
    entry,
    process::{ProcessId, daemon, limits},
};

/// How long a shim may take until it listens. It is short work; on a machine that is busy beyond measure it is long.
const LISTENING: Duration = Duration::from_secs(60);

/// What a shim says through its standard output, once.
#[derive(Debug, Serialize, Deserialize)]
enum Hello {
    Listening(ProcessId),
    Failed(String),
}

/// Starts a shim and waits until it listens. The child is for the caller to reap.
pub(super) async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<(ProcessId, Child), ShimError> {
    let failed = |message: String| ShimError::Launch {
        dir: spec.dir.clone(),
        message,
    };
    // What a shim leaves when it is killed comes to us then, not to a process that knows nothing of it.
    daemon::adopt_orphans()?;
    let log = prepare(&spec.dir).map_err(|error| failed(error.to_string()))?;
    let (mut child, process) =
        spawn(executable, spec, log).map_err(|error| failed(format!("run {}: {error}", executable.display())))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // From here on somebody who gives up takes the shim along.
    let guard = KillOnDrop(Some(child));
    limits::give_back_open_files(process.pid)?;
    let told = timeout(LISTENING, async {
        let input = input.expect("it is a pipe, and nobody else takes it");
        let output = output.expect("it is a pipe, and nobody else takes it");
        let (mut input, mut output) = (ChildStdin::from_std(input)?, ChildStdout::from_std(output)?);
        let text = serde_json::to_vec(spec).map_err(io::Error::from)?;
        // A shim that ends early closes the pipe; what it says about that matters more.
        let _ = input.write_all(&text).await;
        drop(input);
        let mut told = Vec::new();
        output.read_to_end(&mut told).await?;
        Ok::<_, io::Error>(told)
    })
    .await
    .map_err(|_| failed(format!("it did not listen within {LISTENING:?}")))??;
    match serde_json::from_slice(&told) {
        Ok(Hello::Listening(told)) if told == process => Ok((process, guard.disarm())),
        Ok(Hello::Listening(other)) => Err(failed(format!(
            "process {} answered for process {}",
            other.pid, process.pid
        ))),
        Ok(Hello::Failed(message)) => Err(failed(message)),
        Err(_) => {
            let complaint = fs::read_to_string(spec.dir.join(folder::LOG)).unwrap_or_default();
            let complaint = complaint.trim();
            Err(failed(format!(
                "{} ended without a word of its own: {complaint}",
                executable.display()
            )))
        }
    }
}

/// Kills a shim that nobody will know of.
struct KillOnDrop(Option<Child>);

impl KillOnDrop {
    fn disarm(mut self) -> Child {
        self.0.take().expect("it is there until it is disarmed or dropped")
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            // Its end may take a moment, for which no async task should wait.
            std::thread::spawn(move || child.wait());
        }
    }
}

/// Makes the folder ready and gives the file for the shim's complaints.
fn prepare(dir: &Path) -> io::Result<fs::File> {
    folder::make(dir)?;
    if folder::read::<Exit>(dir, folder::EXIT)?.is_some() {
        return Err(io::Error::other("a container has ended in this folder already"));
    }
    // Of a shim that was killed before it was used.
    for name in [folder::SOCKET, folder::SHIM] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join(folder::LOG))
}

fn spawn(executable: &Path, spec: &LaunchSpec, log: fs::File) -> io::Result<(Child, ProcessId)> {
    let mut command = Command::new(executable);
    command
        // For those who look at the list of processes.
        .arg0(NAME)
        .arg(&spec.container_id)
        .env_clear()
        .env(entry::ROLE, ROLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let child = command.spawn()?;
    let process = ProcessId::of(child.id().cast_signed())?;
    Ok((child, process))
}

/// The life of a shim's process.
pub(crate) fn run() -> ! {
    let code = match prepare_to_serve() {
        Ok(server) => {
            tell(&Hello::Listening(server.process()));
            // Whoever waits for these to end knows then that there is nothing more to come.
            if let Err(error) = daemon::drop_streams() {
                eprintln!("leave the standard streams: {error}");
            }
            server.serve();
            0
        }
        Err(error) => {
            tell(&Hello::Failed(error.to_string()));
            1
        }
    };
    std::process::exit(code)
}

fn prepare_to_serve() -> io::Result<Server> {
    daemon::detach(NAME)?;
    let spec: LaunchSpec = serde_json::from_reader(io::stdin().lock())?;
    Server::new(spec)
}

fn tell(hello: &Hello) {
    if let Ok(text) = serde_json::to_vec(hello) {
        let mut output = io::stdout();
        let _ = output.write_all(&text).and_then(|()| output.flush());
    }
}
