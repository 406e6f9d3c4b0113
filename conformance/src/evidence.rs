//! What passed between the harness and its target while a case ran: the evidence that a report shows beside the verdict.
//!
//! A case need not hand anything on: whatever asks the target calls [`show`], and what is shown belongs to the case in
//! whose task that happens. A task that a case spawns is a task of its own; [`continued`] takes the case along. A room of its
//! own: targets show, and know no case. What is done once and judged by several cases stands in an [`Once`], so that each of
//! them shows it.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

/// What kind of evidence it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceKind {
    /// A request over HTTP: method, URL, headers that matter.
    Request,
    /// Its response: status, headers that matter, body.
    Response,
    /// A line of the runtime's journal.
    Journal,
    /// An archive: where, how long, its members.
    Archive,
    /// A call of the CRI with its answer.
    Cri,
    /// Anything else that was seen, such as the workload's counter.
    Note,
}

impl EvidenceKind {
    /// Its name in reports.
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

/// One piece of evidence, in the order in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    /// Its kind.
    pub kind: EvidenceKind,
    /// A few lines of text, at most [`LONGEST`] bytes.
    pub text: String,
}

/// How long the text of an item may grow, in bytes: a report is read by people.
pub const MAX_ITEM_BYTES: usize = 4096;
/// How many items of evidence a case may have; what comes later is counted in a last one.
pub const MAX_ITEMS: usize = 64;

#[derive(Clone, Debug, Default)]
struct Recording(Arc<Mutex<(Vec<EvidenceItem>, usize)>>);

tokio::task_local! {
    static RECORDING: Recording;
}

/// Shows something to the report of the case that runs in this task; outside of a case nothing is done, and `text` is not
/// called.
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

/// What is made once, by the first case that asks for it, with what was shown meanwhile: every case that asks shows that.
#[derive(Debug)]
pub struct Memo<T>(OnceCell<(T, Vec<EvidenceItem>)>);

impl<T> Default for Memo<T> {
    fn default() -> Memo<T> {
        Memo(OnceCell::new())
    }
}

impl<T> Memo<T> {
    /// What was made, or what the work makes.
    pub async fn get_or_init<F: Future<Output = T>>(&self, init: impl FnOnce() -> F) -> &T {
        let output = self.0.get_or_init(|| capture_with_new_items(init()));
        replay(output.await)
    }

    /// The same of work that may fail: then it is tried again by the next case that asks.
    ///
    /// # Errors
    /// Those of the work.
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

/// What a future comes to, and what it showed.
async fn capture_with_new_items<F: Future>(init: F) -> (F::Output, Vec<EvidenceItem>) {
    let before = with_recorded_items(|list| list.len());
    let output = init.await;
    let recording = with_recorded_items(|list| list.get(before.unwrap_or_default()..).unwrap_or_default().to_vec());
    (output, recording.unwrap_or_default())
}

/// Shows what was shown when this was made, but for what the case that runs has shown already.
fn replay<T>((output, items): &(T, Vec<EvidenceItem>)) -> &T {
    let recorded = with_recorded_items(<[EvidenceItem]>::to_vec).unwrap_or_default();
    for item in items.iter().filter(|item| !recorded.contains(item)) {
        record(item.kind, || item.text.clone());
    }
    output
}

/// Looks at what the case that runs has shown so far; `None` outside of a case.
fn with_recorded_items<T>(read: impl FnOnce(&[EvidenceItem]) -> T) -> Option<T> {
    RECORDING
        .try_with(|recording| read(&recording.0.lock().unwrap_or_else(PoisonError::into_inner).0))
        .ok()
}

/// The same future, to be spawned as a task of its own: what it shows belongs to the case that runs here.
pub fn in_current_case<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let recording = RECORDING.try_with(Clone::clone).unwrap_or_default();
    RECORDING.scope(recording, future)
}

/// Runs a case's future; returns what it came to and what was shown meanwhile.
pub(crate) async fn capture<F: Future>(future: F) -> (F::Output, Vec<EvidenceItem>) {
    let recording = Recording::default();
    let output = RECORDING.scope(recording.clone(), future).await;
    let mut recording = recording.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut items, omitted) = std::mem::take(&mut *recording);
    if omitted > 0 {
        items.push(EvidenceItem {
            kind: EvidenceKind::Note,
            text: format!("{omitted} more, not shown"),
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
        record(EvidenceKind::Note, || unreachable!("there is no case"));
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
        let attempt = |answer: Result<u8, &'static str>| {
            let memo = &memo;
            capture(async move {
                let init = || async {
                    record(EvidenceKind::Response, || format!("{answer:?}"));
                    answer
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
        assert_eq!(items[MAX_ITEMS].text, "1 more, not shown");
    }
}
