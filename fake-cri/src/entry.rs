//! The roles of the executable.
//!
//! fake-cri starts its shims and test workloads from its own executable, so that a test needs only one file. An
//! environment variable names the role. A program that is started under the name `test-workload` is the workload even
//! without the variable, for use in container images.
//!
//! | role | started by | runs |
//! |---|---|---|
//! | `shim` | fake-cri | [`crate::shim`]: the parent of one container |
//! | `test-workload` | a shim, an image, a user | [`crate::workload`] |
//! | `serve` | [`crate::FakeCri`] | the `fake-cri` command |
//! | none | a user | the program's own `main` |

use std::{
    env,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    cli,
    environment::{ROLE_ENV, SERVE_ROLE, SHIM_ROLE},
    shim, workload,
};

/// Runs the role of this process and exits. Returns if the process has no role.
///
/// Must be the first call of `main`: no thread may run yet, and nothing may have been printed.
pub fn entry_point() {
    ENTRY_POINT_CALLED.store(true, Ordering::SeqCst);
    let role = env::var_os(ROLE_ENV);
    match role.as_ref().and_then(|role| role.to_str()) {
        Some(SHIM_ROLE) => shim::run(),
        Some(workload::WORKLOAD_NAME) => workload::run(),
        Some(SERVE_ROLE) => {
            let succeeded = cli::main(executable()) == ExitCode::SUCCESS;
            std::process::exit(if succeeded { 0 } else { 1 })
        }
        _ if workload::is_invoked_as_workload(env::args_os().next()) => workload::run(),
        _ => {}
    }
}

/// A path from which this process can start itself in another role. `None` if `main` did not call [`entry_point`]: the
/// child would then run `main` again and start further children.
///
/// The path stays valid if the file is replaced or deleted, as a rebuild does: the kernel resolves `/proc/self/exe` to
/// the running executable. The path names another file in every process, so it must not be passed to another process.
pub fn executable() -> Option<&'static Path> {
    ENTRY_POINT_CALLED
        .load(Ordering::SeqCst)
        .then(|| Path::new("/proc/self/exe"))
}

static ENTRY_POINT_CALLED: AtomicBool = AtomicBool::new(false);
