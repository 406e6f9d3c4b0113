//! A client of gRPC's C core (Python's grpcio) over the unix socket. Its `:authority` is the path of the socket, which
//! h2 rejects as a host.

use crate::cri;

use std::process::Command;

use cri::Cri;

/// Calls Version twice on one channel and prints the runtime name. The second call refers to the HPACK table.
const CLIENT: &str = r#"
import grpc, sys
for target in sys.argv[1:]:
    with grpc.insecure_channel(target) as channel:
        version = channel.unary_unary("/runtime.v1.RuntimeService/Version")
        for _ in range(2):
            assert b"fake-cri" in version(b"", timeout=20)
        # Health is not behind the fault layer, and the answer's header is another one.
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"", timeout=20) == b"\x08\x01"
    print("reached by", target)
"#;

fn has_python_grpc() -> bool {
    let found = Command::new("python3").args(["-c", "import grpc"]).output();
    match found {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            eprintln!(
                "skipped: Python has no grpcio: {}",
                why.lines().last().unwrap_or_default()
            );
            false
        }
        Err(error) => {
            eprintln!("skipped: no Python: {error}");
            false
        }
    }
}

#[tokio::test]
async fn grpc_c_core_clients_need_no_option() {
    if !has_python_grpc() {
        return;
    }
    let cri = Cri::start().await;
    let socket = cri.process.socket().to_owned();
    let dir = socket.parent().expect("a directory");
    let name = socket.file_name().expect("a name").to_string_lossy().into_owned();
    let targets = [
        format!("unix://{}", socket.display()),
        format!("unix:{}", socket.display()),
        // Relative to the working directory of the client.
        format!("unix:{name}"),
    ];
    let output = Command::new("python3")
        .args(["-c", CLIENT])
        .args(&targets)
        .current_dir(dir)
        .output()
        .expect("Python runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(stdout.lines().count(), targets.len());
}
