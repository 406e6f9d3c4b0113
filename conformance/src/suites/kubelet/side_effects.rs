//! What the kubelet did besides its responses, compared after every step with the requests of the run: the calls to the
//! runtime, and the files in `checkpoints`. A difference fails one of the cases here, whichever case caused it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use reqwest::{
    Method,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use tokio::sync::Mutex;

use super::session::{ARCHIVE_CASE, KEEPS_RUNNING_CASE, KubeletSession, WHEN_DONE_CASE};
use crate::{
    engine::{Authority, Capability, Case, CaseResult, Level, NonPass, Stage, case, pass_if},
    suites::authority,
    targets::{Credentials, FileSnapshot, JournaledCheckpoint, SentRequest},
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/checkpoint/accepted-requests-only", Level::Reference)
        .requirement(
            "The kubelet must call the runtime once for a request that it accepts, and not at all for one that it \
            refuses.",
        )
        .authority(authority::KUBELET_SERVER)
        .motivation("a refused request that is carried out all the same dumps the memory of a container to disk")
        .expected("no call without an accepted request, during the whole run")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Summary)
        .run(|s| Box::pin(accepted_requests_only(s))),
    case("kubelet/archive/earlier-archives-unchanged", Level::Reference)
        .requirement("The kubelet must neither delete nor change an existing archive.")
        .authority(authority::KUBELET)
        .expected("every archive of the run is the same file with the same length and mode")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[KEEPS_RUNNING_CASE, ARCHIVE_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/checkpoint/repeatable"])
        .max_archives(1)
        .stage(Stage::Summary)
        .run(|s| Box::pin(earlier_archives_unchanged(s))),
    case("kubelet/checkpoints-dir/one-file-per-checkpoint", Level::Robust)
        .requirement("A checkpoint must add one private regular file with one name to the directory `checkpoints`.")
        .authority(Authority::PROJECT)
        .motivation("a second copy or name of an archive discloses the memory after the archive is deleted")
        .expected("only files at the locations of checkpoints, with mode 0600 or 0400 and one link")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[KEEPS_RUNNING_CASE, ARCHIVE_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/checkpoint/repeatable"])
        .max_archives(1)
        .stage(Stage::Summary)
        .run(|s| Box::pin(one_file_per_checkpoint(s))),
];

/// How much later than a response of success the call may still reach the runtime. Another case fails a kubelet that does
/// not wait for the runtime.
const LATE_CALL: SignedDuration = SignedDuration::from_millis(500);

/// What was found since the start of the run.
#[derive(Debug)]
pub(super) struct SideEffects {
    state: Mutex<State>,
    /// Whether [`SideEffects::observe_checkpoint`] has made its checkpoint.
    checkpoint_observed: Mutex<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// When the run started. The journal also has the calls of earlier runs.
    started: Timestamp,
    /// Requests that may have caused a call and have not been matched with one.
    unmatched: Vec<SentRequest>,
    /// The files of the directory, as they were last.
    files: Option<BTreeMap<PathBuf, FileSnapshot>>,
    /// Calls without a request that the kubelet accepted.
    extra_calls: Vec<String>,
    /// Archives that were removed or changed.
    changed_archives: Vec<String>,
    /// Files that no checkpoint wrote, or that are not private, with the reason.
    extra_files: BTreeMap<String, String>,
}

impl SideEffects {
    /// Begins a run.
    pub(super) fn new() -> SideEffects {
        let started = Timestamp::now();
        SideEffects {
            state: Mutex::new(State {
                started,
                ..State::default()
            }),
            checkpoint_observed: Mutex::default(),
        }
    }

    /// Compares what happened since the last time.
    pub(super) async fn observe(&self, s: &KubeletSession) -> Result<(), NonPass> {
        let mut state = self.state.lock().await;
        let requests = s.kubelet.client().await.requests().take();
        let calls = match &s.kubelet.fake_cri {
            Some(control) => control.new_checkpoints().await?,
            None => Vec::new(),
        };
        // On a kubelet in use, others may request checkpoints of their Pods.
        let is_own = |location: &str| s.kubelet.lifecycle.is_some() || location.contains(&s.container_under_test().pod);
        let calls: Vec<_> = calls.into_iter().filter(|call| is_own(&call.location)).collect();
        state.match_calls(requests, &calls);
        if let Some(dir) = &s.kubelet.checkpoints_dir {
            let locations = s.kubelet.remembered_archives();
            let locations = locations.iter().chain(calls.iter().map(|call| &call.location));
            let names: BTreeSet<_> = locations
                .filter_map(|location| Path::new(location).file_name())
                .collect();
            state.compare_files(dir, &calls, |path| {
                let name = path.file_name().unwrap_or_default();
                if names.contains(name) {
                    FileOrigin::Checkpoint
                } else if is_own(&name.to_string_lossy()) {
                    FileOrigin::Unknown
                } else {
                    FileOrigin::Foreign
                }
            });
        }
        Ok(())
    }

    /// Makes a checkpoint with a name of its own, once a run: after the first attempt, a run of a single case compares one
    /// earlier archive.
    async fn observe_checkpoint(&self, s: &KubeletSession) -> Result<(), NonPass> {
        let mut observed = self.checkpoint_observed.lock().await;
        self.observe(s).await?;
        if *observed {
            return Ok(());
        }
        s.wait_for_unused_name(s.container_under_test()).await;
        if s.request("").await?.status != 200 {
            return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
        }
        *observed = true;
        self.observe(s).await
    }
}

/// Who wrote a file of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileOrigin {
    /// A checkpoint of this run.
    Checkpoint,
    /// Nobody who is known.
    Unknown,
    /// Somebody else on a kubelet in use.
    Foreign,
}

