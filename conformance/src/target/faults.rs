//! fake-cri's control API: rules in, journal out.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cri_proto::control::v1::{
    AddFaultsRequest, ClearFaultsRequest, FaultRule, JournalEntry, JournalRequest, ListFaultsRequest,
    control_client::ControlClient,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, sync::Mutex};
use tonic::transport::{Channel, Endpoint};

use super::TargetError;
use crate::exhibit::{ExhibitKind, show};

/// A fake-cri that can be told what to do wrong, and that says what it was asked.
#[derive(Debug)]
pub struct Faults {
    socket: PathBuf,
    client: ControlClient<Channel>,
    // What is in force because of us, to be taken back.
    rules: Mutex<Vec<String>>,
    // The journal's end as it was last seen: a kubelet that looks at its containers all the time makes it long.
    seen: AtomicU64,
}

/// One CheckpointContainer call as the runtime received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number in the journal.
    pub sequence: u64,
    /// The container's id.
    pub container_id: String,
    /// Where the archive was asked for.
    pub location: String,
    /// The request's own timeout, in seconds.
    pub timeout: i64,
    /// The call's deadline, from its start; `None` without one.
    pub deadline: Option<Duration>,
    /// The gRPC code of the answer.
    pub code: i32,
    /// Whether the caller went away before the answer.
    pub cancelled: bool,
    /// When the answer was given, in nanoseconds since the epoch.
    pub ended_at: i64,
    /// How many rules fired on it.
    pub faults: usize,
}

/// The method of the calls that are looked at.
const CHECKPOINT: &str = "CheckpointContainer";

impl Faults {
    /// Connects to the control socket.
    ///
    /// # Errors
    /// Nothing answers there.
    pub async fn connect(socket: &Path) -> Result<Faults, TargetError> {
        let path = socket.to_owned();
        let connect = move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        };
        // The URI is demanded and not used: the connector knows the socket.
        let channel = Endpoint::from_static("http://control.invalid")
            .connect_with_connector(tower::service_fn(connect))
            .await
            .map_err(|error| TargetError::Control(format!("{}: {}", socket.display(), chain(&error))))?;
        Ok(Faults {
            socket: socket.to_owned(),
            client: ControlClient::new(channel),
            rules: Mutex::default(),
            seen: AtomicU64::new(0),
        })
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Adds rules in the fault grammar, or `preset:NAME`.
    ///
    /// # Errors
    /// A rule that cannot be read, or no answer.
    pub async fn add(&self, rules: &[&str]) -> Result<(), TargetError> {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        // Locked across the call: rules that a cancelled case added must be known to `clear`.
        let mut known = self.rules.lock().await;
        let answer = self.client.clone().add_faults(AddFaultsRequest { rules }).await;
        known.extend(answer.map_err(refused)?.into_inner().ids);
        Ok(())
    }

