//! What checkpointctl shows of an archive is what `/proc` said at the freeze, whichever engine it is laid out for.
//!
//! Needs checkpointctl, so `ci/real-checkpointctl` runs it; `CHECKPOINTCTL` names the program.

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
    archive::Contents,
    host::{TestHost, descendants, job, stat},
    workload::{PAGE, Shape, Workload},
};

/// What `/proc` says of one process.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    parent: i32,
    command: String,
    command_line: String,
    environment: BTreeMap<String, String>,
    /// Where its descriptors lead.
    descriptors: BTreeMap<i32, String>,
    /// Where it is, and its root.
    places: [String; 2],
}

fn look_at(pid: i32) -> Seen {
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
    Seen {
        parent: stat(pid).unwrap().1,
        command: read("comm").trim_end().to_owned(),
        command_line: read("cmdline").replace('\0', " ").trim_end().to_owned(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        descriptors: descriptors
            .map(|fd| (fd.parse().unwrap(), link(&format!("fd/{fd}"))))
            .collect(),
        places: [link("cwd"), link("root")],
    }
}

fn checkpointctl(arguments: &[&str], archives: &[&Path]) -> String {
    let program = std::env::var_os("CHECKPOINTCTL").expect("CHECKPOINTCTL names the program");
    let said = Command::new(program).args(arguments).args(archives).output().unwrap();
    assert!(
        said.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    String::from_utf8(said.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// The processes of a tree that is shown, with their parents.
fn processes(tree: &Value, parent: i32, found: &mut BTreeMap<i32, Seen>) {
    let pid = tree["pid"].as_i64().unwrap() as i32;
    let environment = tree["environment_variables"].as_object().into_iter().flatten();
    let seen = Seen {
        parent,
        command: text(&tree["command"]),
        command_line: text(&tree["cmdline"]).trim_end().to_owned(),
        environment: environment.map(|(name, value)| (name.clone(), text(value))).collect(),
        ..Seen::default()
    };
    assert!(found.insert(pid, seen).is_none(), "{pid} twice");
    for child in tree["children"].as_array().into_iter().flatten() {
        processes(child, pid, found);
    }
}

/// Where a descriptor that is shown leads, in the words of `/proc`; `None` for what is shown by a number alone.
fn target(path: &str) -> Option<String> {
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
fn checkpointctl_shows_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let held = tempfile::tempdir().unwrap();
    let workload = Workload::start(&Shape {
        children: 2,
        sleeping: 2,
        sparse_pages: 64,
        files: Some(held.path().to_owned()),
        ..Shape::default()
    });
    let truth = Mutex::new(BTreeMap::new());
    let host = TestHost::with(workload.pid(), |phase| {
        // Later there are copies, which are children of what they were made of.
        if phase == Phase::Capture {
            let all = descendants(workload.pid()).into_iter();
            *truth.lock().unwrap() = all.map(|process| (process.pid, look_at(process.pid))).collect();
        }
    });
    let job = job(workload.pid(), folder.path());
    let report = checkpoint::run(&job, &host).expect("checkpoint");
    drop(host);
    let mut truth = truth.into_inner().unwrap();
    truth.get_mut(&workload.pid()).unwrap().parent = 0;

    let shown: Value = serde_json::from_str(&checkpointctl(
        &["inspect", "--all", "--format", "json"],
        &[&job.location],
    ))
    .unwrap();
    let shown = &shown[0];
    let mut found = BTreeMap::new();
    processes(&shown["process_tree"], 0, &mut found);
    for files in shown["file_descriptors"].as_array().unwrap() {
        let pid = files["pid"].as_i64().unwrap() as i32;
        let seen = found.get_mut(&pid).expect("in the tree");
        for file in files["open_files"].as_array().unwrap() {
            let (name, path) = (text(&file["fd"]), text(&file["path"]));
            match &*name {
                "cwd" => seen.places[0] = path,
                "root" => seen.places[1] = path,
                _ => {
                    let fd = name.split(' ').nth(1).unwrap().parse().unwrap();
                    let was = &truth[&pid].descriptors[&fd];
                    // What has no path is shown by the number of its entry; which it is is the matter of the images.
                    let path = match target(&path) {
                        Some(_) if was.ends_with(" (deleted)") => was.clone(),
                        Some(path) => path,
                        None => {
                            assert!(
                                was.starts_with("anon_inode:")
                                    || was.starts_with("socket:")
                                    || was.starts_with("/memfd:"),
                                "{was}: {path}"
                            );
                            was.clone()
                        }
                    };
                    seen.descriptors.insert(fd, path);
                }
            }
        }
    }
    assert_eq!(found, truth);

    let sizes = &shown["checkpoint_size"];
    assert_eq!(sizes["memory_pages_size"], report.pages * PAGE);
    let statistics = &shown["statistics"];
    let contents = Contents::read(&job.location);
    let private: usize = truth
        .keys()
        .map(|pid| contents.pages(&format!("pagemap-{pid}.img")).len())
        .sum();
    assert_eq!(statistics["pages_written"], private);
    let frozen = statistics["freezing_time"].as_u64().unwrap() + statistics["frozen_time"].as_u64().unwrap();
    assert!(
        frozen > 0 && u128::from(frozen) <= report.frozen.as_micros() + 1000,
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
    memory(&workload, &contents, &job.location, folder.path());

    // A child that ends between two archives is what differs between them.
    let gone = *truth.keys().find(|pid| **pid != workload.pid()).unwrap();
    kill(Pid::from_raw(gone), Signal::SIGKILL).unwrap();
    while stat(gone).is_some_and(|(state, ..)| state != 'Z') {
        std::thread::yield_now();
    }
    let mut later = job.clone();
    later.location = folder.path().join("later.tar");
    checkpoint::run(&later, &TestHost::new(workload.pid())).expect("checkpoint");
    let archives: [&Path; 2] = [&job.location, &later.location];
    assert_eq!(changed(archives), [gone].into());
    assert_eq!(changed([&job.location; 2]), [].into());
}

/// The processes that differ between two archives, by themselves or by their files.
fn changed(archives: [&Path; 2]) -> BTreeSet<i32> {
    let diff = checkpointctl(&["diff", "--files", "--sockets", "--format", "json"], &archives);
    let diff: Value = serde_json::from_str(&diff).unwrap();
    let lists = ["process_changes", "file_changes"].map(|name| diff[name].as_object().expect("a part of it"));
    let lists = lists.into_iter().flatten().filter(|(kind, _)| *kind != "unchanged");
    let changes = lists.flat_map(|(_, list)| list.as_array().into_iter().flatten());
    // A file without a path is shown by the number of its entry, which is another when there are fewer.
    let by_number = |change: &&Value| change["path"].as_str().is_some_and(|path| target(path).is_none());
    let changes = changes.filter(|change| !by_number(change));
    changes.map(|change| change["pid"].as_i64().unwrap() as i32).collect()
}

/// Memory as it is searched and dumped, against the pages of the archive, which are held against memory elsewhere.
fn memory(workload: &Workload, contents: &Contents, archive: &Path, folder: &Path) {
    let pid = workload.pid();
    let (start, _) = workload.layout.mappings["sparse"];
    let pages = contents.pages(&format!("pagemap-{pid}.img"));
    let number = pid.to_string();
    let found = checkpointctl(
        &["memparse", "--pid", &number, "--search", "CHECKPOINT_WORKLOAD="],
        &[archive],
    );
    assert!(found.contains("CHECKPOINT_WORKLOAD="), "{found}");
    let output = folder.join("memory");
    checkpointctl(
        &["memparse", "--pid", &number, "--output", output.to_str().unwrap()],
        &[archive],
    );
    let mut lines = 0;
    for line in fs::read_to_string(output).unwrap().lines() {
        let mut words = line.split_whitespace();
        let Some(address) = words.next().filter(|word| word.len() == 16) else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else {
            continue;
        };
        if !(start..start + 64 * PAGE).contains(&address) {
            continue;
        }
        let bytes: Vec<u8> = words
            .take(16)
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        let offset = (address % PAGE) as usize;
        assert_eq!(bytes, pages[&(address / PAGE * PAGE)][offset..offset + 16], "{line}");
        lines += 1;
    }
    assert_eq!(lines, 32 * PAGE / 16, "every second page is held, in lines of 16 bytes");
}
