//! 64 concurrent checkpoints of 16 containers: each returns an archive of its own container or an error with a reason,
//! and all containers are unchanged afterwards.

#[path = "common/cri.rs"]
mod cri;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
    time::Duration,
};

use cri::{Cri, Pod, WAIT_TIMEOUT, annotated, container_config, pod_config};
use cri_proto::runtime::v1;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// The number of containers, and the number of concurrent checkpoints of each.
const CONTAINERS: usize = 16;
const CHECKPOINTS_PER_CONTAINER: usize = 4;

/// The state of a container before the checkpoints.
#[derive(Debug)]
struct TickingContainer {
    name: String,
    id: String,
    canary: String,
    /// The init process, all its descendants and the threads of the shim, with their start times.
    processes: BTreeSet<(i32, u64)>,
}

/// The fields of a stat file from the state on.
fn stat(path: &str) -> Option<Vec<String>> {
    let stat = fs::read_to_string(path).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// The threads of a process and of its descendants, with their start times.
fn process_tree(pid: i32) -> BTreeSet<(i32, u64)> {
    let mut processes = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = task.path();
        let Some(tid) = task.file_name().to_str().and_then(|tid| tid.parse().ok()) else {
            continue;
        };
        let started = stat(&path.join("stat").to_string_lossy()).and_then(|stat| stat.get(19)?.parse().ok());
        processes.extend(started.map(|started| (tid, started)));
        let children = fs::read_to_string(path.join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            processes.append(&mut self::process_tree(child.parse().expect("a pid")));
        }
    }
    processes
}

/// The threads that are stopped, traced or zombies.
fn stopped_or_traced(processes: &BTreeSet<(i32, u64)>) -> Vec<String> {
    let state = |tid: &i32| {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        (
            field("State:").unwrap_or_default(),
            field("TracerPid:").unwrap_or_default(),
        )
    };
    let tids = processes.iter().map(|(tid, _)| tid);
    tids.map(state)
        .filter(|(state, tracer)| state.starts_with(['T', 't', 'Z']) || tracer != "0")
        .map(|held| format!("{held:?}"))
        .collect()
}

async fn start_container(pod: &Pod<'_>, index: usize) -> TickingContainer {
    let name = format!("app-{index}");
    let id = pod.run(container_config(&name)).await;
    let log = pod.wait_logged(&name, " heartbeat 1 ").await;
    let canary = log
        .lines()
        .find_map(|line| line.split_once(" canary "))
        .expect("a canary")
        .1
        .to_owned();
    let first = pod.cri.pid(&id).await;
    let shim = stat(&format!("/proc/{first}/stat")).expect("the process is running")[1]
        .parse()
        .expect("a pid");
    TickingContainer {
        name,
        id,
        canary,
        processes: process_tree(shim),
    }
}

async fn checkpoint(cri: &Cri, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_string_lossy().into_owned(),
        timeout,
    };
    cri.runtime().checkpoint_container(request).await.map(drop)
}

/// The container id of an archive, and all digit strings of this length in its memory, which may be canaries.
fn archive_canaries(archive: &Path, length: usize) -> (String, BTreeSet<String>) {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("the archive exists"));
    let (mut owner, mut found, mut names) = (None, BTreeSet::new(), BTreeSet::new());
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a complete member");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("a readable member");
        assert_eq!(content.len() as u64, entry.size(), "{name}");
        if name == "config.dump" {
            let config: serde_json::Value = serde_json::from_slice(&content).expect("valid JSON");
            owner = config["id"].as_str().map(str::to_owned);
        } else if name.starts_with("checkpoint/pages-") {
            let words = content.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let words = words.filter(|word| word.len() == length);
            found.extend(words.map(|word| String::from_utf8_lossy(word).into_owned()));
        }
        names.insert(name);
    }
    for name in [
        "checkpoint/inventory.img",
        "checkpoint/pstree.img",
        "dump.log",
        "stats-dump",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    (owner.expect("an owner"), found)
}

