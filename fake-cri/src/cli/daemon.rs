//! `fake-cri serve` from its start to its end.
//!
//! ```text
//!  lock the state folder -> recover -> listen -> say ready on standard output -> serve
//!       SIGTERM, SIGINT, standard input's end -> refuse new calls, let the others end -> --ephemeral: remove all
//! ```

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::options::{LogFormat, ServeOptions};
use crate::{
    fault::{FaultEngine, Journal, RuleList, RuleSource, read_fault_file},
    process::limits,
    runtime::Runtime,
    service::{Conditions, ControlApi, listen_on, serve},
};

/// How long calls that are under way may go on after the end was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until it is told to end.
pub(super) fn run(options: ServeOptions, executable: Option<&Path>) -> anyhow::Result<()> {
    init_tracing(&options)?;
    // Each container takes a descriptor.
    if let Err(error) = limits::raise_nofile() {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let executable = executable
        .map(PathBuf::from)
        .context("main did not call fake_cri::entry_point first, so no shim can be started")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?
        .block_on(serve_until_signal(options, executable))
}

fn init_tracing(options: &ServeOptions) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
        .with_context(|| format!("failed to read the log filter {:?}", options.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

async fn serve_until_signal(options: ServeOptions, executable: PathBuf) -> anyhow::Result<()> {
    // Before anything is made: a signal that comes meanwhile must not leave half of it behind.
    let terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
    let socket = options.socket()?;
    let control_socket = options.control_socket()?;
    let engine = Arc::new(build_fault_engine(&options)?);
    let runtime = Runtime::open(options.config(executable)?).await?;
    let listener = listen_on(&socket)?;
    let control_listener = listen_on(&control_socket)?;
    let (journal, conditions) = (Arc::new(Journal::new()), Arc::new(Conditions::default()));
    let control = ControlApi::new(engine.clone(), journal.clone(), conditions.clone()).serve(control_listener);

    let shutdown = wait_shutdown(terminate, interrupt, options.exit_on_stdin_eof);
    tracing::info!(?socket, ?control_socket, state_dir = ?runtime.state_dir(), pid = std::process::id(), "serving");
    print_ready_line(&socket);
    let result = tokio::select! {
        served = serve(listener, runtime.clone(), conditions, engine, journal, shutdown) => served,
        failed = control => failed,
    };
    if options.ephemeral {
        runtime.remove_all().await;
    }
    // The state folder's lock is still held, so the socket is still ours.
    for socket in [socket, control_socket] {
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::warn!(?socket, %error, "failed to remove the socket");
        }
    }
    result.context("failed to serve")
}

/// The fault rules of the command line, those of files first.
fn build_fault_engine(options: &ServeOptions) -> anyhow::Result<FaultEngine> {
    let engine = FaultEngine::with_seed(options.seed);
    for file in &options.fault_files {
        engine.add(read_fault_file(file)?, RuleSource::File);
    }
    for RuleList(rules) in &options.faults {
        engine.add(rules.clone(), RuleSource::Flag);
    }
    Ok(engine)
}

/// Tells whoever started this that calls are answered from now on.
fn print_ready_line(socket: &std::path::Path) {
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it, which changes nothing.
    let _ = writeln!(out, "fake-cri listens on unix://{}", socket.display()).and_then(|()| out.flush());
}

/// Comes when this process is told to end.
///
/// Gives how long calls under way may go on: with --exit-on-stdin-eof their callers have gone too.
async fn wait_shutdown(mut terminate: Signal, mut interrupt: Signal, exit_on_stdin_eof: bool) -> Duration {
    let stdin_eof = async {
        if exit_on_stdin_eof {
            wait_stdin_eof().await;
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        () = stdin_eof => {
            tracing::info!("standard input ended: ending");
            return Duration::ZERO;
        }
    }
    DRAIN_TIMEOUT
}

/// Comes when standard input ends. Read by a thread of its own, which nothing waits for: a read of a pipe cannot be taken
/// back.
async fn wait_stdin_eof() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nothing is ever written to standard input: only its end counts.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}
