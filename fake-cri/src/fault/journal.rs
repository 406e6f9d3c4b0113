//! The record of every call: in memory, bounded, and without secrets.
//!
//! Entries are numbered in the order in which their calls ended. The oldest go first when the bound is reached; a reader
//! that is slower than that sees a gap in the numbers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tonic::Code;

/// Entries that a journal holds at most.
const JOURNAL_MAX_ENTRIES: usize = 10_000;

/// Bytes of text that a journal holds at most.
const JOURNAL_MAX_BYTES: usize = 32 << 20;

/// One call, from its arrival to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Counts calls from 1 in the order in which they ended. The journal gives it.
    pub sequence: u64,
    /// `RuntimeService/CheckpointContainer`.
    pub method: String,
    /// When it arrived, in nanoseconds since the epoch.
    pub started_at: i64,
    /// When it ended, in nanoseconds since the epoch.
    pub ended_at: i64,
    /// The request as JSON, in the CRI's own field names; empty when it could not be read. Secrets are left out.
    pub request: String,
    /// The answer as JSON, of a stream an array of its messages; empty without one. Secrets are left out.
    pub response: String,
    /// The code of the answer.
    pub code: Code,
    /// The message of an error.
    pub message: String,
    /// The timeout that the caller sent (`grpc-timeout`).
    pub timeout: Option<Duration>,
    /// The ids of the rules that fired.
    pub faults: Vec<String>,
    /// Whether the caller went away before the answer.
    pub cancelled: bool,
}

impl JournalRecord {
    fn size(&self) -> usize {
        self.method.len() + self.request.len() + self.response.len() + self.message.len()
    }
}

/// The last calls, in the order in which they ended.
#[derive(Debug)]
pub struct Journal {
    ring: Mutex<JournalRing>,
    /// The last number given, for those who wait.
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
    /// An empty journal of 10,000 entries and 32 MiB of text at most.
    pub fn new() -> Journal {
        Journal::default()
    }

    /// An empty journal that holds so many entries and so many bytes of their text at most. The last entry always stays.
    pub fn with_bounds(max_entries: usize, max_bytes: usize) -> Journal {
        Journal {
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
            max_entries,
            max_bytes,
        }
    }

    /// Adds a call that has ended and gives it its number.
    pub fn record(&self, mut entry: JournalRecord) -> u64 {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_sequence += 1;
        entry.sequence = ring.last_sequence;
        ring.bytes += entry.size();
        ring.entries.push_back(Arc::new(entry));
        while ring.entries.len() > 1 && (ring.entries.len() > self.max_entries || ring.bytes > self.max_bytes) {
            let oldest = ring.entries.pop_front().expect("there are two");
            ring.bytes -= oldest.size();
        }
        // Within the lock, so that the numbers that waiters see never fall.
        self.latest.send_replace(ring.last_sequence);
        ring.last_sequence
    }

    /// The entries with a higher number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Arc<JournalRecord>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let start = ring.entries.partition_point(|entry| entry.sequence <= sequence);
        ring.entries.range(start..).cloned().collect()
    }

    /// The entries with a higher number, and then each call as it ends. Ends with the journal.
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
        assert_eq!(sequences(&follower.await.expect("no panic")), [2, 3, 4]);

        let remaining = tokio::spawn(journal.follow(4).collect::<Vec<_>>());
        drop(journal);
        assert!(
            remaining.await.expect("no panic").is_empty(),
            "the journal's end ends it"
        );
    }
}
