//! The evidence of a case: the requests, responses, journal lines and archive contents that its report shows.
//!
//! Code that talks to a target calls [`record`]. The item belongs to the case whose task runs the call, so cases pass
//! no recorder around and targets know no cases. A task that a case spawns inherits the case only through
//! [`in_current_case`]. Work that is done once for several cases is kept in a [`Memo`], which adds the recorded items
//! to each of these cases.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

/// The kind of an item of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceKind {
    /// An HTTP request: method, URL and relevant headers.
    Request,
    /// An HTTP response: status, relevant headers and body.
    Response,
    /// A line of the runtime's journal.
    Journal,
    /// An archive: path, size and members.
    Archive,
    /// A CRI call with its response.
    Cri,
    /// Any other observation, such as the workload's heartbeat.
    Note,
}

impl EvidenceKind {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            EvidenceKind::Request => "request",
            EvidenceKind::Response => "response",
            EvidenceKind::Journal => "journal",
            EvidenceKind::Archive => "archive",
            EvidenceKind::Cri => "cri",
            EvidenceKind::Note => "note",
        }
    }
}

/// One item of evidence. A case keeps its items in the order in which they were recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    /// The kind of the item.
    pub kind: EvidenceKind,
    /// Text of at most [`MAX_ITEM_BYTES`] bytes, plus a note when it was truncated.
    pub text: String,
}

/// The maximum length of the text of an item, in bytes. Longer text is truncated so that people can read the report.
pub const MAX_ITEM_BYTES: usize = 4096;
/// The maximum number of items of a case. Later items are only counted, in one last note.
pub const MAX_ITEMS: usize = 64;

#[derive(Clone, Debug, Default)]
struct Recording(Arc<Mutex<(Vec<EvidenceItem>, usize)>>);

tokio::task_local! {
    static RECORDING: Recording;
}

/// Adds an item to the case that runs in this task. Outside of a case it does nothing and does not call `text`.
pub fn record(kind: EvidenceKind, text: impl FnOnce() -> String) {
    let _ = RECORDING.try_with(|recording| {
        let mut recording = recording.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.0.len() < MAX_ITEMS {
            let text = truncate_item(text());
            recording.0.push(EvidenceItem { kind, text });
        } else {
            recording.1 += 1;
        }
    });
}

/// A value that the first case computes, with the evidence recorded meanwhile. Every case that reads the value gets
/// that evidence.
#[derive(Debug)]
pub struct Memo<T>(OnceCell<(T, Vec<EvidenceItem>)>);

impl<T> Default for Memo<T> {
    fn default() -> Memo<T> {
        Memo(OnceCell::new())
    }
}

impl<T> Memo<T> {
    /// Returns the value; computes it with `init` on the first call.
    pub async fn get_or_init<F: Future<Output = T>>(&self, init: impl FnOnce() -> F) -> &T {
        let output = self.0.get_or_init(|| capture_with_new_items(init()));
        replay(output.await)
    }

    /// As [`get_or_init`](Self::get_or_init), for an `init` that can fail. A failure is not kept: the next case calls
    /// `init` again.
    ///
    /// # Errors
    /// `init` failed.
    pub async fn get_or_try_init<E, F: Future<Output = Result<T, E>>>(
        &self,
        init: impl FnOnce() -> F,
    ) -> Result<&T, E> {
        let output = self.0.get_or_try_init(|| async {
            let (output, recording) = capture_with_new_items(init()).await;
            Ok((output?, recording))
        });
        Ok(replay(output.await?))
    }
}

/// Returns the output of a future, and the items that were recorded while it ran.
async fn capture_with_new_items<F: Future>(init: F) -> (F::Output, Vec<EvidenceItem>) {
    let before = with_recorded_items(|list| list.len());
    let output = init.await;
    let recording = with_recorded_items(|list| list.get(before.unwrap_or_default()..).unwrap_or_default().to_vec());
    (output, recording.unwrap_or_default())
}

/// Adds the items of a memo to the current case, except those that the case has already.
fn replay<T>((output, items): &(T, Vec<EvidenceItem>)) -> &T {
    let recorded = with_recorded_items(<[EvidenceItem]>::to_vec).unwrap_or_default();
    for item in items.iter().filter(|item| !recorded.contains(item)) {
        record(item.kind, || item.text.clone());
    }
    output
}

