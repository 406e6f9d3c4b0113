//! `fake-cri fault` and `fake-cri journal`: command line clients of the control API.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use cri_proto::control::v1::JournalEntry;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value as Json;
use tonic::Code;

use super::options::resolve_control_socket;
use crate::{
    control::Client,
    fault::{Preset, RuleList, presets_markdown, read_fault_file},
    service::parse_endpoint,
};

#[derive(Clone, Debug, Args)]
pub(super) struct ControlTarget {
    /// The socket of the control API [default: control.sock in the state directory]
    #[arg(long, value_name = "unix:///PATH", value_parser = parse_endpoint, env = "FAKE_CRI_CONTROL")]
    control: Option<PathBuf>,
    /// The state directory of the running fake-cri [default: as for `fake-cri serve`]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum FaultCommand {
    /// Add rules, all or none, and print their ids
    Add {
        /// Rules such as 'CheckpointContainer(nth=2):before=error(Internal,"disk on fire")', or preset:NAME
        #[arg(value_name = "RULE", required_unless_present = "files")]
        rules: Vec<RuleList>,
        /// A TOML file of fault rules
        #[arg(long = "file", value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        target: ControlTarget,
    },
    /// List the rules in force, with the number of calls that they matched and fired on
    List {
        #[command(flatten)]
        target: ControlTarget,
    },
    /// Remove the rules with these ids, or all rules
    Clear {
        /// Ids as printed by `fake-cri fault list`
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        target: ControlTarget,
    },
    /// Print the presets, with the failures of real runtimes that they reproduce
    Presets {
        /// Print a Markdown table
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(super) struct JournalOptions {
    /// Keep printing calls as they end
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print only calls after this sequence number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    target: ControlTarget,
}

pub(super) fn run_fault_command(command: FaultCommand) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    ignore_broken_pipe(print_fault_command(command, &mut out))
}

/// A reader that closes the pipe early, such as `head`, is not a failure.
fn ignore_broken_pipe(result: anyhow::Result<()>) -> anyhow::Result<()> {
    let is_broken_pipe = |error: &anyhow::Error| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    result.or_else(|error| if is_broken_pipe(&error) { Ok(()) } else { Err(error) })
}

fn print_fault_command(command: FaultCommand, out: &mut impl io::Write) -> anyhow::Result<()> {
    match command {
        FaultCommand::Presets { markdown: true } => write!(out, "{}", presets_markdown())?,
        FaultCommand::Presets { markdown: false } => {
            for preset in Preset::ALL {
                writeln!(
                    out,
                    "{}\n    {}\n    seen: {}",
                    preset.name, preset.summary, preset.source
                )?;
                for rule in preset.rule_texts {
                    writeln!(out, "    {rule}")?;
                }
            }
        }
        FaultCommand::Add { rules, files, target } => {
            let mut rule_texts = Vec::new();
            for file in files {
                rule_texts.extend(read_fault_file(&file)?.iter().map(ToString::to_string));
            }
            rule_texts.extend(rules.iter().flat_map(|RuleList(rules)| rules).map(ToString::to_string));
            let ids = with_client(target, async |client| client.add_faults(rule_texts).await)?;
            for id in ids {
                writeln!(out, "{id}")?;
            }
        }
        FaultCommand::List { target } => {
            for rule in with_client(target, async |client| client.list_faults().await)? {
                let (id, matched, fired, source) = (rule.id, rule.matched, rule.fired, rule.source);
                writeln!(
                    out,
                    "{id}\tmatched={matched}\tfired={fired}\tsource={source}\t{}",
                    rule.rule
                )?;
            }
        }
        FaultCommand::Clear { ids, target } => {
            let cleared = with_client(target, async |client| client.clear_faults(&ids).await)?;
            writeln!(out, "cleared {cleared}")?;
        }
    }
    Ok(())
}

pub(super) fn print_journal(options: JournalOptions) -> anyhow::Result<()> {
    let print = |entry: &JournalEntry| {
        let line = if options.json {
            json_line(entry)
        } else {
            text_line(entry)
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())
    };
    let (after, follow) = (options.after, options.follow);
    let result = with_client(options.target, async |client| {
        if !follow {
            let entries = client.journal(after).await?;
            return Ok(entries.iter().try_for_each(print));
        }
        let mut entries = client.follow_journal(after).await?;
        while let Some(entry) = entries.next().await {
            if let Err(error) = print(&entry?) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    })?;
    ignore_broken_pipe(result.map_err(Into::into))
}

fn with_client<T>(
    target: ControlTarget,
    action: impl AsyncFnOnce(Client) -> Result<T, tonic::Status>,
) -> anyhow::Result<T> {
    let socket = resolve_control_socket(target.control.as_deref(), target.state_dir.as_deref())?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?
        .block_on(async {
            let client = Client::connect(&socket).await;
            let client = client.with_context(|| format!("cannot reach fake-cri at {}", socket.display()))?;
            action(client)
                .await
                .map_err(|status| anyhow::anyhow!("{}", status.message()))
        })
}

/// The text form of an entry.
fn text_line(entry: &JournalEntry) -> String {
    let duration = std::time::Duration::from_nanos(entry.ended_at.saturating_sub(entry.started_at).unsigned_abs());
    let mut line = format!(
        "{} {} {} {:?} {duration:.1?}",
        entry.sequence,
        format_time(entry.started_at),
        entry.method,
        Code::from_i32(entry.code)
    );
    if !entry.message.is_empty() {
        line += &format!(" {:?}", entry.message);
    }
    if !entry.faults.is_empty() {
        line += &format!(" faults={}", entry.faults.join(","));
    }
    if entry.cancelled {
        line += " cancelled";
    }
    line
}

/// The JSON form of an entry: times as RFC 3339, durations in nanoseconds, codes as gRPC names.
fn json_line(entry: &JournalEntry) -> String {
    let document = |text: &str| serde_json::from_str(text).unwrap_or(Json::Null);
    serde_json::json!({
        "sequence": entry.sequence,
        "method": entry.method,
        "started_at": format_time(entry.started_at),
        "ended_at": format_time(entry.ended_at),
        "duration_ns": entry.ended_at.saturating_sub(entry.started_at),
        "timeout_ns": (entry.timeout > 0).then_some(entry.timeout),
        "request": document(&entry.request),
        "response": document(&entry.response),
        "code": format!("{:?}", Code::from_i32(entry.code)),
        "message": entry.message,
        "faults": entry.faults,
        "cancelled": entry.cancelled,
    })
    .to_string()
}

fn format_time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into()).map_or_else(|_| nanoseconds.to_string(), |time| time.to_string())
}
