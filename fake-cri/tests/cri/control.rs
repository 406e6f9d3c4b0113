//! The control API over its own socket: rules, the journal, conditions.

use std::{sync::Arc, time::Duration};

use fake_cri::{
    control::Client,
    fault::{CallTarget, FaultEngine, Journal, JournalRecord, Rpc, RuleSource, parse_rules},
    service::{Conditions, ControlApi},
};
use futures_util::StreamExt as _;
use tokio::net::UnixListener;
use tonic::Code;

struct ControlServer {
    engine: Arc<FaultEngine>,
    journal: Arc<Journal>,
    conditions: Arc<Conditions>,
    client: Client,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    _temp_dir: tempfile::TempDir,
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn start_control_server() -> ControlServer {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a free path");
    let (engine, journal, conditions) = (Arc::new(FaultEngine::new()), Arc::new(Journal::new()), Arc::default());
    let api = ControlApi::new(engine.clone(), journal.clone(), Arc::clone(&conditions));
    ControlServer {
        engine,
        journal,
        conditions,
        server: tokio::spawn(api.serve(listener)),
        client: Client::connect(&socket).await.expect("the server listens"),
        _temp_dir: dir,
    }
}

fn entry(method: &str) -> JournalRecord {
    JournalRecord {
        sequence: 0,
        method: method.to_owned(),
        started_at: 5,
        ended_at: 7,
        request: "{}".to_owned(),
        response: String::new(),
        code: Code::Aborted,
        message: "no".to_owned(),
        timeout: Some(Duration::from_secs(2)),
        faults: vec!["f1".to_owned()],
        cancelled: true,
    }
}

#[tokio::test]
async fn rules_are_added_listed_and_cleared() {
    let server = start_control_server().await;
    let client = &server.client;
    let flag = parse_rules("Version:before=hang").expect("a valid rule");
    server.engine.add(flag, RuleSource::Flag);
    let ids = client
        .add_faults(["Version:after=disconnect; preset:hang", "Status:before=disconnect"])
        .await
        .expect("rules");
    assert_eq!(ids, ["f2", "f3", "f4"]);
    server
        .engine
        .decide(Rpc::by_name("Status").expect("an rpc"), &CallTarget::default());

    let listed = client.list_faults().await.expect("a list");
    let listed: Vec<_> = listed
        .iter()
        .map(|rule| {
            (
                rule.id.as_str(),
                rule.rule.as_str(),
                rule.source.as_str(),
                rule.matched,
                rule.fired,
            )
        })
        .collect();
    let expected = [
        ("f1", "Version:before=hang", "flag", 0, 0),
        ("f2", "Version:after=disconnect", "control", 0, 0),
        ("f3", "CheckpointContainer:before=hang", "control", 0, 0),
        ("f4", "Status:before=disconnect", "control", 1, 1),
    ];
    assert_eq!(listed, expected);

    let cleared = client.clear_faults(&["f2".to_owned(), "f99".to_owned()]).await;
    assert_eq!(cleared.expect("the call succeeds"), 1);
    assert_eq!(client.clear_faults(&[]).await.expect("the call succeeds"), 3);
    assert!(client.list_faults().await.expect("a list").is_empty());
}

#[tokio::test]
async fn a_bad_rule_adds_none_and_names_its_column() {
    let server = start_control_server().await;
    let error = server
        .client
        .add_faults(["Version:before=hang", "Version:sometime=hang"])
        .await;
    let status = error.expect_err("an invalid rule");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("column 9: expected a point"), "{status:?}");
    assert!(
        status.message().ends_with("\n  Version:sometime=hang\n          ^"),
        "{status:?}"
    );
    assert!(server.engine.list().is_empty());
}

#[tokio::test]
async fn the_journal_is_read_and_followed() {
    let server = start_control_server().await;
    for method in ["a", "b", "c"] {
        server.journal.record(entry(method));
    }
    let entries = server.client.journal(1).await.expect("entries");
    let methods: Vec<_> = entries
        .iter()
        .map(|entry| (entry.sequence, entry.method.as_str()))
        .collect();
    assert_eq!(methods, [(2, "b"), (3, "c")]);
    let read = &entries[0];
    assert_eq!((read.started_at, read.ended_at, read.timeout), (5, 7, 2_000_000_000));
    assert_eq!((read.request.as_str(), read.response.as_str()), ("{}", ""));
    assert_eq!((read.code, read.message.as_str(), read.cancelled), (10, "no", true));
    assert_eq!(read.faults, ["f1"]);

    let mut following = server.client.follow_journal(2).await.expect("a stream");
    assert_eq!(following.next().await.expect("an entry").expect("no error").method, "c");
    server.journal.record(entry("d"));
    assert_eq!(following.next().await.expect("an entry").expect("no error").method, "d");
}

#[tokio::test]
async fn conditions_are_set_one_by_one() {
    let server = start_control_server().await;
    let conditions = &server.conditions;
    assert!(conditions.runtime_ready() && conditions.network_ready());
    server
        .client
        .set_conditions(None, Some(false))
        .await
        .expect("the call succeeds");
    assert!(conditions.runtime_ready() && !conditions.network_ready());
    server
        .client
        .set_conditions(Some(false), Some(true))
        .await
        .expect("the call succeeds");
    assert!(!conditions.runtime_ready() && conditions.network_ready());
}
