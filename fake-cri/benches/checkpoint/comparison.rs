//! Runs the measurements.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytesize::ByteSize;
use cri_proto::{
    criu::{Kind, decode_single, message::StatsEntry},
    runtime::v1,
};
use fake_cri::FakeCri;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::RngExt as _;

use super::{
    Options,
    measurement::{Measurement, median},
    plot, report,
};

/// The maximum wait for a log line of the workload or a response.
const LOG_TIMEOUT: Duration = Duration::from_secs(120);

/// Measures all sizes, prints the table and writes the plot.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let with_criu = can_dump(&options.criu);
    if !with_criu {
        eprintln!("skipped: {} cannot dump a process on this host", options.criu.display());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut rows = Vec::new();
    for size in &options.sizes {
        let required_bytes = size.as_u64() * 3;
        if mem_available()? < required_bytes {
            eprintln!(
                "skipped: {size} requires {} of memory and page cache",
                ByteSize(required_bytes)
            );
            continue;
        }
        rows.push(runtime.block_on(measure(options, size.as_u64(), with_criu))?);
        print_row(rows.last().expect("just pushed"), rows.len() == 1);
    }
    fs::write(&options.plot, plot::draw(&rows)).with_context(|| format!("write {}", options.plot.display()))?;
    println!("\nplot: {}", options.plot.display());
    if let Some(page) = &options.report {
        report::write(page, &options.plot, options.rounds, &rows)?;
        println!("report: {}", page.display());
    }
    Ok(())
}

async fn measure(options: &Options, bytes: u64, with_criu: bool) -> anyhow::Result<Measurement> {
    let directory = tempfile::tempdir_in(&options.dir)?;
    let cri = FakeCri::builder()
        .executable(env!("CARGO_BIN_EXE_fake-cri"))
        .exec_host()
        .args(&options.serve)
        .start()
        .await?;
    let container = Container::start(&cri, directory.path(), bytes).await?;
    let source = directory.path().join("source");
    write_random(&source, bytes)?;
    let mut row = Measurement {
        bytes,
        ..Measurement::default()
    };
    // The first round warms the caches and is discarded.
    for round in 0..=options.rounds {
        let fork = container.fork()?;
        let archive = directory.path().join("archive.tar");
        let began = Instant::now();
        let request = v1::CheckpointContainerRequest {
            container_id: container.id.clone(),
            location: archive.to_string_lossy().into_owned(),
            timeout: 0,
        };
        cri.runtime_client().checkpoint_container(request).await?;
        let checkpoint = began.elapsed();
        let frozen = frozen(&member(&archive, "stats-dump")?)?;
        ensure!(
            fs::metadata(&archive)?.len() > bytes,
            "the archive is smaller than the memory"
        );
        if options.logs {
            println!("{}", String::from_utf8_lossy(&member(&archive, "dump.log")?));
        }
        fs::remove_file(&archive)?;

        let copy = directory.path().join("copy");
        let began = Instant::now();
        let status = Command::new("cp").arg(&source).arg(&copy).status()?;
        let copied = began.elapsed();
        ensure!(status.success(), "cp: {status}");
        fs::remove_file(&copy)?;

        let dumped = match with_criu {
            true => Some(dump(&options.criu, container.pid, &directory.path().join("images"))?),
            false => None,
        };
        if round == 0 {
            continue;
        }
        row.fork.push(fork);
        row.checkpoint.push(checkpoint);
        row.frozen.push(frozen);
        row.copy.push(copied);
        if let Some((took, frozen)) = dumped {
            row.criu.push(took);
            row.criu_frozen.push(frozen);
        }
    }
    let server = cri.pid().context("fake-cri is not running")?.cast_signed();
    row.resident = [peak_rss(server)?, peak_rss(parent(container.pid)?)?];
    cri.shutdown().await;
    Ok(row)
}

/// A container with one process.
struct Container {
    id: String,
    pid: i32,
    log: PathBuf,
}

