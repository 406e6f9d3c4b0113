//! The test workload: a program with a chosen amount of memory, number of threads and behaviour.
//!
//! ```text
//!  test-workload ready pid=812 start=90210 memory=268435456 threads=4 children=1
//!  canary 5f0c...e1                      32 random bytes, generated after the start, only in memory and in this line
//!  heartbeat 1 pid=812 start=90210       every 100 ms by default
//!  child heartbeat 1 pid=813 start=90214     the same from each child
//! ```
//!
//! With `--canaries yes` the process also holds bytes that occur at one place of its memory only, see
//! [`CanaryLocation`].
//!
//! In an image, without fake-cri, the options come from the command line (`test-workload --memory 256Mi --threads 4`).
//! In a container of fake-cri they also come from annotations on the Pod or the container; each annotation overrides
//! its command line option. [`option_table()`] lists all options.
//!
//! The processes have no state beyond the options: no descriptor except their streams and files, no hidden thread,
//! almost no CPU time. An invalid value ends the program with code 2 and a message on stderr.

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

/// The program name that starts the test workload.
pub const WORKLOAD_NAME: &str = "test-workload";

/// The environment variable with [`WorkloadOptions`] as JSON, which override the command line.
pub const OPTIONS_ENV: &str = "FAKE_CRI_TEST_WORKLOAD";

/// The file with [`WorkloadOptions`] as JSON, in the directory of the path that started the program. Shims use the
/// file, not [`OPTIONS_ENV`], so that the environment is exactly the container's.
pub const OPTIONS_FILE: &str = "test-workload.json";

/// The prefix of fake-cri's annotations.
pub const ANNOTATION_PREFIX: &str = "fake-cri.dev/";