fn heartbeat_count(pod: &Pod<'_>, name: &str) -> usize {
    let log = fs::read_to_string(pod.logs.path().join(name).join("0.log")).expect("the log");
    log.lines().filter(|line| line.contains(" heartbeat ")).count()
}

#[tokio::test]
async fn concurrent_checkpoints_are_complete_or_fail_clearly() {
    let cri = Cri::start().await;
    let mut config = pod_config("web");
    config.annotations = annotated(&[("memory", "64Ki"), ("threads", "2"), ("heartbeat-interval", "10ms")]);
    let pod = cri.pod_with_config(config).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut containers = Vec::new();
    for index in 0..CONTAINERS {
        containers.push(start_container(&pod, index).await);
    }
    let canaries_of: BTreeMap<_, _> = containers
        .iter()
        .map(|container| (&container.canary, &container.id))
        .collect();
    assert_eq!(canaries_of.len(), CONTAINERS, "each container has its own canary");

    let mut calls = JoinSet::new();
    for round in 0..CHECKPOINTS_PER_CONTAINER {
        for (index, container) in containers.iter().enumerate() {
            let location = dir.path().join(format!("{index}-{round}.tar"));
            let (mut client, id) = (cri.runtime(), container.id.clone());
            calls.spawn(async move {
                let request = v1::CheckpointContainerRequest {
                    container_id: id,
                    location: location.to_string_lossy().into_owned(),
                    // The last of the four checkpoints may time out while it waits.
                    timeout: i64::from(round == CHECKPOINTS_PER_CONTAINER - 1),
                };
                let answer = client.checkpoint_container(request).await;
                (index, round, location, answer.map(drop))
            });
        }
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), CONTAINERS * CHECKPOINTS_PER_CONTAINER);

    let mut complete_archives = BTreeSet::new();
    for (index, round, location, answer) in &answers {
        let container = &containers[*index];
        match answer {
            Ok(()) => {
                let (owner, found) = archive_canaries(location, container.canary.len());
                assert_eq!(owner, container.id);
                let known: Vec<_> = found.iter().filter(|word| canaries_of.contains_key(word)).collect();
                assert_eq!(known, [&container.canary], "of {}", container.name);
                complete_archives.insert(location.clone());
            }
            Err(status) => {
                assert!(
                    *round == CHECKPOINTS_PER_CONTAINER - 1,
                    "nothing keeps this one from its turn: {status:?}"
                );
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                assert!(status.message().contains(&container.id[..12]), "whose? {status:?}");
            }
        }
    }
    let files: BTreeSet<_> = fs::read_dir(dir.path())
        .expect("the directory is readable")
        .map(|file| file.expect("an entry").path())
        .collect();
    assert_eq!(files, complete_archives, "no other files remain");

    for container in &containers {
        let first = cri.pid(&container.id).await;
        let shim = stat(&format!("/proc/{first}/stat")).expect("the process is running")[1]
            .parse()
            .expect("a pid");
        // The checkpoint thread of the shim exits shortly after the response.
        let settled = async {
            while process_tree(shim) != container.processes || !stopped_or_traced(&container.processes).is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let in_time = tokio::time::timeout(WAIT_TIMEOUT, settled).await;
        let state = || {
            format!(
                "{:?}, held {:?}, before {container:?}",
                process_tree(shim),
                stopped_or_traced(&process_tree(shim))
            )
        };
        assert!(in_time.is_ok(), "{}", state());
        let before = heartbeat_count(&pod, &container.name);
        pod.wait_logged(&container.name, &format!(" heartbeat {} ", before + 1))
            .await;
    }
    let last = dir.path().join("last.tar");
    checkpoint(&cri, &containers[0].id, &last, 0)
        .await
        .expect("the next container runs");
    assert_eq!(archive_canaries(&last, containers[0].canary.len()).0, containers[0].id);
}
