//! The workload that plays a container: a well-behaved program of a chosen size, thread count and behaviour.
//!
//! ```text
//!  test-workload ready pid=812 start=90210 memory=268435456 threads=4 children=1
//!  canary 5f0c...e1                      32 random bytes, made after the start, told here and nowhere else
//!  heartbeat 1 pid=812 start=90210            ten a second unless told otherwise
//!  child heartbeat 1 pid=813 start=90214      the same from each child
//! ```
//!
//! With `--canaries yes` it also holds bytes that only one place of its memory has, see [`CanaryLocation`].
//!
//! It is told what to be by its command line (`test-workload --memory 256Mi --threads 4`), as in an image, where nothing of
//! fake-cri is around; or by annotations on the Pod or the container. Annotations win, one by one. See [`option_table()`] for all of
//! them.
//!
//! Its processes hold nothing that is not asked for: no descriptor beside their streams and the files, no hidden thread,
//! almost no CPU time. A value that it cannot use ends it with code 2 and a sentence on standard error.

mod canary;
mod memory;
mod options;
mod run;
mod table;

pub use canary::CanaryLocation;
pub use options::{MemoryPattern, OnSigterm, WorkloadOptions, WorkloadOptionsError};
pub(crate) use run::is_invoked_as_workload;
pub use run::run;
pub use table::{OptionRow, option_table, option_table_markdown};

/// The name of the program: whoever runs it under this name gets the test workload.
pub const WORKLOAD_NAME: &str = "test-workload";

/// The environment variable that may hold [`WorkloadOptions`] as JSON; they win over the command line's.
pub const OPTIONS_ENV: &str = "FAKE_CRI_TEST_WORKLOAD";

/// The file with [`WorkloadOptions`] as JSON that is read when it stands beside the path the program was started by. Shims use it
/// rather than the environment, which then is the container's own, whole.
pub const OPTIONS_FILE: &str = "test-workload.json";

/// What annotations that fake-cri reads begin with.
pub const ANNOTATION_PREFIX: &str = "fake-cri.dev/";
