//! The record of all calls: in memory, of bounded size, and without secrets.
//!
//! Entries are numbered in the order in which their calls ended. When the journal is full, the oldest entries are
//! removed first. A reader that is too slow sees a gap in the sequence numbers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tonic::Code;

const JOURNAL_MAX_ENTRIES: usize = 10_000;

/// Bounds the text of requests, responses, methods and messages.
const JOURNAL_MAX_BYTES: usize = 32 << 20;

/// One finished call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Counts calls from 1 in the order in which they ended. Set by [`Journal::record`].
    pub sequence: u64,
    /// Service and method, such as `RuntimeService/CheckpointContainer`.
    pub method: String,
    /// The arrival of the request, in nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// The end of the call, in nanoseconds since the Unix epoch.
    pub ended_at: i64,
    /// The request as JSON with the field names of the CRI, without secrets. Empty if the request could not be decoded.
    pub request: String,
    /// The response as JSON without secrets. A stream is an array of its messages. Empty without a response.
    pub response: String,
    /// The gRPC code of the response.
    pub code: Code,
    /// The message of the error.
    pub message: String,
    /// The timeout that the caller sent (`grpc-timeout`).
    pub timeout: Option<Duration>,
    /// The ids of the rules that fired on the call.
    pub faults: Vec<String>,
    /// Whether the caller cancelled the call before the response.
    pub cancelled: bool,
}

impl JournalRecord {
    fn size(&self) -> usize {
        self.method.len() + self.request.len() + self.response.len() + self.message.len()
    }
}

/// The most recent calls, in the order in which they ended.
#[derive(Debug)]
pub struct Journal {
    ring: Mutex<JournalRing>,
    /// The last sequence number, for followers.
    latest: watch::Sender<u64>,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct JournalRing {
    entries: VecDeque<Arc<JournalRecord>>,
    bytes: usize,
    last_sequence: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal::with_bounds(JOURNAL_MAX_ENTRIES, JOURNAL_MAX_BYTES)
    }
}

impl Journal {
    /// Returns an empty journal for at most 10,000 entries and 32 MiB of text.
    pub fn new() -> Journal {
        Journal::default()
    }

    /// Returns an empty journal with these bounds. The last entry always stays, even if it is larger than `max_bytes`.
    pub fn with_bounds(max_entries: usize, max_bytes: usize) -> Journal {
        Journal {
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
            max_entries,
            max_bytes,
        }
    }

    /// Adds a finished call and returns its sequence number.
    pub fn record(&self, mut entry: JournalRecord) -> u64 {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_sequence += 1;
        entry.sequence = ring.last_sequence;
        ring.bytes += entry.size();
        ring.entries.push_back(Arc::new(entry));
        while ring.entries.len() > 1 && (ring.entries.len() > self.max_entries || ring.bytes > self.max_bytes) {
            let oldest = ring.entries.pop_front().expect("at least two entries");
            ring.bytes -= oldest.size();
        }
        // Under the lock, so that followers never see a sequence number decrease.
        self.latest.send_replace(ring.last_sequence);
        ring.last_sequence
    }

    /// The entries after this sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Arc<JournalRecord>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let start = ring.entries.partition_point(|entry| entry.sequence <= sequence);
        ring.entries.range(start..).cloned().collect()
    }

    /// The entries after this sequence number, and then each call as it ends. The stream ends when the journal is
    /// dropped.
    pub fn follow(self: &Arc<Self>, after: u64) -> impl Stream<Item = Arc<JournalRecord>> + Send + use<> {
        let state = (Arc::downgrade(self), self.latest.subscribe(), after);
        stream::unfold(state, |(journal, mut latest, last)| async move {
            latest.wait_for(|&latest| latest > last).await.ok()?;
            let entries = journal.upgrade()?.after(last);
            let last = entries.last().map_or(last, |entry| entry.sequence);
            Some((stream::iter(entries), (journal, latest, last)))
        })
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(request: &str) -> JournalRecord {
        JournalRecord {
            sequence: 0,
            method: String::new(),
            started_at: 0,
            ended_at: 0,
            request: request.to_owned(),
            response: String::new(),
            code: Code::Ok,
            message: String::new(),
            timeout: None,
            faults: Vec::new(),
            cancelled: false,
        }
    }

    fn sequences(entries: &[Arc<JournalRecord>]) -> Vec<u64> {
        entries.iter().map(|entry| entry.sequence).collect()
    }

    #[test]
    fn oldest_entries_are_dropped_first() {
        let journal = Journal::with_bounds(3, 10);
        for _ in 0..5 {
            journal.record(entry("x"));
        }
        assert_eq!(sequences(&journal.after(0)), [3, 4, 5]);
        assert_eq!(sequences(&journal.after(4)), [5]);
        journal.record(entry("123456789"));
        assert_eq!(sequences(&journal.after(0)), [5, 6]);
        journal.record(entry("larger than the bound"));
        assert_eq!(sequences(&journal.after(0)), [7]);
        assert!(journal.after(7).is_empty());
    }

    #[tokio::test]
    async fn followers_get_existing_and_new_entries() {
        let journal = Arc::new(Journal::new());
        journal.record(entry("a"));
        journal.record(entry("b"));
        let follower = tokio::spawn(journal.follow(1).take(3).collect::<Vec<_>>());
        tokio::task::yield_now().await;
        journal.record(entry("c"));
        tokio::task::yield_now().await;
        journal.record(entry("d"));
        assert_eq!(
            sequences(&follower.await.expect("the follower does not panic")),
            [2, 3, 4]
        );

        let remaining = tokio::spawn(journal.follow(4).collect::<Vec<_>>());
        drop(journal);
        assert!(
            remaining.await.expect("the follower does not panic").is_empty(),
            "the stream ends with the journal"
        );
    }
}