impl State {
    fn match_calls(&mut self, requests: Vec<SentRequest>, calls: &[JournaledCheckpoint]) {
        let (accepted, refused): (Vec<_>, Vec<_>) = requests.into_iter().partition(may_call);
        self.unmatched.extend(accepted);
        // The request whose response came first: a later one may still match a later call.
        self.unmatched
            .sort_by_key(|request| request.response.map_or(Timestamp::MAX, |(time, _)| time));
        let is_of_run = |call: &&JournaledCheckpoint| i128::from(call.started_at) >= self.started.as_nanosecond();
        let mut calls: Vec<_> = calls.iter().filter(is_of_run).collect();
        calls.sort_by_key(|call| call.started_at);
        for call in calls {
            let matching = self.unmatched.iter().position(|request| is_during(call, request));
            match matching {
                Some(index) => drop(self.unmatched.remove(index)),
                None => self.extra_calls.push(describe_extra_call(call, &refused)),
            }
        }
    }

    fn compare_files(&mut self, dir: &Path, calls: &[JournaledCheckpoint], origin: impl Fn(&Path) -> FileOrigin) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return;
        };
        let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        let Some(before) = self.files.take() else {
            // Files from before the run.
            self.files = Some(snapshots(&paths));
            return;
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Injected faults act on the file at the location, and may leave others.
        let with_faults = calls.iter().any(|call| call.fault_count > 0);
        let written: BTreeSet<_> = calls.iter().map(|call| name(Path::new(&call.location))).collect();
        let now = snapshots(&paths);
        for (path, file) in &before {
            // A file that no checkpoint wrote fails another case, and may come and go.
            if written.contains(&name(path)) || origin(path) != FileOrigin::Checkpoint {
                continue;
            }
            match now.get(path) {
                None => self.changed_archives.push(format!("{} was removed", name(path))),
                // Further names of an archive are the subject of another case.
                Some(after) if !after.is_unchanged_since(file) => {
                    self.changed_archives.push(format!("{} was changed", name(path)));
                }
                Some(_) => {}
            }
        }
        for path in paths.iter().filter(|path| !before.contains_key(*path) && !with_faults) {
            let problem = match (origin(path), now.get(path)) {
                (FileOrigin::Foreign, _) => None,
                (FileOrigin::Unknown, _) => Some("no checkpoint has this location".to_owned()),
                (FileOrigin::Checkpoint, None) => Some("not a regular file".to_owned()),
                (FileOrigin::Checkpoint, Some(file)) => file_problem(file),
            };
            if let Some(problem) = problem {
                self.extra_files.insert(name(path), problem);
            }
        }
        self.files = Some(now);
    }
}

