//! ExecSync.
//!
//! With `--exec host` the command is executed. With the test workload there is no command to execute: the annotations
//! `fake-cri.dev/exec-stdout`, `exec-stderr`, `exec-code` and `exec-delay` define the result, by default code 0 and no
//! output.

use std::time::Duration;

use super::{ExecMode, Runtime, RuntimeError, command, start::shim_error};
use crate::shim::ExecOutput;

impl Runtime {
    /// Executes a command in a running container and waits for its exit. A timeout of zero means no timeout.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::container`]; `FailedPrecondition` if the container does not run; `InvalidArgument`
    /// without a command; `Start` if the command cannot be executed; `DeadlineExceeded` after the timeout;
    /// `ResourceExhausted` if the output exceeds [`EXEC_OUTPUT_MAX_BYTES`](crate::shim::EXEC_OUTPUT_MAX_BYTES), after
    /// which the command is killed.
    pub async fn exec(&self, id: &str, argv: Vec<String>, timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let container = self.container(id)?;
        if argv.is_empty() {
            return Err(RuntimeError::InvalidArgument("the request has no command".to_owned()));
        }
        let shim = self.running_shim(&container)?;
        let timeout = (!timeout.is_zero()).then_some(timeout);
        match self.config.exec {
            ExecMode::Host => shim
                .exec(argv, Vec::new(), timeout)
                .await
                .map_err(|error| shim_error(&container.id, error)),
            ExecMode::TestWorkload => {
                let record = container.record();
                let options = command::workload_options(&record, &self.pod(&record.pod_id)?)?;
                let delay = options.exec_delay.unwrap_or_default();
                if let Some(timeout) = timeout.filter(|timeout| *timeout < delay) {
                    tokio::time::sleep(timeout).await;
                    return Err(RuntimeError::DeadlineExceeded(format!("timeout {timeout:?} exceeded")));
                }
                tokio::time::sleep(delay).await;
                Ok(ExecOutput {
                    stdout: options.exec_stdout.unwrap_or_default().into_bytes(),
                    stderr: options.exec_stderr.unwrap_or_default().into_bytes(),
                    exit_code: options.exec_exit_code.unwrap_or_default(),
                })
            }
        }
    }
}
