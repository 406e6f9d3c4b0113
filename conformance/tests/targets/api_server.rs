//! The API server of the harness, used like a kubelet does: over TLS, with its token.

use std::time::Duration;

use checkpoint_conformance::{
    targets::{AccessRules, ApiServer, Permission},
    tls::CertificateAuthority,
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

struct TestApiServer {
    server: ApiServer,
    client: Client,
}

impl TestApiServer {
    async fn start() -> TestApiServer {
        // Another test in this process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = CertificateAuthority::new("test").unwrap();
        let permission = |user: &str, verb: &str, subresource: &str| Permission {
            user: user.to_owned(),
            verb: verb.to_owned(),
            subresource: subresource.to_owned(),
        };
        let rules = AccessRules {
            tokens: vec![("t0k3n".to_owned(), "alice".to_owned())],
            permissions: vec![permission("alice", "*", "*"), permission("bob", "create", "proxy")],
        };
        let server = ApiServer::start(&authority, "here", rules).await.unwrap();
        let trusted = reqwest::Certificate::from_pem(authority.certificate().as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([trusted]).no_proxy().build().unwrap();
        TestApiServer { server, client }
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
async fn reviews_tokens_and_access() {
    let server_under_test = TestApiServer::start().await;
    let token = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (status, authenticated) = server_under_test
        .post(token, json!({ "spec": { "token": "t0k3n" } }))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(authenticated["status"]["user"]["username"], "alice");
    let (_, rejected) = server_under_test
        .post(token, json!({ "spec": { "token": "other" } }))
        .await;
    assert_eq!(rejected["status"]["authenticated"], false);

    let access = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (user, subresource, allowed) in [
        ("alice", "checkpoint", true),
        ("bob", "proxy", true),
        ("bob", "checkpoint", false),
        ("carol", "proxy", false),
    ] {
        let attributes = json!({ "verb": "create", "resource": "nodes", "subresource": subresource });
        let review = json!({ "spec": { "user": user, "resourceAttributes": attributes } });
        let (status, answer) = server_under_test.post(access, review).await;
        assert_eq!(
            (status, &answer["status"]["allowed"]),
            (StatusCode::CREATED, &json!(allowed))
        );
    }
}

#[tokio::test]
async fn rejects_requests_without_the_token() {
    let server_under_test = TestApiServer::start().await;
    let url = format!("{}/api/v1/nodes", server_under_test.server.url());
    for token in ["", "t0k3n"] {
        let answer = server_under_test
            .client
            .get(&url)
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token:?}");
    }
}

#[tokio::test]
async fn serves_one_node_and_empty_watches() {
    let server_under_test = TestApiServer::start().await;
    let (_, nodes) = server_under_test
        .get("/api/v1/nodes?fieldSelector=metadata.name%3Dhere")
        .await;
    assert_eq!(nodes["items"][0]["metadata"]["name"], "here");
    assert_eq!(nodes["items"][0]["status"]["allocatable"]["pods"], "110");
    assert_eq!(server_under_test.get("/api/v1/pods").await.1["items"], json!([]));
    assert_eq!(server_under_test.get("/api/v1/secrets").await.0, StatusCode::NOT_FOUND);
    // A watch with sendInitialEvents is rejected, so that the client lists instead.
    let (status, answer_status) = server_under_test
        .get("/api/v1/services?watch=true&sendInitialEvents=true")
        .await;
    assert_eq!(
        (status, &answer_status["reason"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid"))
    );

    let url = format!("{}/api/v1/services?watch=true", server_under_test.server.url());
    let mut watch = server_under_test
        .client
        .get(url)
        .bearer_auth(server_under_test.server.token())
        .send()
        .await
        .unwrap();
    assert_eq!(watch.status(), StatusCode::OK);
    let silent = tokio::time::timeout(Duration::from_millis(100), watch.chunk()).await;
    assert!(silent.is_err(), "{silent:?}");
    // The watch ends with the server.
    drop(server_under_test.server);
    let end = tokio::time::timeout(Duration::from_secs(10), watch.chunk())
        .await
        .unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}