impl Container {
    async fn start(cri: &FakeCri, directory: &Path, bytes: u64) -> anyhow::Result<Self> {
        let mut runtime = cri.runtime_client();
        let image = v1::ImageSpec {
            image: "localhost/test-workload:1".to_owned(),
            ..Default::default()
        };
        let request = v1::PullImageRequest {
            image: Some(image.clone()),
            ..Default::default()
        };
        cri.image_client().pull_image(request).await?;
        let pod = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "bench".to_owned(),
                uid: "bench".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            log_directory: directory.to_string_lossy().into_owned(),
            ..Default::default()
        };
        let request = v1::RunPodSandboxRequest {
            config: Some(pod),
            runtime_handler: String::new(),
        };
        let pod = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "app".to_owned(),
                attempt: 0,
            }),
            image: Some(image),
            command: vec![std::env::current_exe()?.to_string_lossy().into_owned()],
            args: vec!["--workload".to_owned(), bytes.to_string()],
            log_path: "app.log".to_owned(),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod,
            config: Some(config),
            sandbox_config: None,
        };
        let id = runtime.create_container(request).await?.into_inner().container_id;
        let request = v1::StartContainerRequest {
            container_id: id.clone(),
        };
        runtime.start_container(request).await?;
        let request = v1::ContainerStatusRequest {
            container_id: id.clone(),
            verbose: true,
        };
        let info: HashMap<String, String> = runtime.container_status(request).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose information")?)?;
        let pid = info["pid"]
            .as_i64()
            .context("no pid in the verbose information")?
            .try_into()?;
        let container = Self {
            id,
            pid,
            log: directory.join("app.log"),
        };
        container.wait_for_lines("ready", 1)?;
        Ok(container)
    }

    /// Waits until the log has this many lines with this word, and returns the rest of the last of them.
    fn wait_for_lines(&self, word: &str, min_count: usize) -> anyhow::Result<String> {
        let until = Instant::now() + LOG_TIMEOUT;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log
                .lines()
                .filter_map(|line| line.split_once(word).map(|(_, rest)| rest.trim()))
                .collect();
            if lines.len() >= min_count {
                return Ok(lines[lines.len() - 1].to_owned());
            }
            if Instant::now() > until {
                bail!("the workload did not log {word:?}: {log}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns the duration of a fork of the workload.
    fn fork(&self) -> anyhow::Result<Duration> {
        let log = fs::read_to_string(&self.log)?;
        let before = log.lines().filter(|line| line.contains(" fork ")).count();
        kill(Pid::from_raw(self.pid), Signal::SIGUSR1)?;
        Ok(Duration::from_micros(
            self.wait_for_lines(" fork ", before + 1)?.parse()?,
        ))
    }
}

/// Runs `criu dump --leave-running` and returns its duration and the time for which the process was frozen.
fn dump(criu: &Path, pid: i32, directory: &Path) -> anyhow::Result<(Duration, Duration)> {
    fs::create_dir(directory)?;
    let began = Instant::now();
    let status = Command::new(criu)
        .args(["dump", "--leave-running", "--log-file", "dump.log", "--tree"])
        .arg(pid.to_string())
        .arg("--images-dir")
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let took = began.elapsed();
    if !status.success() {
        bail!(
            "criu: {status}: {}",
            fs::read_to_string(directory.join("dump.log")).unwrap_or_default()
        );
    }
    let frozen = frozen(&fs::read(directory.join("stats-dump"))?)?;
    fs::remove_dir_all(directory)?;
    Ok((took, frozen))
}

/// The frozen time in a `stats-dump`: from the first interrupted thread to the last resumed thread.
fn frozen(stats: &[u8]) -> anyhow::Result<Duration> {
    let stats: StatsEntry = decode_single("stats-dump", Kind::Stats, stats)?;
    let dump = stats.dump.context("no dump statistics")?;
    Ok(Duration::from_micros(
        u64::from(dump.freezing_time) + u64::from(dump.frozen_time),
    ))
}

fn member(archive: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    for member in tar::Archive::new(fs::File::open(archive)?).entries_with_seek()? {
        let mut member = member?;
        if member.path()?.as_os_str() == name {
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("no {name} in the archive")
}

/// Whether this CRIU exists and can dump a process on this host.
fn can_dump(criu: &Path) -> bool {
    let Ok(directory) = tempfile::tempdir() else {
        return false;
    };
    let sleep = Command::new("setsid")
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut sleep) = sleep else { return false };
    std::thread::sleep(Duration::from_millis(100));
    let dumped = dump(criu, sleep.id().cast_signed(), &directory.path().join("images")).is_ok();
    // An error does not matter: the child may have exited.
    let _ = sleep.kill();
    let _ = sleep.wait();
    dumped
}

fn write_random(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut buffer = vec![0_u8; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        rand::rng().fill(&mut buffer[..]);
        let now = left.min(buffer.len() as u64) as usize;
        std::io::Write::write_all(&mut file, &buffer[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Returns a field in KiB of a `/proc` file in bytes.
fn proc_field_bytes(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context(name.to_owned())?;
    Ok(line
        .split_whitespace()
        .next()
        .context(name.to_owned())?
        .parse::<u64>()?
        * 1024)
}

fn mem_available() -> anyhow::Result<u64> {
    proc_field_bytes("/proc/meminfo", "MemAvailable:")
}

fn peak_rss(pid: i32) -> anyhow::Result<u64> {
    proc_field_bytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn parent(pid: i32) -> anyhow::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .context("PPid")?;
    Ok(line.trim().parse()?)
}

fn print_row(row: &Measurement, first: bool) {
    if first {
        println!(
            "medians (ratio to the checkpoint, or of frozen to fork)\n{:>10} {:>12} {:>20} {:>20} {:>12} {:>20} {:>20} {:>10} {:>10}",
            "memory", "checkpoint", "cp", "criu dump", "fork", "frozen", "criu frozen", "RSS", "RSS shim"
        );
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let plain = |times: &[Duration]| median(times).map_or("-".to_owned(), |time| format!("{:.1} ms", ms(time)));
    let with_ratio = |times: &[Duration], to: &[Duration]| match (median(times), median(to)) {
        (Some(time), Some(to)) => format!("{:.1} ms ({:.2})", ms(time), ms(time) / ms(to)),
        _ => "-".to_owned(),
    };
    println!(
        "{:>10} {:>12} {:>20} {:>20} {:>12} {:>20} {:>20} {:>10} {:>10}",
        ByteSize(row.bytes).to_string(),
        plain(&row.checkpoint),
        with_ratio(&row.copy, &row.checkpoint),
        with_ratio(&row.criu, &row.checkpoint),
        plain(&row.fork),
        with_ratio(&row.frozen, &row.fork),
        with_ratio(&row.criu_frozen, &row.fork),
        ByteSize(row.resident[0]).to_string(),
        ByteSize(row.resident[1]).to_string(),
    );
}
