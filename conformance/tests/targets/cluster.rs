//! The kubelets of a cluster: by kubeconfig, directly and through the API server, with a node that is down.

use std::{
    convert::Infallible,
    fs,
    process::Output,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use checkpoint_conformance::{
    report,
    targets::{Embedded, Identity, Kubelet, ServerVerification},
    tls::CertificateKeyPair,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// An API server with two nodes: one with a running kubelet, one without.
struct TestCluster {
    kubelet: Kubelet,
    files: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

/// The credentials of the API server for requests to the kubelet.
struct TestBackend {
    base: String,
    client: reqwest::Client,
    pod: Value,
    nodes: Value,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestCluster {
    async fn start() -> TestCluster {
        let embedded = Embedded {
            executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
            ..Embedded::default()
        };
        let kubelet = embedded.start().await.unwrap();
        let client = kubelet.client().await;
        let access = client.endpoint();
        let (Identity::Certificate(CertificateKeyPair { certificate, key }), ServerVerification::CaBundle(ca)) =
            (&access.identity, &access.verification)
        else {
            panic!("the embedded target has certificates");
        };
        let files = tempfile::tempdir().unwrap();
        for (name, content) in [("cert.pem", certificate), ("key.pem", key), ("ca.pem", ca)] {
            fs::write(files.path().join(name), content).unwrap();
        }
        let backend = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()])
            .identity(reqwest::Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).unwrap())
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        // The listener was dropped: this port refuses connections.
        let closed_port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let node = |name: &str, port: u16| {
            json!({
                "metadata": { "name": name },
                "status": {
                    "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
                    "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
                },
            })
        };
        let port = access.base_url.port().unwrap();
        let subject = kubelet.container_under_test.clone();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let backend = Arc::new(TestBackend {
            base: access.base_url.to_string(),
            client: backend,
            pod: json!({
                "metadata": { "name": subject.pod, "namespace": subject.namespace },
                "status": { "containerStatuses": [{
                    "name": subject.container, "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                    "state": { "running": {} },
                }] },
            }),
            nodes: json!([node("up", port), node("down", closed_port)]),
            requests: Arc::clone(&requests),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
            "clusters": [{
                "name": "test",
                "cluster": { "server": format!("http://{address}"), "certificate-authority": "ca.pem" },
            }],
            "users": [{ "name": "admin", "user": { "client-certificate": "cert.pem", "client-key": "key.pem" } }],
        });
        fs::write(files.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let server = tokio::spawn(serve(listener, backend));
        TestCluster {
            kubelet,
            files,
            requests,
            server,
        }
    }

    async fn run_harness(&self, args: &[&str]) -> (Output, String) {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .arg("kubelet")
            .arg("--kubeconfig")
            .arg(self.files.path().join("kubeconfig"))
            .args(args)
            .output()
            .await
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output, text)
    }

    fn requests_with(&self, method: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|line| line.starts_with(method))
            .cloned()
            .collect()
    }

    async fn end(self) {
        self.server.abort();
        self.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    }
}

async fn serve(listener: TcpListener, backend: Arc<TestBackend>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let backend = Arc::clone(&backend);
                async move { Ok::<_, Infallible>(backend.handle(request).await) }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl TestBackend {
    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.requests.lock().unwrap().push(format!("{method} {path}?{query}"));
        let pods = "/api/v1/namespaces/default/pods";
        match (&method, path.as_str()) {
            (&Method::GET, "/api/v1/nodes") => json_of(StatusCode::OK, &json!({ "items": self.nodes })),
            (&Method::GET, "/api/v1/nodes/up") => json_of(StatusCode::OK, &self.nodes[0]),
            (&Method::GET, "/api/v1/pods") if query.contains("spec.nodeName%3Dup") || query.contains("down") => {
                json_of(StatusCode::OK, &json!({ "items": [self.pod] }))
            }
            (&Method::POST, path) if path == pods => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                json_of(StatusCode::CREATED, &serde_json::from_slice(&body).unwrap())
            }
            (&Method::GET, path) if path.starts_with(pods) => {
                let name = path.rsplit('/').next().unwrap();
                let mut pod = self.pod.clone();
                pod["metadata"] = json!({ "name": name, "namespace": "default" });
                json_of(StatusCode::OK, &pod)
            }
            (&Method::DELETE, path) if path.starts_with(pods) => json_of(StatusCode::OK, &json!({})),
            (_, path) => match path.strip_prefix("/api/v1/nodes/up/proxy/") {
                Some(rest) => {
                    let path = format!("{rest}?{query}");
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    self.forward_to_kubelet(method.clone(), &path, head.headers.get("accept"), body)
                        .await
                }
                None if path.starts_with("/api/v1/nodes/down/proxy/") => json_of(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({ "message": "dial tcp: connection refused" }),
                ),
                None => json_of(StatusCode::NOT_FOUND, &json!({ "reason": "NotFound" })),
            },
        }
    }

    /// Forwards a request to the kubelet with the credentials of the API server, whoever the client is.
    async fn forward_to_kubelet(
        &self,
        method: Method,
        rest: &str,
        accept: Option<&http::HeaderValue>,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let mut request = self.client.request(method, format!("{}{rest}", self.base)).body(body);
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let answer = request.send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != "transfer-encoding" && name != "content-length" {
                response = response.header(name, value);
            }
        }
        response.body(Full::new(answer.bytes().await.unwrap())).unwrap()
    }
}

