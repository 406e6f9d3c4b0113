//! checkpointctl shows the state that `/proc` had at the freeze, for both archive layouts.
//!
//! The tests need checkpointctl, so only `ci/real-checkpointctl` runs them; `CHECKPOINTCTL` is the path of the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::Mutex,
};

use fake_cri::checkpoint::{self, Phase};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, descendants, job, stat},
    workload::{PAGE_BYTES, Shape, Workload},
};

/// The state of a process in `/proc`, as far as checkpointctl shows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct ShownProcess {
    parent: i32,
    command: String,
    command_line: String,
    environment: BTreeMap<String, String>,
    /// The targets of the descriptors.
    descriptors: BTreeMap<i32, String>,
    cwd_and_root: [String; 2],
}

fn read_process(pid: i32) -> ShownProcess {
    let read = |name: &str| String::from_utf8(fs::read(format!("/proc/{pid}/{name}")).unwrap()).unwrap();
    let link = |name: &str| {
        fs::read_link(format!("/proc/{pid}/{name}"))
            .unwrap()
            .display()
            .to_string()
    };
    let environment = read("environ");
    let environment = environment
        .split_terminator('\0')
        .filter_map(|pair| pair.split_once('='));
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let descriptors = descriptors.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    ShownProcess {
        parent: stat(pid).unwrap().1,
        command: read("comm").trim_end().to_owned(),
        command_line: read("cmdline").replace('\0', " ").trim_end().to_owned(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        descriptors: descriptors
            .map(|fd| (fd.parse().unwrap(), link(&format!("fd/{fd}"))))
            .collect(),
        cwd_and_root: [link("cwd"), link("root")],
    }
}

fn checkpointctl(arguments: &[&str], archives: &[&Path]) -> String {
    let program = std::env::var_os("CHECKPOINTCTL").expect("CHECKPOINTCTL is set");
    let output = Command::new(program).args(arguments).args(archives).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a string"))
        .to_owned()
}

/// Collects the processes of the printed tree, with their parents.
fn collect_processes(tree: &Value, parent: i32, shown_processes: &mut BTreeMap<i32, ShownProcess>) {
    let pid = tree["pid"].as_i64().unwrap() as i32;
    let environment = tree["environment_variables"].as_object().into_iter().flatten();
    let process = ShownProcess {
        parent,
        command: text(&tree["command"]),
        command_line: text(&tree["cmdline"]).trim_end().to_owned(),
        environment: environment.map(|(name, value)| (name.clone(), text(value))).collect(),
        ..ShownProcess::default()
    };
    assert!(shown_processes.insert(pid, process).is_none(), "{pid} is listed twice");
    for child in tree["children"].as_array().into_iter().flatten() {
        collect_processes(child, pid, shown_processes);
    }
}

/// Converts a printed descriptor target to the form of `/proc`; `None` if checkpointctl prints only the id of the
/// entry.
fn proc_link(path: &str) -> Option<String> {
    if let Some(pipe) = path.strip_prefix("pipe[") {
        return Some(format!("pipe:[{pipe}"));
    }
    if let Some(socket) = path.strip_prefix("unix[") {
        return Some(format!("socket:[{}]", socket.split(' ').next()?));
    }
    path.starts_with('/').then(|| path.to_owned())
}

#[test]
#[ignore = "needs checkpointctl: ci/real-checkpointctl runs it"]
fn checkpointctl_shows_the_proc_state() {
    let dir = tempfile::tempdir().unwrap();
    let files_dir = tempfile::tempdir().unwrap();
    let workload = Workload::start(&Shape {
        children: 2,
        sleeping: 2,
        sparse_pages: 64,
        files: Some(files_dir.path().to_owned()),
        ..Shape::default()
    });
    let truth = Mutex::new(BTreeMap::new());
    let host = TestHost::with_phase_hook(workload.pid(), |phase| {
        // Later phases also have snapshots, which are children of the processes.
        if phase == Phase::Capture {
            let all = descendants(workload.pid())
                .into_iter()
                .map(|process| process.pid.as_raw());
            *truth.lock().unwrap() = all.map(|pid| (pid, read_process(pid))).collect();
        }
    });
    let job = job(workload.pid(), dir.path());
    let report = checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    drop(host);
    let mut truth = truth.into_inner().unwrap();
    truth.get_mut(&workload.pid()).unwrap().parent = 0;

    let shown: Value = serde_json::from_str(&checkpointctl(
        &["inspect", "--all", "--format", "json"],
        &[&job.location],
    ))
    .unwrap();
    let shown = &shown[0];
    let mut shown_processes = BTreeMap::new();
    collect_processes(&shown["process_tree"], 0, &mut shown_processes);
    for files in shown["file_descriptors"].as_array().unwrap() {
        let pid = files["pid"].as_i64().unwrap() as i32;
        let process = shown_processes.get_mut(&pid).expect("a process of the tree");
        for file in files["open_files"].as_array().unwrap() {
            let (name, path) = (text(&file["fd"]), text(&file["path"]));
            match &*name {
                "cwd" => process.cwd_and_root[0] = path,
                "root" => process.cwd_and_root[1] = path,
                _ => {
                    let fd = name.split(' ').nth(1).unwrap().parse().unwrap();
                    let link = &truth[&pid].descriptors[&fd];
                    // A file without a path is printed with the id of its entry, which cannot be compared with `/proc`.
                    let path = match proc_link(&path) {
                        Some(_) if link.ends_with(" (deleted)") => link.clone(),
                        Some(path) => path,
                        None => {
                            assert!(
                                link.starts_with("anon_inode:")
                                    || link.starts_with("socket:")
                                    || link.starts_with("/memfd:"),
                                "{link}: {path}"
                            );
                            link.clone()
                        }
                    };
                    process.descriptors.insert(fd, path);
                }
            }
        }
    }
    assert_eq!(shown_processes, truth);

    let sizes = &shown["checkpoint_size"];
    assert_eq!(sizes["memory_pages_size"], report.pages * PAGE_BYTES);
    let statistics = &shown["statistics"];
    let contents = ArchiveContents::read(&job.location);
    let private: usize = truth
        .keys()
        .map(|pid| contents.pages(&format!("pagemap-{pid}.img")).len())
        .sum();
    assert_eq!(statistics["pages_written"], private);
    let frozen = statistics["freezing_time"].as_u64().unwrap() + statistics["frozen_time"].as_u64().unwrap();
    assert!(
        frozen > 0 && u128::from(frozen) <= report.frozen_time.as_micros() + 1000,
        "{statistics} {report:?}"
    );

    let listener = contents.file(contents.descriptors(workload.pid())[&workload.layout.descriptors["listener"]].id);
    let port = listener.isk.unwrap().src_port;
    let sockets = shown["sockets"].as_array().unwrap().iter();
    let sockets = sockets
        .filter(|of| of["pid"] == workload.pid())
        .flat_map(|of| of["open_sockets"].as_array().unwrap());
    let tcp: BTreeSet<_> = sockets
        .filter(|socket| socket["protocol"] == "TCP")
        .map(|socket| {
            (
                text(&socket["data"]["state"]),
                socket["data"]["src_port"] == port,
                socket["data"]["dst_port"] == port,
            )
        })
        .collect();
    let expected = [
        ("ESTABLISHED", false, true),
        ("ESTABLISHED", true, false),
        ("LISTEN", true, false),
    ];
    assert_eq!(
        tcp,
        expected
            .map(|(state, here, there)| (state.to_owned(), here, there))
            .into()
    );
    check_memory(&workload, &contents, &job.location, dir.path());

    // A child that exits between two archives is their only difference.
    let killed_pid = *truth.keys().find(|pid| **pid != workload.pid()).unwrap();
    kill(Pid::from_raw(killed_pid), Signal::SIGKILL).unwrap();
    while stat(killed_pid).is_some_and(|(state, ..)| state != 'Z') {
        std::thread::yield_now();
    }
    let mut later = job.clone();
    later.location = dir.path().join("later.tar");
    checkpoint::run(&later, &TestHost::new(workload.pid()), &()).expect("the checkpoint succeeds");
    let archives: [&Path; 2] = [&job.location, &later.location];
    assert_eq!(changed_pids(archives), [killed_pid].into());
    assert_eq!(changed_pids([&job.location; 2]), [].into());
}

/// The processes that differ between two archives, themselves or in their files.
fn changed_pids(archives: [&Path; 2]) -> BTreeSet<i32> {
    let diff = checkpointctl(&["diff", "--files", "--sockets", "--format", "json"], &archives);
    let diff: Value = serde_json::from_str(&diff).unwrap();
    let lists = ["process_changes", "file_changes"].map(|name| diff[name].as_object().expect("an object"));
    let lists = lists.into_iter().flatten().filter(|(kind, _)| *kind != "unchanged");
    let changes = lists.flat_map(|(_, list)| list.as_array().into_iter().flatten());
    // A file without a path is printed with the id of its entry. Ids change with the number of entries.
    let by_number = |change: &&Value| change["path"].as_str().is_some_and(|path| proc_link(path).is_none());
    let changes = changes.filter(|change| !by_number(change));
    changes.map(|change| change["pid"].as_i64().unwrap() as i32).collect()
}

/// Compares the output of memparse with the pages of the archive. Other tests compare these pages with the memory.
fn check_memory(workload: &Workload, contents: &ArchiveContents, archive: &Path, dir: &Path) {
    let pid = workload.pid();
    let (start, _) = workload.layout.mappings["sparse"];
    let pages = contents.pages(&format!("pagemap-{pid}.img"));
    let number = pid.to_string();
    let search_output = checkpointctl(
        &["memparse", "--pid", &number, "--search", "CHECKPOINT_WORKLOAD="],
        &[archive],
    );
    assert!(search_output.contains("CHECKPOINT_WORKLOAD="), "{search_output}");
    let output = dir.join("memory");
    checkpointctl(
        &["memparse", "--pid", &number, "--output", output.to_str().unwrap()],
        &[archive],
    );
    let mut lines = 0;
    for line in fs::read_to_string(output).unwrap().lines() {
        let mut columns = line.split_whitespace();
        let Some(address) = columns.next().filter(|word| word.len() == 16) else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else {
            continue;
        };
        if !(start..start + 64 * PAGE_BYTES).contains(&address) {
            continue;
        }
        let bytes: Vec<u8> = columns
            .take(16)
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        let offset = (address % PAGE_BYTES) as usize;
        assert_eq!(
            bytes,
            pages[&(address / PAGE_BYTES * PAGE_BYTES)][offset..offset + 16],
            "{line}"
        );
        lines += 1;
    }
    assert_eq!(
        lines,
        32 * PAGE_BYTES / 16,
        "every second page has content, in lines of 16 bytes"
    );
}
