//! The subcommand `clean`, and `runtime --clean`.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{Failure, print};
use crate::{engine::exit, targets};

#[derive(Clone, Debug, Args)]
pub(super) struct CleanArgs {
    /// Also remove the Pods and containers of all runs from this runtime, including runs in progress
    #[arg(long, value_name = "unix:///PATH")]
    runtime_endpoint: Option<String>,
}

impl CleanArgs {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
        runtime.block_on(run(self.runtime_endpoint.as_deref()))
    }
}

/// Cleans up and prints what was removed. The runtime comes first: the logs in the run directories name the processes.
pub(super) async fn run(endpoint: Option<&str>) -> Result<u8, Failure> {
    let mut text = String::new();
    if let Some(endpoint) = endpoint {
        let report = targets::runtime::clean(endpoint).await.map_err(anyhow::Error::from)?;
        for (label, list) in [
            ("", &report.unfreeze_notes),
            ("removed container ", &report.containers),
            ("removed pod ", &report.pods),
        ] {
            for line in list {
                let _ = writeln!(text, "{label}{line}");
            }
        }
    }
    let (directories, failures) = targets::remove_stale_runs().await;
    for directory in directories {
        let _ = writeln!(text, "removed directory {}", directory.display());
    }
    if text.is_empty() && failures.is_empty() {
        text.push_str("nothing to clean up\n");
    }
    print(&text)?;
    if failures.is_empty() {
        return Ok(exit::PASS);
    }
    let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
    Err(Failure::Harness(anyhow!("{}", failures.join("; "))))
}