fn json_of(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(value.to_string())))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_node_is_an_error_report() {
    let cluster = TestCluster::start().await;
    let reports = tempfile::tempdir().unwrap();
    let directory = reports.path().to_str().unwrap();
    let filter = [
        "--filter",
        "kubelet/checkpoint/succeeds",
        "--filter",
        "kubelet/lookup/pod-unknown*",
    ];
    let args = [
        &["--all-nodes", "--pod-selector", "app=web", "--report-dir", directory],
        &filter[..],
    ]
    .concat();
    let (output, text) = cluster.run_harness(&args).await;
    assert_eq!(output.status.code(), Some(3), "{text}");
    let written = report::read(&reports.path().join("report.json")).unwrap();
    let report_of = |name: &str| {
        let report = written
            .iter()
            .find(|report| report.target.node.as_deref() == Some(name));
        report.unwrap_or_else(|| panic!("{name} has no report: {text}"))
    };
    let up = report_of("up");
    assert_eq!((up.count("pass"), up.cases.len()), (3, 3), "{text}");
    assert!(
        !up.remaining_archives.is_empty(),
        "the report names an archive that could not be removed"
    );
    let down = report_of("down");
    assert_eq!(down.count("error"), 1);
    assert!(down.cases[0].actual.contains("node down"), "{}", down.cases[0].actual);

    // Merging two files with one report each gives the same result.
    let (first, second, merged) = (
        reports.path().join("up.json"),
        reports.path().join("down.json"),
        reports.path().join("merged"),
    );
    fs::write(&first, serde_json::to_string(up).unwrap()).unwrap();
    fs::write(&second, serde_json::to_string(down).unwrap()).unwrap();
    let merge_output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
        .arg("merge")
        .args([&first, &second])
        .arg("--report-dir")
        .arg(&merged)
        .output()
        .await
        .unwrap();
    assert_eq!(merge_output.status.code(), Some(3), "{merge_output:?}");
    let names: Vec<_> = report::read(&merged.join("report.json"))
        .unwrap()
        .into_iter()
        .filter_map(|report| report.target.node)
        .collect();
    assert_eq!(names, ["up", "down"]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_proxy_skips_cases_of_the_api_server() {
    let cluster = TestCluster::start().await;
    let subject = cluster.kubelet.container_under_test.to_string();
    let filter = [
        "--filter",
        "kubelet/{authentication,authorization,lookup,method,path}/*",
        "--filter",
        "kubelet/{checkpoint,request,response}/*",
        "--allow-incomplete",
    ];
    let args = [&["--node", "up", "--node-proxy", "--container", &subject], &filter[..]].concat();
    let (output, text) = cluster.run_harness(&args).await;
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("\n  fail "), "{text}");
    assert!(text.contains("requires a direct connection to the kubelet"), "{text}");
    assert!(
        !cluster
            .requests_with("POST /api/v1/nodes/up/proxy/checkpoint/")
            .is_empty()
    );

    let (output, text) = cluster
        .run_harness(&[
            "--all-nodes",
            "--node-proxy",
            "--pod-selector",
            "app=web",
            "--filter",
            "kubelet/checkpoint/succeeds",
        ])
        .await;
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("the kubelet of node down does not respond"), "{text}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_pod_is_deleted_on_failure() {
    let cluster = TestCluster::start().await;
    let (output, text) = cluster
        .run_harness(&[
            "--all-nodes",
            "--image",
            "localhost/test-workload:latest",
            "--filter",
            "kubelet/checkpoint/succeeds",
        ])
        .await;
    assert_eq!(output.status.code(), Some(3), "{text}");
    let (created, deleted) = (cluster.requests_with("POST "), cluster.requests_with("DELETE "));
    assert_eq!((created.len(), deleted.len()), (2, 2), "{created:?} {deleted:?}");
    cluster.end().await;
}

#[tokio::test]
async fn missing_options_are_named() {
    let files = tempfile::tempdir().unwrap();
    let kubeconfig = files.path().join("config");
    fs::write(&kubeconfig, "current-context: x\ncontexts: []\n").unwrap();
    for (args, why) in [
        (&[][..], "--all-nodes"),
        (&["--all-nodes"][..], "--pod-selector"),
        (&["--all-nodes", "--image", "i"][..], "no context called \"x\""),
    ] {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"))
            .args(["kubelet", "--kubeconfig"])
            .arg(&kubeconfig)
            .args(args)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(why), "{why}: {text}");
    }
}
