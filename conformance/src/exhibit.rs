//! What passed between the harness and its target while a case ran: the evidence that a report shows beside the verdict.
//!
//! A case need not hand anything on: whatever asks the target calls [`show`], and what is shown belongs to the case in
//! whose task that happens. A task that a case spawns is a task of its own; [`continued`] takes the case along. A room of its
//! own: targets show, and know no case.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What kind of evidence it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExhibitKind {
    /// A request over HTTP: method, URL, headers that matter.
    Request,
    /// Its answer: status, headers that matter, body.
    Answer,
    /// A line of the runtime's journal.
    Journal,
    /// An archive: where, how long, its members.
    Archive,
    /// A call of the CRI with its answer.
    Cri,
    /// Anything else that was seen, such as the workload's counter.
    Note,
}

impl ExhibitKind {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            ExhibitKind::Request => "request",
            ExhibitKind::Answer => "answer",
            ExhibitKind::Journal => "journal",
            ExhibitKind::Archive => "archive",
            ExhibitKind::Cri => "cri",
            ExhibitKind::Note => "note",
        }
    }
}

/// One piece of evidence, in the order in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exhibit {
    /// Its kind.
    pub kind: ExhibitKind,
    /// A few lines of text, at most [`LONGEST`] bytes.
    pub text: String,
}

/// How long the text of an exhibit may grow, in bytes: a report is read by people.
pub const LONGEST: usize = 4096;
/// How many exhibits a case may have; what comes later is counted in a last one.
pub const MOST: usize = 64;

#[derive(Clone, Debug, Default)]
struct Shown(Arc<Mutex<(Vec<Exhibit>, usize)>>);

tokio::task_local! {
    static SHOWN: Shown;
}

/// Shows something to the report of the case that runs in this task; outside of a case nothing is done, and `text` is not
/// called.
pub fn show(kind: ExhibitKind, text: impl FnOnce() -> String) {
    let _ = SHOWN.try_with(|shown| {
        let mut shown = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.0.len() < MOST {
            let text = cut(text());
            shown.0.push(Exhibit { kind, text });
        } else {
            shown.1 += 1;
        }
    });
}

/// The same future, to be spawned as a task of its own: what it shows belongs to the case that runs here.
pub fn continued<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let shown = SHOWN.try_with(Clone::clone).unwrap_or_default();
    SHOWN.scope(shown, future)
}

/// Runs a case's future; returns what it came to and what was shown meanwhile.
pub(crate) async fn collect<F: Future>(future: F) -> (F::Output, Vec<Exhibit>) {
    let shown = Shown::default();
    let output = SHOWN.scope(shown.clone(), future).await;
    let mut shown = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut exhibits, more) = std::mem::take(&mut *shown);
    if more > 0 {
        exhibits.push(Exhibit {
            kind: ExhibitKind::Note,
            text: format!("{more} more, not shown"),
        });
    }
    (output, exhibits)
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = text.floor_char_boundary(LONGEST);
        let more = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("... ({more} more bytes)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_shown_belongs_to_the_case_also_from_a_task_of_its_own() {
        show(ExhibitKind::Note, || unreachable!("there is no case"));
        let ((), exhibits) = collect(async {
            show(ExhibitKind::Request, || "POST /".to_owned());
            let task = continued(async { show(ExhibitKind::Answer, || "200".to_owned()) });
            tokio::spawn(task).await.unwrap();
        })
        .await;
        let seen: Vec<_> = exhibits.iter().map(|one| (one.kind, one.text.as_str())).collect();
        assert_eq!(seen, [(ExhibitKind::Request, "POST /"), (ExhibitKind::Answer, "200")]);
    }

    #[tokio::test]
    async fn long_and_many_exhibits_are_cut_and_say_so() {
        let ((), exhibits) = collect(async {
            show(ExhibitKind::Note, || "ä".repeat(LONGEST));
            for number in 0..MOST {
                show(ExhibitKind::Note, || number.to_string());
            }
        })
        .await;
        assert!(exhibits[0].text.ends_with("... (4096 more bytes)"));
        assert_eq!(exhibits.len(), MOST + 1);
        assert_eq!(exhibits[MOST].text, "1 more, not shown");
    }
}
