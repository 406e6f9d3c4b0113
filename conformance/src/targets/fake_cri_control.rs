//! fake-cri's control API: adds and removes fault rules, reads the journal.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cri_proto::control::v1::{FaultRule, JournalEntry};
use fake_cri::control::Client;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{ContainerRef, TargetError};
use crate::evidence::{EvidenceKind, record};

/// A connection to fake-cri's control API.
#[derive(Debug)]
pub struct FakeCriControl {
    socket: PathBuf,
    client: Client,
    // The ids of the rules that this connection added, for `clear_rules`.
    rule_ids: Mutex<Vec<String>>,
    // The last known end of the journal. Later reads start there: the kubelet polls the runtime, which makes the
    // journal long.
    last_sequence: AtomicU64,
    // The end of the journal at the last `new_checkpoints`.
    reported_sequence: AtomicU64,
}

/// A CheckpointContainer call as the runtime received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournaledCheckpoint {
    /// The sequence number in the journal.
    pub sequence: u64,
    /// The container's id.
    pub container_id: String,
    /// The location in the request.
    pub location: String,
    /// The `timeout` field of the request, in seconds.
    pub timeout: i64,
    /// The call's deadline, relative to its start; `None` without a deadline.
    pub deadline: Option<Duration>,
    /// The gRPC code of the response.
    pub code: i32,
    /// Whether the caller cancelled the call.
    pub cancelled: bool,
    /// When the call started, in nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// When the call ended, in nanoseconds since the Unix epoch.
    pub ended_at: i64,
    /// The number of fault rules that fired during the call.
    pub fault_count: usize,
}

const CHECKPOINT_METHOD: &str = "CheckpointContainer";

