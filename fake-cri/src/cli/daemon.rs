//! `fake-cri serve`, from start to shutdown.
//!
//! ```text
//!  lock the state directory -> recover -> listen -> print the ready line on standard output -> serve
//!       SIGTERM, SIGINT, EOF on standard input -> reject new calls, drain running calls -> --ephemeral: remove all
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

/// How long running calls may continue after a shutdown was requested.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(options: ServeOptions, executable: Option<&Path>) -> anyhow::Result<()> {
    init_tracing(&options)?;
    // Each container needs a file descriptor.
    if let Err(error) = limits::raise_nofile() {
        tracing::warn!(%error, "failed to raise RLIMIT_NOFILE");
    }
    let executable = executable
        .map(PathBuf::from)
        .context("cannot start shims: main did not call fake_cri::entry_point first")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?
        .block_on(serve_until_signal(options, executable))
}

fn init_tracing(options: &ServeOptions) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
        .with_context(|| format!("failed to parse the log filter {:?}", options.log))?;
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
    // Before any state is created: a signal during the start must not leave half of the state behind.
    let terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
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
    // The state directory is still locked, so no other fake-cri can own these sockets.
    for socket in [socket, control_socket] {
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::warn!(?socket, %error, "failed to remove the socket");
        }
    }
    result.context("failed to serve")
}

/// The fault rules of the command line: first those of files, then those of flags.
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

/// Tells the parent process that the socket accepts calls.
fn print_ready_line(socket: &std::path::Path) {
    let mut out = std::io::stdout().lock();
    // An error is ignored: the parent may have closed the pipe.
    let _ = writeln!(out, "fake-cri listens on unix://{}", socket.display()).and_then(|()| out.flush());
}

/// Waits for a shutdown request and returns the time that running calls may still take. With --exit-on-stdin-eof that
/// is zero, because the callers have exited too.
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

/// Waits for EOF on standard input. A detached thread reads, because a blocking read of a pipe cannot be cancelled.
async fn wait_stdin_eof() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Input is discarded: only EOF matters.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}
