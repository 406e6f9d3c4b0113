//! The harness's own API server, asked as a kubelet asks it: over TLS, with its token.

use std::time::Duration;

use checkpoint_conformance::target::{ApiServer, Authority, Right, Rights};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

struct Bench {
    server: ApiServer,
    client: Client,
}

impl Bench {
    async fn start() -> Bench {
        // Another test of this program may have done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = Authority::new("test").unwrap();
        let right = |user: &str, verb: &str, subresource: &str| Right {
            user: user.to_owned(),
            verb: verb.to_owned(),
            subresource: subresource.to_owned(),
        };
        let rights = Rights {
            tokens: vec![("t0k3n".to_owned(), "alice".to_owned())],
            rights: vec![right("alice", "*", "*"), right("bob", "create", "proxy")],
        };
        let server = ApiServer::start(&authority, "here", rights).await.unwrap();
        let trusted = reqwest::Certificate::from_pem(authority.certificate().as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([trusted]).no_proxy().build().unwrap();
        Bench { server, client }
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.server.url());
        let request = self.client.post(url).bearer_auth(self.server.token()).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.server.url());
        let answer = self
            .client
            .get(url)
            .bearer_auth(self.server.token())
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn tokens_and_rights_are_reviewed() {
    let bench = Bench::start().await;
    let token = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (status, known) = bench.post(token, json!({ "spec": { "token": "t0k3n" } })).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(known["status"]["user"]["username"], "alice");
    let (_, unknown) = bench.post(token, json!({ "spec": { "token": "other" } })).await;
    assert_eq!(unknown["status"]["authenticated"], false);

    let access = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (user, subresource, allowed) in [
        ("alice", "checkpoint", true),
        ("bob", "proxy", true),
        ("bob", "checkpoint", false),
        ("carol", "proxy", false),
    ] {
        let attributes = json!({ "verb": "create", "resource": "nodes", "subresource": subresource });
        let review = json!({ "spec": { "user": user, "resourceAttributes": attributes } });
        let (status, answer) = bench.post(access, review).await;
        assert_eq!(
            (status, &answer["status"]["allowed"]),
            (StatusCode::CREATED, &json!(allowed))
        );
    }
}

#[tokio::test]
async fn who_has_not_the_token_is_told_nothing() {
    let bench = Bench::start().await;
    let url = format!("{}/api/v1/nodes", bench.server.url());
    for token in ["", "t0k3n"] {
        let answer = bench.client.get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token:?}");
    }
}

#[tokio::test]
async fn there_is_one_node_with_room_and_a_watch_stays_silent() {
    let bench = Bench::start().await;
    let (_, nodes) = bench.get("/api/v1/nodes?fieldSelector=metadata.name%3Dhere").await;
    assert_eq!(nodes["items"][0]["metadata"]["name"], "here");
    assert_eq!(nodes["items"][0]["status"]["allocatable"]["pods"], "110");
    assert_eq!(bench.get("/api/v1/pods").await.1["items"], json!([]));
    assert_eq!(bench.get("/api/v1/secrets").await.0, StatusCode::NOT_FOUND);
    // A client that would be sent the beginning in the watch is told to list.
    let (status, told) = bench.get("/api/v1/services?watch=true&sendInitialEvents=true").await;
    assert_eq!(
        (status, &told["reason"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid"))
    );

    let url = format!("{}/api/v1/services?watch=true", bench.server.url());
    let mut watch = bench
        .client
        .get(url)
        .bearer_auth(bench.server.token())
        .send()
        .await
        .unwrap();
    assert_eq!(watch.status(), StatusCode::OK);
    let silent = tokio::time::timeout(Duration::from_millis(100), watch.chunk()).await;
    assert!(silent.is_err(), "{silent:?}");
    // It ends with the server.
    drop(bench.server);
    let ended = tokio::time::timeout(Duration::from_secs(10), watch.chunk())
        .await
        .unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
}