impl FakeCriControl {
    /// Connects to the control socket.
    ///
    /// # Errors
    /// The socket does not accept the connection.
    pub async fn connect(socket: &Path) -> Result<FakeCriControl, TargetError> {
        let client = Client::connect(socket)
            .await
            .map_err(|error| TargetError::Control(format!("{}: {:#}", socket.display(), anyhow::Error::from(error))))?;
        Ok(FakeCriControl {
            socket: socket.to_owned(),
            client,
            rule_ids: Mutex::default(),
            last_sequence: AtomicU64::new(0),
            reported_sequence: AtomicU64::new(0),
        })
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Adds rules in the fault grammar, or `preset:NAME`.
    ///
    /// # Errors
    /// A rule is invalid, or fake-cri does not respond.
    pub async fn add_rules(&self, rules: &[&str]) -> Result<(), TargetError> {
        // The lock is held during the call: `clear_rules` must know the rules of a case that is cancelled here.
        let mut rule_ids = self.rule_ids.lock().await;
        rule_ids.extend(
            self.client
                .add_faults(rules.iter().copied())
                .await
                .map_err(control_error)?,
        );
        Ok(())
    }

    /// Adds a rule that applies `effect` at `phase` of this container's checkpoints.
    ///
    /// # Errors
    /// As [`Self::add_rules`].
    pub async fn inject(&self, container: &ContainerRef, phase: &str, effect: &str) -> Result<(), TargetError> {
        self.add_rules(&[&container.fault_rule(phase, effect)]).await
    }

    /// Waits until a rule of [`Self::add_rules`] has fired; false if none does within `timeout`.
    ///
    /// # Errors
    /// fake-cri does not respond.
    pub async fn wait_until_fired(&self, timeout: Duration) -> Result<bool, TargetError> {
        // Polls: the journal gets its entry only when the call ends, and a rule can delay a call for minutes.
        const POLL_INTERVAL: Duration = Duration::from_millis(10);
        let started_at = std::time::Instant::now();
        loop {
            let rules = self.client.list_faults().await.map_err(control_error)?;
            let rule_ids = self.rule_ids.lock().await;
            let fired = |rule: &FaultRule| rule.fired > 0 && rule_ids.contains(&rule.id);
            if rules.iter().any(fired) {
                return Ok(true);
            }
            drop(rule_ids);
            if started_at.elapsed() > timeout {
                return Ok(false);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Removes the rules that [`Self::add_rules`] added, and no others.
    ///
    /// # Errors
    /// fake-cri does not respond.
    pub async fn clear_rules(&self) -> Result<(), TargetError> {
        let mut rule_ids = self.rule_ids.lock().await;
        if rule_ids.is_empty() {
            return Ok(());
        }
        self.client.clear_faults(&rule_ids).await.map_err(control_error)?;
        rule_ids.clear();
        Ok(())
    }

    /// Forgets all rules and the journal position after the fake-cri process that held them has ended.
    pub async fn forget_rules(&self) {
        self.rule_ids.lock().await.clear();
        // The new process numbers its journal from the start.
        self.last_sequence.store(0, Ordering::SeqCst);
        self.reported_sequence.store(0, Ordering::SeqCst);
    }

    /// The CheckpointContainer calls that ended since the last time. They are not recorded as evidence.
    ///
    /// # Errors
    /// fake-cri does not respond, or an entry cannot be parsed.
    pub async fn new_checkpoints(&self) -> Result<Vec<JournaledCheckpoint>, TargetError> {
        let position = self.reported_sequence.load(Ordering::SeqCst);
        let entries = self.entries(position).await?;
        if let Some(last) = entries.last() {
            self.reported_sequence.store(last.sequence, Ordering::SeqCst);
        }
        entries
            .iter()
            .filter(|entry| is_checkpoint(entry))
            .map(parse_checkpoint)
            .collect()
    }

    /// The sequence number of the journal's last entry.
    ///
    /// # Errors
    /// fake-cri does not respond.
    pub async fn journal_position(&self) -> Result<u64, TargetError> {
        let position = self.last_sequence.load(Ordering::SeqCst);
        let position_now = self
            .entries(position)
            .await?
            .last()
            .map_or(position, |entry| entry.sequence);
        self.last_sequence.store(position_now, Ordering::SeqCst);
        Ok(position_now)
    }

    /// The CheckpointContainer calls that ended after `position`, in the order in which they ended.
    ///
    /// # Errors
    /// fake-cri does not respond, or an entry cannot be parsed.
    pub async fn checkpoints_after(&self, position: u64) -> Result<Vec<JournaledCheckpoint>, TargetError> {
        let entries = self.entries(position).await?;
        entries
            .iter()
            .filter(|entry| is_checkpoint(entry))
            .inspect(|entry| record_journal_entry(entry))
            .map(parse_checkpoint)
            .collect()
    }

    /// Waits for the next CheckpointContainer call to end after `position`; `None` if none does within `timeout`.
    ///
    /// # Errors
    /// fake-cri does not respond, or the entry cannot be parsed.
    pub async fn next_checkpoint(
        &self,
        position: u64,
        timeout: Duration,
    ) -> Result<Option<JournaledCheckpoint>, TargetError> {
        let next = async {
            let mut stream = self.client.follow_journal(position).await.map_err(control_error)?;
            while let Some(entry) = stream.message().await.map_err(control_error)? {
                if is_checkpoint(&entry) {
                    record_journal_entry(&entry);
                    return parse_checkpoint(&entry).map(Some);
                }
            }
            Err(TargetError::Control("the journal ended".to_owned()))
        };
        tokio::time::timeout(timeout, next).await.unwrap_or(Ok(None))
    }

    /// All requests in the journal: the name of the call, and the message as JSON with the CRI's field names.
    ///
    /// # Errors
    /// fake-cri does not respond, or an entry cannot be parsed.
    pub async fn requests(&self) -> Result<Vec<(String, Value)>, TargetError> {
        let entries = self.entries(0).await?;
        let read = |entry: &JournalEntry| {
            let request = serde_json::from_str(&entry.request)
                .map_err(|error| TargetError::Control(format!("journal entry {}: {error}", entry.sequence)))?;
            let method = entry.method.rsplit('/').next().unwrap_or_default();
            Ok((method.to_owned(), request))
        };
        entries.iter().map(read).collect()
    }

    async fn entries(&self, after: u64) -> Result<Vec<JournalEntry>, TargetError> {
        self.client.journal(after).await.map_err(control_error)
    }
}

fn is_checkpoint(entry: &JournalEntry) -> bool {
    entry.method.ends_with(CHECKPOINT_METHOD)
}

fn record_journal_entry(entry: &JournalEntry) {
    record(EvidenceKind::Journal, || {
        let deadline = match u64::try_from(entry.timeout) {
            Ok(0) | Err(_) => "none".to_owned(),
            Ok(timeout) => format!("{:.3} s", Duration::from_nanos(timeout).as_secs_f64()),
        };
        format!(
            "{} {}\nrequest {}\ndeadline {deadline}, code {}, cancelled {}, faults {}",
            entry.sequence,
            entry.method,
            entry.request,
            entry.code,
            entry.cancelled,
            entry.faults.len()
        )
    });
}

fn parse_checkpoint(entry: &JournalEntry) -> Result<JournaledCheckpoint, TargetError> {
    let request: Value = serde_json::from_str(&entry.request)
        .map_err(|error| TargetError::Control(format!("journal entry {}: {error}", entry.sequence)))?;
    // Protobuf's JSON mapping uses lowerCamelCase and also accepts the original field names.
    let field = |camel: &str, snake: &str| request.get(camel).or_else(|| request.get(snake)).cloned();
    let text = |value: Option<Value>| {
        value
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    let timeout = match field("timeout", "timeout") {
        Some(Value::String(seconds)) => seconds.parse().unwrap_or_default(),
        Some(seconds) => seconds.as_i64().unwrap_or_default(),
        None => 0,
    };
    Ok(JournaledCheckpoint {
        sequence: entry.sequence,
        container_id: text(field("containerId", "container_id")),
        location: text(field("location", "location")),
        timeout,
        deadline: u64::try_from(entry.timeout)
            .ok()
            .filter(|n| *n > 0)
            .map(Duration::from_nanos),
        code: entry.code,
        cancelled: entry.cancelled,
        started_at: entry.started_at,
        ended_at: entry.ended_at,
        fault_count: entry.faults.len(),
    })
}

fn control_error(status: tonic::Status) -> TargetError {
    TargetError::Control(format!("{:?}: {}", status.code(), status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_journaled_checkpoint() {
        let entry = JournalEntry {
            sequence: 9,
            method: "RuntimeService/CheckpointContainer".to_owned(),
            request: r#"{"containerId":"abc","location":"/x/y.tar","timeout":"120"}"#.to_owned(),
            timeout: 120_000_000_000,
            ..JournalEntry::default()
        };
        assert!(is_checkpoint(&entry));
        let call = parse_checkpoint(&entry).unwrap();
        assert_eq!(
            (call.container_id.as_str(), call.location.as_str(), call.timeout),
            ("abc", "/x/y.tar", 120)
        );
        assert_eq!(call.deadline, Some(Duration::from_secs(120)));
    }

    #[tokio::test]
    async fn names_a_missing_socket() {
        let error = FakeCriControl::connect(Path::new("/nonexistent/control.sock"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/control.sock"), "{error}");
    }
}
