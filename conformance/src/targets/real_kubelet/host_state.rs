//! Records and reverts what a kubelet changes outside its directory, whatever its configuration.
//!
//! | change | what the harness does |
//! |---|---|
//! | kernel parameters: overcommit, panic, root's keys | saves the values before, writes them back after |
//! | `/var/lib/kubelet/device-plugins/kubelet.sock` | refuses to start if it accepts connections; removes it after |
//! | symlinks in `/var/log/containers` | removes those that point into the run directory |
//! | these directories themselves | removes them if they did not exist before |
//! | the root directory, bind-mounted onto itself as shared; volumes of Pods | unmounts them |
//!
//! Configured to stay in the run directory: Pod logs (`podLogsDir`), volume plugins (`volumePluginDir`), certificates
//! (`--cert-dir`), everything below the root directory, temporary files (`TMPDIR`). Disabled: iptables chains
//! (`makeIPTablesUtilChains`), cgroups (`cgroupsPerQOS`, `enforceNodeAllocatable`), the kubelet's own `oom_score_adj`.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::TargetError;

/// The parameters that `setupKernelTunables` of the kubelet writes.
const KERNEL_PARAMETERS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Fixed path: part of the device plugin API.
const DEVICE_PLUGINS: &str = "var/lib/kubelet/device-plugins";
/// The kubelet's files there.
const DEVICE_PLUGIN_FILES: [&str; 2] = ["kubelet.sock", "kubelet_internal_checkpoint"];
/// Fixed path: the legacy log directory for log collectors.
const CONTAINER_LOGS: &str = "var/log/containers";
/// The directories that the kubelet creates for the above, deepest first.
const CREATED_DIRS: [&str; 3] = [DEVICE_PLUGINS, "var/lib/kubelet", CONTAINER_LOGS];

/// The file in the run directory with the saved state, for a cleanup after the harness was killed.
const STATE_FILE: &str = "host-state.json";

/// The state of the machine before the kubelet started. The drop reverts the changes and logs failures.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostState {
    /// `/`, except in tests.
    root: PathBuf,
    run_dir: PathBuf,
    parameters: Vec<(PathBuf, String)>,
    missing_files: Vec<PathBuf>,
    missing_dirs: Vec<PathBuf>,
    #[serde(skip)]
    reverted: bool,
}

impl HostState {
    /// Records the state of the machine before a kubelet with this directory starts.
    ///
    /// # Errors
    /// Another kubelet runs on this machine. A second kubelet would remove the sockets of its device plugins.
    pub(super) fn capture(run_dir: &Path) -> Result<HostState, TargetError> {
        HostState::capture_below(Path::new("/"), run_dir)
    }

    fn capture_below(root: &Path, run_dir: &Path) -> Result<HostState, TargetError> {
        let plugins = root.join(DEVICE_PLUGINS);
        for entry in fs::read_dir(&plugins).into_iter().flatten().flatten() {
            if UnixStream::connect(entry.path()).is_ok() {
                let path = entry.path();
                return Err(TargetError::Argument(format!(
                    "another kubelet runs on this machine, or one of its device plugins: {} accepts connections",
                    path.display()
                )));
            }
        }
        let parameter = |name: &&str| {
            let path = root.join("proc/sys").join(name);
            fs::read_to_string(&path).ok().map(|value| (path, value))
        };
        let files = DEVICE_PLUGIN_FILES.iter().map(|name| plugins.join(name));
        // A socket without a listener is left from a killed kubelet. The next kubelet removes it anyway.
        let missing = |path: &PathBuf| !path.exists() || path.extension().is_some_and(|extension| extension == "sock");
        Ok(HostState {
            root: root.to_owned(),
            run_dir: run_dir.to_owned(),
            parameters: KERNEL_PARAMETERS.iter().filter_map(parameter).collect(),
            missing_files: files.filter(missing).collect(),
            missing_dirs: CREATED_DIRS
                .iter()
                .map(|name| root.join(name))
                .filter(|path| !path.exists())
                .collect(),
            reverted: false,
        })
    }

    /// Writes the state to a file in the run directory.
    pub(super) fn save(&self) -> Result<(), TargetError> {
        let path = self.run_dir.join(STATE_FILE);
        let text = serde_json::to_vec(self).map_err(|error| TargetError::file(&path)(error.into()))?;
        fs::write(&path, text).map_err(TargetError::file(path))
    }

    /// Reverts the changes of a kubelet whose harness was killed. Does nothing if there is no saved state.
    pub(super) fn revert_saved(run_dir: &Path) -> Result<(), TargetError> {
        let path = run_dir.join(STATE_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(TargetError::file(path)(error)),
        };
        let saved: HostState = serde_json::from_slice(&text).map_err(|error| TargetError::file(path)(error.into()))?;
        saved.revert()
    }

    /// Reverts all changes.
    pub(super) fn revert(mut self) -> Result<(), TargetError> {
        self.reverted = true;
        let failures = self.revert_all();
        if failures.is_empty() {
            return Ok(());
        }
        Err(TargetError::NotReady(format!(
            "failed to revert the kubelet's changes: {}",
            failures.join("; ")
        )))
    }

    fn revert_all(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut check = |path: &Path, result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("{}: {error}", path.display()))
            }
            _ => {}
        };
        for (path, value) in &self.parameters {
            if fs::read_to_string(path).is_ok_and(|now| now != *value) {
                check(path, fs::write(path, value));
            }
        }
        // Unmounts in reverse order. MNT_DETACH: a mount that is in use disappears when its last user is gone.
        for point in mounts_below(
            &self.run_dir,
            &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        ) {
            check(&point, umount2(&point, MntFlags::MNT_DETACH).map_err(io::Error::from));
        }
        for path in &self.missing_files {
            check(path, fs::remove_file(path));
        }
        for link in fs::read_dir(self.root.join(CONTAINER_LOGS))
            .into_iter()
            .flatten()
            .flatten()
        {
            if fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&self.run_dir)) {
                check(&link.path(), fs::remove_file(link.path()));
            }
        }
        for path in &self.missing_dirs {
            match fs::remove_dir(path) {
                // Another process has created a file in the directory since.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                result => check(path, result),
            }
        }
        failures
    }
}

