//! Launches a shim: fake-cri's side, and the first steps of the shim.

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

use super::{ExitRecord, LaunchSpec, SHIM_PROCESS_NAME, ShimError, server::ShimServer, state_dir};
use crate::{
    environment::{ROLE_ENV, SHIM_ROLE},
    process::{Pid, ProcessId, daemon, limits},
};

/// How long a shim may take until it listens. Long, for machines under heavy load.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The one message of a shim on its standard output.
#[derive(Debug, Serialize, Deserialize)]
enum Handshake {
    Listening(ProcessId),
    Failed(String),
}

/// Starts a shim and waits until it listens. The caller must reap the child.
pub(super) async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<(ProcessId, Child), ShimError> {
    let failed = |message: String| ShimError::Launch {
        dir: spec.dir.clone(),
        message,
    };
    // The orphans of a killed shim then become children of fake-cri, not of the init process.
    daemon::become_subreaper()?;
    let log = prepare_dir(&spec.dir).map_err(|error| failed(error.to_string()))?;
    let (mut child, process) =
        spawn(executable, spec, log).map_err(|error| failed(format!("run {}: {error}", executable.display())))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // From here on the shim is killed if the future is dropped.
    let guard = KillOnDrop(Some(child));
    limits::restore_nofile(process.pid)?;
    let handshake = timeout(LISTEN_TIMEOUT, async {
        let input = input.expect("piped, and taken only here");
        let output = output.expect("piped, and taken only here");
        let (mut input, mut output) = (ChildStdin::from_std(input)?, ChildStdout::from_std(output)?);
        let text = serde_json::to_vec(spec).map_err(io::Error::from)?;
        // If the shim ends early, the write fails; the shim's own message matters more.
        let _ = input.write_all(&text).await;
        drop(input);
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    })
    .await
    .map_err(|_| failed(format!("the shim did not listen within {LISTEN_TIMEOUT:?}")))??;
    match serde_json::from_slice(&handshake) {
        Ok(Handshake::Listening(listening)) if listening == process => Ok((process, guard.disarm())),
        Ok(Handshake::Listening(other)) => Err(failed(format!(
            "process {} reported instead of process {}",
            other.pid, process.pid
        ))),
        Ok(Handshake::Failed(message)) => Err(failed(message)),
        Err(_) => {
            let stderr = fs::read_to_string(spec.dir.join(state_dir::LOG_FILE)).unwrap_or_default();
            let stderr = stderr.trim();
            Err(failed(format!(
                "{} ended without a handshake: {stderr}",
                executable.display()
            )))
        }
    }
}

/// Kills a shim whose launch was abandoned.
struct KillOnDrop(Option<Child>);

impl KillOnDrop {
    fn disarm(mut self) -> Child {
        self.0.take().expect("present until disarmed or dropped")
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            // An async task must not block until the child has ended.
            std::thread::spawn(move || child.wait());
        }
    }
}

/// Prepares the directory and opens the file for the shim's stderr.
fn prepare_dir(dir: &Path) -> io::Result<fs::File> {
    state_dir::create(dir)?;
    if state_dir::read_json::<ExitRecord>(dir, state_dir::EXIT_FILE)?.is_some() {
        return Err(io::Error::other("the directory holds the exit of another container"));
    }
    // Files of a shim that was killed before its first use.
    for name in [state_dir::SOCKET_FILE, state_dir::SHIM_FILE] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join(state_dir::LOG_FILE))
}

fn spawn(executable: &Path, spec: &LaunchSpec, log: fs::File) -> io::Result<(Child, ProcessId)> {
    let mut command = Command::new(executable);
    command
        // The name in the process list.
        .arg0(SHIM_PROCESS_NAME)
        .arg(&spec.container_id)
        .env_clear()
        .env(ROLE_ENV, SHIM_ROLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let child = command.spawn()?;
    let process = ProcessId::from_pid(Pid::from_raw(child.id().cast_signed()))?;
    Ok((child, process))
}

/// The main function of a shim process.
pub(crate) fn run() -> ! {
    let code = match prepare_to_serve() {
        Ok(server) => {
            send_handshake(&Handshake::Listening(server.process()));
            // fake-cri reads stdout until it ends: closing it completes the handshake.
            if let Err(error) = daemon::null_stdio() {
                eprintln!("redirect the standard streams: {error}");
            }
            server.serve();
            0
        }
        Err(error) => {
            send_handshake(&Handshake::Failed(error.to_string()));
            1
        }
    };
    std::process::exit(code)
}

fn prepare_to_serve() -> io::Result<ShimServer> {
    daemon::daemonize(SHIM_PROCESS_NAME)?;
    let spec: LaunchSpec = serde_json::from_reader(io::stdin().lock())?;
    ShimServer::new(spec)
}

fn send_handshake(handshake: &Handshake) {
    if let Ok(text) = serde_json::to_vec(handshake) {
        let mut output = io::stdout();
        let _ = output.write_all(&text).and_then(|()| output.flush());
    }
}
