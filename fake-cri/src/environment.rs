//! The environment variables by which processes of fake-cri are recognized, and their values.

/// The role of the executable, see [`crate::entry`]. No child inherits the variable: shims and containers start with an
/// environment of their own.
pub const ROLE_ENV: &str = "FAKE_CRI_ROLE";

/// The role of a shim process.
pub(crate) const SHIM_ROLE: &str = "shim";

/// The role in which another program's executable runs the `fake-cri` command.
pub(crate) const SERVE_ROLE: &str = "serve";

/// The container's id, in each of its processes. [`crate::shim::kill_orphans`] finds the processes of a dead shim by it,
/// and a restore replaces the id of the checkpointed container by that of the new one.
pub const CONTAINER_ID_ENV: &str = "FAKE_CRI_CONTAINER_ID";
