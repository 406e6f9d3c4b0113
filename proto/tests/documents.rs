//! Compares the JSON documents with the output of real engines, and of Go for the same values.

use cri_proto::{
    document::{BindMount, ConfigDump, Descriptors, SpecDump, Status, StatusDump, to_json, zero_time},
    runtime::v1,
};

/// Written by containerd 2.4.
const CONFIG: &str = r#"{"id":"0123abcd","name":"0123abcd","rootfsImage":"docker.io/library/busybox:latest","rootfsImageRef":"sha256:4f1c","rootfsImageName":"docker.io/library/busybox:latest","runtime":"io.containerd.runc.v2","createdTime":"2026-11-22T13:00:00.123456789Z","checkpointedTime":"2026-11-22T13:00:01.5Z","restoredTime":"0001-01-01T00:00:00Z","restored":false}"#;

#[test]
fn config_dump_matches_go() {
    let config: ConfigDump = serde_json::from_str(CONFIG).expect("a valid document");
    assert_eq!(config.restored_at, zero_time());
    assert_eq!(config.created_at.as_nanosecond() % 1_000_000_000, 123_456_789);
    assert_eq!(to_json(&config).expect("JSON"), CONFIG);
}

#[test]
fn config_dump_reads_zones_and_old_engines() {
    let text = r#"{"id":"a","name":"b","createdTime":"2026-11-22T14:00:00+01:00","checkpointedTime":"2026-11-22T13:00:01Z","more":1}"#;
    let config: ConfigDump = serde_json::from_str(text).expect("a valid document");
    assert_eq!(config.created_at.to_string(), "2026-11-22T13:00:00Z");
    assert_eq!(
        (config.restored_at, config.restored, config.runtime.as_str()),
        (zero_time(), false, "")
    );
}

#[test]
fn config_dump_rejects_invalid_times() {
    let error = serde_json::from_str::<ConfigDump>(&CONFIG.replace("2026-11-22T13:00:01.5Z", "yesterday")).unwrap_err();
    assert!(
        error.to_string().starts_with("\"yesterday\" is not an RFC 3339 time"),
        "{error}"
    );
}

fn container() -> v1::ContainerStatus {
    v1::ContainerStatus {
        id: "0123abcd".into(),
        metadata: Some(v1::ContainerMetadata {
            name: "app".into(),
            attempt: 0,
        }),
        state: v1::ContainerState::ContainerRunning.into(),
        created_at: 1_800_000_000_000_000_001,
        started_at: 1_800_000_000_000_000_002,
        image: Some(v1::ImageSpec {
            image: "busybox:latest".into(),
            ..v1::ImageSpec::default()
        }),
        image_ref: "sha256:4f1c".into(),
        labels: [("b", "2"), ("a", "<1>")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        mounts: vec![v1::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            uid_mappings: vec![v1::IdMapping {
                host_id: 1000,
                container_id: 0,
                length: 1,
            }],
            ..v1::Mount::default()
        }],
        log_path: "/var/log/pods/x/app/0.log".into(),
        resources: Some(v1::ContainerResources {
            linux: Some(v1::LinuxContainerResources {
                cpu_shares: 2,
                ..v1::LinuxContainerResources::default()
            }),
            windows: None,
        }),
        stop_signal: v1::Signal::Sigterm.into(),
        ..v1::ContainerStatus::default()
    }
}

const STATUS_DUMP: &str = r#"{"id":"0123abcd","metadata":{"name":"app"},"state":1,"created_at":1800000000000000001,"started_at":1800000000000000002,"image":{"image":"busybox:latest"},"image_ref":"sha256:4f1c","labels":{"a":"\u003c1\u003e","b":"2"},"mounts":[{"container_path":"/data","host_path":"/srv","uidMappings":[{"host_id":1000,"length":1}]}],"log_path":"/var/log/pods/x/app/0.log","resources":{"linux":{"cpu_shares":2}},"stop_signal":23}"#;

#[test]
fn status_dump_matches_go() {
    let status = StatusDump::from(container());
    assert_eq!(to_json(&status).expect("JSON"), STATUS_DUMP);
    assert_eq!(
        serde_json::from_str::<StatusDump>(STATUS_DUMP).expect("a valid document"),
        status
    );
}

#[test]
fn status_matches_containerd() {
    let status = Status::new(&container(), 4711);
    let text = r#"{"Version":"v1","Pid":4711,"CreatedAt":1800000000000000001,"StartedAt":1800000000000000002,"FinishedAt":0,"ExitCode":0,"Reason":"","Message":"","Resources":{"linux":{"cpu_shares":2}}}"#;
    assert_eq!(to_json(&status).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<Status>(text).expect("a valid document"), status);
    let bare = Status::new(&v1::ContainerStatus::default(), 0);
    assert!(to_json(&bare).expect("JSON").ends_with(r#""Resources":null}"#));
}

#[test]
fn small_documents_round_trip() {
    let descriptors: Descriptors =
        serde_json::from_str(r#"["/dev/null","pipe:[42633]","pipe:[42634]"]"#).expect("a document of runc");
    assert_eq!(descriptors[1], "pipe:[42633]");
    let mounts = vec![BindMount {
        source: "/srv".into(),
        destination: "/data".into(),
        file_type: "directory".into(),
        permissions: 0o755,
    }];
    let text = r#"[{"source":"/srv","destination":"/data","file_type":"directory","permissions":493}]"#;
    assert_eq!(to_json(&mounts).expect("JSON"), text);
    assert_eq!(
        serde_json::from_str::<Vec<BindMount>>(text).expect("a valid document"),
        mounts
    );
    let spec: SpecDump =
        serde_json::from_str(r#"{"ociVersion":"1.2.0","annotations":{"io.container.manager":"containerd"}}"#)
            .expect("a valid spec");
    assert_eq!(
        spec.annotations()
            .as_ref()
            .and_then(|all| all.get("io.container.manager"))
            .map(String::as_str),
        Some("containerd")
    );
}