/// Calls `read` with the items of the current case; `None` outside of a case.
fn with_recorded_items<T>(read: impl FnOnce(&[EvidenceItem]) -> T) -> Option<T> {
    RECORDING
        .try_with(|recording| read(&recording.0.lock().unwrap_or_else(PoisonError::into_inner).0))
        .ok()
}

/// Wraps a future that the caller spawns as a separate task, so that its items belong to the current case.
pub fn in_current_case<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let recording = RECORDING.try_with(Clone::clone).unwrap_or_default();
    RECORDING.scope(recording, future)
}

/// Runs the future of a case; returns its output and the recorded items.
pub(crate) async fn capture<F: Future>(future: F) -> (F::Output, Vec<EvidenceItem>) {
    let recording = Recording::default();
    let output = RECORDING.scope(recording.clone(), future).await;
    let mut recording = recording.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut items, omitted) = std::mem::take(&mut *recording);
    if omitted > 0 {
        items.push(EvidenceItem {
            kind: EvidenceKind::Note,
            text: format!("items not shown: {omitted}"),
        });
    }
    (output, items)
}

fn truncate_item(mut text: String) -> String {
    if text.len() > MAX_ITEM_BYTES {
        let end = text.floor_char_boundary(MAX_ITEM_BYTES);
        let omitted = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("... ({omitted} more bytes)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn evidence_of_a_spawned_task_belongs_to_the_case() {
        record(EvidenceKind::Note, || unreachable!("no case is running"));
        let ((), items) = capture(async {
            record(EvidenceKind::Request, || "POST /".to_owned());
            let task = in_current_case(async { record(EvidenceKind::Response, || "200".to_owned()) });
            tokio::spawn(task).await.unwrap();
        })
        .await;
        let actual: Vec<_> = items.iter().map(|item| (item.kind, item.text.as_str())).collect();
        assert_eq!(
            actual,
            [(EvidenceKind::Request, "POST /"), (EvidenceKind::Response, "200")]
        );
    }

    fn texts(items: &[EvidenceItem]) -> Vec<&str> {
        items.iter().map(|item| item.text.as_str()).collect()
    }

    #[tokio::test]
    async fn a_memo_replays_its_evidence_once_in_each_case() {
        let memo = Memo::default();
        let init = || async {
            record(EvidenceKind::Request, || "POST /".to_owned());
            record(EvidenceKind::Response, || "200".to_owned());
            7
        };
        let case = |name: &'static str| {
            let memo = &memo;
            async move {
                record(EvidenceKind::Note, || name.to_owned());
                assert_eq!(*memo.get_or_init(init).await, 7);
                assert_eq!(*memo.get_or_init(init).await, 7);
            }
        };
        let ((), first) = capture(case("first")).await;
        assert_eq!(texts(&first), ["first", "POST /", "200"]);
        let ((), second) = capture(case("second")).await;
        assert_eq!(texts(&second), ["second", "POST /", "200"]);
        assert_eq!(*memo.get_or_init(init).await, 7, "outside of a case");
    }

    #[tokio::test]
    async fn a_failed_memo_is_computed_again() {
        let memo = Memo::default();
        let attempt = |result: Result<u8, &'static str>| {
            let memo = &memo;
            capture(async move {
                let init = || async {
                    record(EvidenceKind::Response, || format!("{result:?}"));
                    result
                };
                memo.get_or_try_init(init).await.copied()
            })
        };
        let (output, items) = attempt(Err("gone")).await;
        assert_eq!((output, texts(&items)), (Err("gone"), vec!["Err(\"gone\")"]));
        let (output, items) = attempt(Ok(1)).await;
        assert_eq!((output, texts(&items)), (Ok(1), vec!["Ok(1)"]));
        let (output, items) = attempt(Ok(2)).await;
        assert_eq!((output, texts(&items)), (Ok(1), vec!["Ok(1)"]));
    }

    #[tokio::test]
    async fn evidence_is_truncated_and_says_so() {
        let ((), items) = capture(async {
            record(EvidenceKind::Note, || "ä".repeat(MAX_ITEM_BYTES));
            for index in 0..MAX_ITEMS {
                record(EvidenceKind::Note, || index.to_string());
            }
        })
        .await;
        assert!(items[0].text.ends_with("... (4096 more bytes)"));
        assert_eq!(items.len(), MAX_ITEMS + 1);
        assert_eq!(items[MAX_ITEMS].text, "items not shown: 1");
    }
}
