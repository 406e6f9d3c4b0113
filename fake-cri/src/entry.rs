//! The roles one executable plays.
//!
//! fake-cri starts its shims and its test workloads from its own executable, so that a test needs one file. The role
//! stands in the environment; a program called `test-workload` plays the workload without it, as it does in an image.
//!
//! | role | who starts it | what it becomes |
//! |---|---|---|
//! | `shim` | fake-cri | [`crate::shim`]: the parent of one container |
//! | `test-workload` | a shim, an image, a person | [`crate::workload`]: the workload |
//! | `serve` | [`crate::FakeCri`] | the `fake-cri` command |
//! | none | anybody | whatever the program's own `main` does |

use std::{
    env,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{cli, shim, workload};

/// The environment variable that holds the role. No child inherits it: shims and containers get an environment of their
/// own.
pub const ROLE_ENV: &str = "FAKE_CRI_ROLE";

/// The role of the `fake-cri` command in another program's executable.
pub(crate) const SERVE_ROLE: &str = "serve";

/// Runs the role this process was started for and exits, or returns when it was started for none.
///
/// Must be the first call of `main`: no thread may run yet, and nothing may have been printed.
pub fn entry_point() {
    ENTRY_POINT_CALLED.store(true, Ordering::SeqCst);
    let role = env::var_os(ROLE_ENV);
    match role.as_ref().and_then(|role| role.to_str()) {
        Some(shim::SHIM_ROLE) => shim::run(),
        Some(workload::WORKLOAD_NAME) => workload::run(),
        Some(SERVE_ROLE) => {
            let succeeded = cli::main(executable()) == ExitCode::SUCCESS;
            std::process::exit(if succeeded { 0 } else { 1 })
        }
        _ if workload::is_invoked_as_workload(env::args_os().next()) => workload::run(),
        _ => {}
    }
}

/// A path from which this process can start itself in another role, or `None` when its `main` did not call
/// [`entry_point`] (it would then run its own `main` again, and again).
///
/// The path stays good when the file is replaced or deleted meanwhile, as a rebuild does: the kernel resolves it to what
/// this process runs. So it means something else in every process, and must not be handed to another one.
pub fn executable() -> Option<&'static Path> {
    ENTRY_POINT_CALLED
        .load(Ordering::SeqCst)
        .then(|| Path::new("/proc/self/exe"))
}

/// Whether [`entry_point`] was called.
static ENTRY_POINT_CALLED: AtomicBool = AtomicBool::new(false);
