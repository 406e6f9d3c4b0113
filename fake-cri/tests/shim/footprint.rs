//! A shim is small, so that a thousand shims fit on a machine.

use crate::harness::ShimHarness;

/// The memory cost of one more shim: private memory without a file, or changed since it was read from the file. Pages
/// of the executable are shared by all shims and can be read again. (Not `Private_Dirty`: it counts the pages of a
/// newly linked executable until they are written to disk.)
pub(crate) fn private_memory_bytes(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process is alive");
    let field = |name: &str| {
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a field of the kernel");
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .expect("a number")
    };
    (field("Anonymous:") + field("Swap:")) * 1024
}

#[tokio::test]
async fn a_shim_uses_less_than_3_mib_of_private_memory() {
    let harness = ShimHarness::new();
    let (shim, _) = harness
        .run(&harness.shell_spec("seq 1 200000; echo ready; sleep 1000"))
        .await;
    harness.wait_line("ready").await;
    // After some of all operations.
    for _ in 0..10 {
        shim.stats().await.expect("the shim responds");
        shim.exec(vec!["seq".into(), "1".into(), "100000".into()], Vec::new(), None)
            .await
            .expect("the shim responds");
    }
    let bytes = private_memory_bytes(shim.process().pid.as_raw());
    println!("a shim's own memory: {} KiB", bytes >> 10);
    assert!(bytes < 3 << 20, "{bytes}");
}

#[tokio::test]
async fn a_shim_has_one_thread_and_no_extra_fd() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("sleep 1000")).await;
    let process = format!("/proc/{}", shim.process().pid);
    assert_eq!(
        std::fs::read_dir(format!("{process}/task"))
            .expect("the process is alive")
            .count(),
        1
    );
    let names: Vec<String> = std::fs::read_dir(format!("{process}/fd"))
        .expect("the process is alive")
        .map(|entry| {
            std::fs::read_link(entry.expect("the path exists").path())
                .expect("the file is open")
                .display()
                .to_string()
        })
        .collect();
    let log = harness.log_path().display().to_string();
    let allowed = |name: &String| {
        ["/dev/null", "anon_inode:[signalfd]"].contains(&name.as_str())
            || name.starts_with("pipe:")
            || name.starts_with("socket:")
            || *name == log
            || name.ends_with("/shim.log")
    };
    assert!(names.iter().all(allowed), "{names:?}");
    // Two pipes of the wake-up, two of the container; only one socket, since no client is connected.
    assert_eq!(
        names.iter().filter(|name| name.starts_with("pipe:")).count(),
        4,
        "{names:?}"
    );
    let environment = std::fs::read(format!("{process}/environ")).expect("the process is alive");
    assert_eq!(environment, b"FAKE_CRI_ROLE=shim\0");
}