/// The mount points at and below a directory, last mounted first.
fn mounts_below(run_dir: &Path, mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| Some(PathBuf::from(unescape(line.split(' ').nth(4)?)));
    let mut points: Vec<_> = mountinfo
        .lines()
        .filter_map(point)
        .filter(|point| point.starts_with(run_dir))
        .collect();
    points.reverse();
    points
}

/// mountinfo writes blanks and backslashes as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part
            .split_at_checked(3)
            .and_then(|(code, rest)| Some((u8::from_str_radix(code, 8).ok()?, rest)))
        {
            Some((code, rest)) => plain.extend([char::from(code).to_string().as_str(), rest]),
            None => plain.extend(["\\", part]),
        }
    }
    plain
}

impl Drop for HostState {
    fn drop(&mut self) {
        if !self.reverted {
            for failure in self.revert_all() {
                tracing::warn!(failure, "failed to revert the kubelet's changes");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    /// A root directory with two of the kernel parameters.
    fn fake_host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["proc/sys/vm", "proc/sys/kernel", "var/lib", "var/log"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("proc/sys/vm/overcommit_memory"), "0\n").unwrap();
        fs::write(root.path().join("proc/sys/kernel/panic"), "0\n").unwrap();
        root
    }

    fn simulate_kubelet(root: &Path, run_dir: &Path) -> UnixListener {
        fs::write(root.join("proc/sys/vm/overcommit_memory"), "1\n").unwrap();
        fs::create_dir_all(root.join(DEVICE_PLUGINS)).unwrap();
        fs::create_dir_all(root.join(CONTAINER_LOGS)).unwrap();
        symlink(
            run_dir.join("pod-logs/x/0.log"),
            root.join(CONTAINER_LOGS).join("ours.log"),
        )
        .unwrap();
        fs::write(root.join(DEVICE_PLUGINS).join("kubelet_internal_checkpoint"), "{}").unwrap();
        UnixListener::bind(root.join(DEVICE_PLUGINS).join("kubelet.sock")).unwrap()
    }

    #[test]
    fn reverts_every_change() {
        let root = fake_host();
        let host_state = HostState::capture_below(root.path(), Path::new("/run_dir")).unwrap();
        drop(simulate_kubelet(root.path(), Path::new("/run_dir")));
        host_state.revert().unwrap();
        assert_eq!(
            fs::read_to_string(root.path().join("proc/sys/vm/overcommit_memory")).unwrap(),
            "0\n"
        );
        assert!(!root.path().join("var/lib/kubelet").exists());
        assert!(!root.path().join(CONTAINER_LOGS).exists());
    }

    #[test]
    fn reverts_from_the_saved_file() {
        let (root, run_dir) = (fake_host(), tempfile::tempdir().unwrap());
        let host_state = HostState::capture_below(root.path(), run_dir.path()).unwrap();
        host_state.save().unwrap();
        // A killed harness runs no destructor.
        std::mem::forget(host_state);
        drop(simulate_kubelet(root.path(), run_dir.path()));
        HostState::revert_saved(run_dir.path()).unwrap();
        let overcommit = fs::read_to_string(root.path().join("proc/sys/vm/overcommit_memory")).unwrap();
        assert_eq!(overcommit, "0\n");
        assert!(!root.path().join("var/lib/kubelet").exists());
        HostState::revert_saved(root.path()).unwrap();
    }

    #[test]
    fn keeps_files_that_existed_before() {
        let root = fake_host();
        fs::create_dir_all(root.path().join(CONTAINER_LOGS)).unwrap();
        symlink("/elsewhere/0.log", root.path().join(CONTAINER_LOGS).join("theirs.log")).unwrap();
        let host_state = HostState::capture_below(root.path(), Path::new("/run_dir")).unwrap();
        drop(simulate_kubelet(root.path(), Path::new("/run_dir")));
        fs::write(root.path().join("var/lib/kubelet/theirs"), "").unwrap();
        drop(host_state);
        assert!(root.path().join(CONTAINER_LOGS).join("theirs.log").is_symlink());
        assert!(!root.path().join(CONTAINER_LOGS).join("ours.log").is_symlink());
        assert!(root.path().join("var/lib/kubelet/theirs").exists());
        assert!(!root.path().join(DEVICE_PLUGINS).exists());
    }

    #[test]
    fn mount_points_come_last_first() {
        let mountinfo = "42 27 254:0 /a /f/kubelet rw shared:1 - ext4 /dev/vda rw\n\
            43 27 0:5 / /f/kubelet/pods/a\\040b rw - tmpfs tmpfs rw\n\
            44 27 0:5 / /fother rw - tmpfs tmpfs rw\n";
        let points = mounts_below(Path::new("/f"), mountinfo);
        assert_eq!(points, [Path::new("/f/kubelet/pods/a b"), Path::new("/f/kubelet")]);
    }

    #[test]
    fn refuses_to_start_beside_a_running_kubelet() {
        let root = fake_host();
        let _listener = simulate_kubelet(root.path(), Path::new("/run_dir"));
        let error = HostState::capture_below(root.path(), Path::new("/run_dir")).unwrap_err();
        assert!(
            error.to_string().contains("another kubelet runs on this machine"),
            "{error}"
        );
    }
}