/// Whether the response allows a call: success, or an error of the runtime.
fn may_call(request: &SentRequest) -> bool {
    request
        .response
        .is_none_or(|(_, status)| (200..300).contains(&status) || status >= 500)
}

fn is_during(call: &JournaledCheckpoint, request: &SentRequest) -> bool {
    let Ok(started) = Timestamp::from_nanosecond(call.started_at.into()) else {
        return false;
    };
    let is_before_end = |(ended, status): (Timestamp, u16)| {
        let tolerance = if status < 300 { LATE_CALL } else { SignedDuration::ZERO };
        started <= ended + tolerance
    };
    request.sent_at <= started && request.response.is_none_or(is_before_end)
}

fn describe_extra_call(call: &JournaledCheckpoint, refused: &[SentRequest]) -> String {
    let name = Path::new(&call.location)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let during = refused.iter().filter(|request| is_during(call, request));
    let requests: Vec<_> = during
        .take(3)
        .map(|request| format!("{}: {}", request.text, request.response.map_or(0, |(_, status)| status)))
        .collect();
    match &requests[..] {
        [] => format!("a call for {name} without a request"),
        requests => format!("a call for {name} after {}", requests.join(", ")),
    }
}

fn snapshots(paths: &[PathBuf]) -> BTreeMap<PathBuf, FileSnapshot> {
    let snapshot = |path: &PathBuf| Some((path.clone(), FileSnapshot::read(path).ok()?));
    paths.iter().filter_map(snapshot).collect()
}

fn file_problem(file: &FileSnapshot) -> Option<String> {
    if file.links != 1 {
        return Some(format!("{} links", file.links));
    }
    // Whether others may read it is the subject of `kubelet/archive/root-only`.
    (file.mode & 0o7111 != 0).then(|| format!("mode {:04o}", file.mode))
}

/// Sends one request of each kind that the kubelet refuses. Returns how many.
async fn send_refused_requests(s: &KubeletSession) -> Result<usize, NonPass> {
    let client = s.kubelet.client().await;
    let container = s.container_under_test();
    let mut responses = vec![
        s.kubelet
            .checkpoint(&container.sibling("checkpoint-conformance-none"), "")
            .await?,
        s.request("timeout=soon").await?,
    ];
    let url = |query: &str| client.checkpoint_url(container, query);
    let html = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/html"))]);
    let not_acceptable = client.send_with(Credentials::Authorized, Method::POST, url(""), html, b"{}".to_vec());
    responses.push(not_acceptable.await?);
    responses.push(client.send(Credentials::Authorized, Method::GET, url("")).await?);
    if !s.kubelet.through_node_proxy {
        for credentials in [
            Credentials::Anonymous,
            Credentials::InvalidToken,
            Credentials::UntrustedCertificate,
        ] {
            responses.push(s.kubelet.checkpoint_as(credentials, container, "").await?);
        }
        if client.endpoint().extra_identities.denied_user.is_some() {
            responses.push(s.kubelet.checkpoint_as(Credentials::Denied, container, "").await?);
        }
    }
    responses
        .iter()
        .for_each(|response| s.kubelet.remember_archives(response));
    Ok(responses
        .iter()
        .filter(|response| (400..500).contains(&response.status))
        .count())
}

async fn accepted_requests_only(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let refused = send_refused_requests(s).await?;
    // A call that a refused request has caused reaches the runtime before the call of this request ends.
    s.request("").await?;
    s.side_effects.observe(s).await?;
    let state = s.side_effects.state.lock().await;
    pass_if(
        state.extra_calls.is_empty(),
        format!("no call for {refused} refused requests, and none without a request before"),
        state.extra_calls.join("; "),
    )
}

async fn earlier_archives_unchanged(s: &KubeletSession) -> CaseResult {
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    s.side_effects.observe_checkpoint(s).await?;
    let state = s.side_effects.state.lock().await;
    pass_if(
        state.changed_archives.is_empty(),
        "every archive of the run unchanged",
        state.changed_archives.join("; "),
    )
}