    /// Waits until one of the rules that are in force because of us has fired; false when none does in time.
    ///
    /// # Errors
    /// No answer.
    pub async fn fires(&self, within: Duration) -> Result<bool, TargetError> {
        // The control API tells of calls when they end, and a rule may hold one for minutes; so it is asked again and again.
        const POLL: Duration = Duration::from_millis(10);
        let began = std::time::Instant::now();
        loop {
            let listed = self
                .client
                .clone()
                .list_faults(ListFaultsRequest {})
                .await
                .map_err(refused)?;
            let known = self.rules.lock().await;
            let fired = |rule: &FaultRule| rule.fired > 0 && known.contains(&rule.id);
            if listed.into_inner().rules.iter().any(fired) {
                return Ok(true);
            }
            drop(known);
            if began.elapsed() > within {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes back what [`Self::add`] added, and nothing else.
    ///
    /// # Errors
    /// No answer.
    pub async fn clear(&self) -> Result<(), TargetError> {
        let mut known = self.rules.lock().await;
        if known.is_empty() {
            return Ok(());
        }
        let ids = known.clone();
        self.client
            .clone()
            .clear_faults(ClearFaultsRequest { ids })
            .await
            .map_err(refused)?;
        known.clear();
        Ok(())
    }

    /// Notes that nothing of ours is in force any more: the runtime that held it has ended.
    pub async fn forget(&self) {
        self.rules.lock().await.clear();
        // The next one counts from the beginning.
        self.seen.store(0, Ordering::SeqCst);
    }

    /// The number of the journal's last call.
    ///
    /// # Errors
    /// No answer.
    pub async fn mark(&self) -> Result<u64, TargetError> {
        let seen = self.seen.load(Ordering::SeqCst);
        let end = self.entries(seen).await?.last().map_or(seen, |entry| entry.sequence);
        self.seen.store(end, Ordering::SeqCst);
        Ok(end)
    }

    /// The checkpoints that ended after this mark, in the order in which they ended.
    ///
    /// # Errors
    /// No answer, or an entry that cannot be read.
    pub async fn checkpoints_after(&self, mark: u64) -> Result<Vec<Call>, TargetError> {
        let entries = self.entries(mark).await?;
        entries
            .iter()
            .filter(|entry| is_checkpoint(entry))
            .inspect(|entry| exhibit(entry))
            .map(call_of)
            .collect()
    }

    /// Waits for the next checkpoint to end after this mark; `None` when none does in time.
    ///
    /// # Errors
    /// No answer, or an entry that cannot be read.
    pub async fn next_checkpoint(&self, mark: u64, within: Duration) -> Result<Option<Call>, TargetError> {
        let request = JournalRequest {
            follow: true,
            after: mark,
        };
        let next = async {
            let mut stream = self
                .client
                .clone()
                .journal(request)
                .await
                .map_err(refused)?
                .into_inner();
            while let Some(entry) = stream.message().await.map_err(refused)? {
                if is_checkpoint(&entry) {
                    exhibit(&entry);
                    return call_of(&entry).map(Some);
                }
            }
            Err(TargetError::Control("the journal ended".to_owned()))
        };
        tokio::time::timeout(within, next).await.unwrap_or(Ok(None))
    }

    /// All requests that the journal has: the call's name, and its message as JSON with the CRI's field names.
    ///
    /// # Errors
    /// No answer, or an entry that cannot be read.
    pub async fn requests(&self) -> Result<Vec<(String, Value)>, TargetError> {
        let entries = self.entries(0).await?;
        let read = |entry: &JournalEntry| {
            let request = serde_json::from_str(&entry.request)
                .map_err(|error| TargetError::Control(format!("entry {} of the journal: {error}", entry.sequence)))?;
            let method = entry.method.rsplit('/').next().unwrap_or_default();
            Ok((method.to_owned(), request))
        };
        entries.iter().map(read).collect()
    }

    async fn entries(&self, after: u64) -> Result<Vec<JournalEntry>, TargetError> {
        let request = JournalRequest { follow: false, after };
        let mut stream = self
            .client
            .clone()
            .journal(request)
            .await
            .map_err(refused)?
            .into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.map_err(refused)? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn is_checkpoint(entry: &JournalEntry) -> bool {
    entry.method.ends_with(CHECKPOINT)
}

fn exhibit(entry: &JournalEntry) {
    show(ExhibitKind::Journal, || {
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

fn call_of(entry: &JournalEntry) -> Result<Call, TargetError> {
    let request: Value = serde_json::from_str(&entry.request)
        .map_err(|error| TargetError::Control(format!("entry {} of the journal: {error}", entry.sequence)))?;
    // Protobuf's JSON has lowerCamelCase names; the proto's own names are read too.
    let field = |camel: &str, snake: &str| request.get(camel).or_else(|| request.get(snake)).cloned();
    let text = |value: Option<Value>| {
        value
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    let timeout = match field("timeout", "timeout") {
        Some(Value::String(number)) => number.parse().unwrap_or_default(),
        Some(number) => number.as_i64().unwrap_or_default(),
        None => 0,
    };
    Ok(Call {
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
        ended_at: entry.ended_at,
        faults: entry.faults.len(),
    })
}

fn refused(status: tonic::Status) -> TargetError {
    TargetError::Control(format!("{:?}: {}", status.code(), status.message()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_the_journal_s_json() {
        let entry = JournalEntry {
            sequence: 9,
            method: "RuntimeService/CheckpointContainer".to_owned(),
            request: r#"{"containerId":"abc","location":"/x/y.tar","timeout":"120"}"#.to_owned(),
            timeout: 120_000_000_000,
            ..JournalEntry::default()
        };
        assert!(is_checkpoint(&entry));
        let call = call_of(&entry).unwrap();
        assert_eq!(
            (call.container_id.as_str(), call.location.as_str(), call.timeout),
            ("abc", "/x/y.tar", 120)
        );
        assert_eq!(call.deadline, Some(Duration::from_secs(120)));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let error = Faults::connect(Path::new("/nonexistent/control.sock"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/control.sock"), "{error}");
    }
}
