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

/// What is made once, by the first case that asks for it, with what was shown meanwhile: every case that asks shows that.
#[derive(Debug)]
pub struct Once<T>(OnceCell<(T, Vec<Exhibit>)>);

impl<T> Default for Once<T> {
    fn default() -> Once<T> {
        Once(OnceCell::new())
    }
}

impl<T> Once<T> {
    /// What was made, or what the work makes.
    pub async fn get_or_init<F: Future<Output = T>>(&self, work: impl FnOnce() -> F) -> &T {
        let made = self.0.get_or_init(|| noted(work()));
        shown_again(made.await)
    }

    /// The same of work that may fail: then it is tried again by the next case that asks.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn get_or_try_init<E, F: Future<Output = Result<T, E>>>(
        &self,
        work: impl FnOnce() -> F,
    ) -> Result<&T, E> {
        let made = self.0.get_or_try_init(|| async {
            let (made, shown) = noted(work()).await;
            Ok((made?, shown))
        });
        Ok(shown_again(made.await?))
    }
}

/// What a future comes to, and what it showed.
async fn noted<F: Future>(work: F) -> (F::Output, Vec<Exhibit>) {
    let before = shown(|list| list.len());
    let made = work.await;
    let shown = shown(|list| list.get(before.unwrap_or_default()..).unwrap_or_default().to_vec());
    (made, shown.unwrap_or_default())
}

/// Shows what was shown when this was made, but for what the case that runs has shown already.
fn shown_again<T>((made, exhibits): &(T, Vec<Exhibit>)) -> &T {
    let known = shown(<[Exhibit]>::to_vec).unwrap_or_default();
    for exhibit in exhibits.iter().filter(|exhibit| !known.contains(exhibit)) {
        show(exhibit.kind, || exhibit.text.clone());
    }
    made
}

/// Looks at what the case that runs has shown so far; `None` outside of a case.
fn shown<T>(look: impl FnOnce(&[Exhibit]) -> T) -> Option<T> {
    SHOWN
        .try_with(|shown| look(&shown.0.lock().unwrap_or_else(PoisonError::into_inner).0))
        .ok()
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

    fn texts(exhibits: &[Exhibit]) -> Vec<&str> {
        exhibits.iter().map(|one| one.text.as_str()).collect()
    }

    #[tokio::test]
    async fn what_is_made_once_is_shown_by_every_case_that_asks_and_once_by_each() {
        let once = Once::default();
        let work = || async {
            show(ExhibitKind::Request, || "POST /".to_owned());
            show(ExhibitKind::Answer, || "200".to_owned());
            7
        };
        let case = |name: &'static str| {
            let once = &once;
            async move {
                show(ExhibitKind::Note, || name.to_owned());
                assert_eq!(*once.get_or_init(work).await, 7);
                assert_eq!(*once.get_or_init(work).await, 7);
            }
        };
        let ((), first) = collect(case("first")).await;
        assert_eq!(texts(&first), ["first", "POST /", "200"]);
        let ((), second) = collect(case("second")).await;
        assert_eq!(texts(&second), ["second", "POST /", "200"]);
        assert_eq!(*once.get_or_init(work).await, 7, "outside of a case");
    }

    #[tokio::test]
    async fn what_failed_is_made_again_and_shows_what_it_did_in_vain() {
        let once = Once::default();
        let attempt = |answer: Result<u8, &'static str>| {
            let once = &once;
            collect(async move {
                let work = || async {
                    show(ExhibitKind::Answer, || format!("{answer:?}"));
                    answer
                };
                once.get_or_try_init(work).await.copied()
            })
        };
        let (made, exhibits) = attempt(Err("gone")).await;
        assert_eq!((made, texts(&exhibits)), (Err("gone"), vec!["Err(\"gone\")"]));
        let (made, exhibits) = attempt(Ok(1)).await;
        assert_eq!((made, texts(&exhibits)), (Ok(1), vec!["Ok(1)"]));
        let (made, exhibits) = attempt(Ok(2)).await;
        assert_eq!((made, texts(&exhibits)), (Ok(1), vec!["Ok(1)"]));
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