async fn one_file_per_checkpoint(s: &KubeletSession) -> CaseResult {
    s.require_archive_file().await?;
    s.require_checkpointable().await?;
    s.side_effects.observe_checkpoint(s).await?;
    let state = s.side_effects.state.lock().await;
    let problems: Vec<_> = state
        .extra_files
        .iter()
        .map(|(name, problem)| format!("{name}: {problem}"))
        .collect();
    pass_if(
        problems.is_empty(),
        "every new file at the location of a checkpoint",
        problems.join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sent_ms: i64, response: Option<(i64, u16)>) -> SentRequest {
        let time = |ms| Timestamp::from_millisecond(ms).unwrap();
        SentRequest {
            text: "POST".to_owned(),
            sent_at: time(sent_ms),
            response: response.map(|(ms, status)| (time(ms), status)),
        }
    }

    fn call(started_ms: i64) -> JournaledCheckpoint {
        JournaledCheckpoint {
            sequence: 1,
            container_id: "c".to_owned(),
            location: "/checkpoints/a.tar".to_owned(),
            timeout: 0,
            deadline: None,
            code: 0,
            cancelled: false,
            started_at: started_ms * 1_000_000,
            ended_at: started_ms * 1_000_000,
            fault_count: 0,
        }
    }

    fn extra_calls(requests: Vec<SentRequest>, calls: &[JournaledCheckpoint]) -> Vec<String> {
        let mut state = State::default();
        state.match_calls(requests, calls);
        state.extra_calls
    }

    #[test]
    fn an_accepted_request_may_make_one_call() {
        let accepted = || request(1000, Some((2000, 200)));
        assert_eq!(extra_calls(vec![accepted()], &[call(1500)]), Vec::<String>::new());
        assert_eq!(extra_calls(vec![accepted()], &[call(1500), call(1600)]).len(), 1);
        assert_eq!(
            extra_calls(vec![request(1000, None)], &[call(9000)]),
            Vec::<String>::new()
        );
        assert_eq!(extra_calls(vec![accepted()], &[call(500)]).len(), 1);
    }

    #[test]
    fn calls_of_earlier_runs_do_not_count() {
        let mut state = State {
            started: Timestamp::from_millisecond(1000).unwrap(),
            ..State::default()
        };
        state.match_calls(Vec::new(), &[call(999), call(1001)]);
        assert_eq!(state.extra_calls, ["a call for a.tar without a request"]);
    }

    #[test]
    fn a_refused_request_may_make_no_call() {
        let refused = request(1000, Some((1100, 401)));
        let failed = request(3000, Some((3100, 500)));
        assert_eq!(
            extra_calls(vec![refused, failed], &[call(1050)]),
            ["a call for a.tar after POST: 401"]
        );
    }

    #[test]
    fn changed_and_unknown_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let write = |name: &str| std::fs::write(path(name), name).unwrap();
        let origin = |path: &Path| match path.file_name().unwrap().to_str().unwrap() {
            "before.tar" | "kept.tar" | "a.tar" | "b.tar" => FileOrigin::Checkpoint,
            "theirs.tar" => FileOrigin::Foreign,
            _ => FileOrigin::Unknown,
        };
        let mut state = State::default();
        write("before.tar");
        write("kept.tar");
        state.compare_files(dir.path(), &[], origin);
        write("a.tar");
        write("theirs.tar");
        write("copy.tar");
        std::os::unix::fs::symlink("a.tar", path("b.tar")).unwrap();
        std::fs::remove_file(path("before.tar")).unwrap();
        state.compare_files(dir.path(), &[call(1)], origin);
        assert_eq!(state.changed_archives, ["before.tar was removed"]);
        let problems: Vec<_> = state
            .extra_files
            .iter()
            .map(|(name, problem)| format!("{name}: {problem}"))
            .collect();
        assert_eq!(
            problems,
            ["b.tar: not a regular file", "copy.tar: no checkpoint has this location"]
        );
    }
}
