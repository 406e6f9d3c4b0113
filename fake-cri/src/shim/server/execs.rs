//! Starts and ends execs, and sends their results.

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::message::{Refusal, ShimReply},
    KILL_TIMEOUT, ShimServer,
    container::{build_env, to_c_string},
    exec::RunningExec,
    members::{EXEC_ID_ENV, ExecKey},
    streams,
};
use crate::process::{
    pidfd,
    spawn::{self, SpawnCommand},
};

impl ShimServer {
    /// Starts a command whose output and exit are sent on a connection.
    pub(super) fn start_exec(
        &mut self,
        connection: u64,
        argv: &[String],
        mut env: Vec<(String, String)>,
        timeout: Option<Duration>,
    ) -> Result<(), Refusal> {
        if self.init().is_none() {
            return Err(self.not_running_refusal("entered"));
        }
        let failed = |error: io::Error| Refusal::Other(format!("start a command: {error}"));
        let cwd = self
            .spec
            .cwd
            .clone()
            .filter(|cwd| cwd.is_dir())
            .unwrap_or_else(|| Path::new("/").to_owned());
        let name = argv
            .first()
            .ok_or_else(|| Refusal::Exec("no command specified".into()))?;
        let id = format!("{}.{connection}", self.spec.container_id);
        env.push((EXEC_ID_ENV.to_owned(), id.clone()));
        let lookup_env: Vec<_> = self.spec.env.iter().chain(&env).cloned().collect();
        let file = super::command::find_executable(name, &lookup_env, &cwd).map_err(Refusal::Exec)?;
        let dev_null = spawn::dev_null().map_err(failed)?;
        let (stdout_read, stdout_write) = streams::pipe().map_err(failed)?;
        let (stderr_read, stderr_write) = streams::pipe().map_err(failed)?;
        let identity = self.identity()?;
        let program = SpawnCommand {
            file: to_c_string(file.as_os_str().as_encoded_bytes())?,
            argv: argv
                .iter()
                .map(|argument| to_c_string(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: build_env(&self.spec, &env)?,
            cwd: Some(to_c_string(cwd.as_os_str().as_encoded_bytes())?),
            stdio: [dev_null.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()],
            controlling_tty: false,
            identity: identity.as_ref(),
            exec_dir: None,
        };
        // Until the exec is registered, its processes count as members of the container.
        let shared = Arc::clone(&self.shared);
        let _membership_guard = shared.lock_membership();
        let root =
            spawn::spawn(&program).map_err(|error| Refusal::Exec(self.explain_spawn_error(&error, &file, &cwd)))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.execs.push(RunningExec::new(
            ExecKey { root, id },
            connection,
            [stdout_read, stderr_read],
            deadline,
        ));
        self.publish_members();
        Ok(())
    }

    /// Kills execs at their deadline, and sends the results of ended ones.
    pub(super) fn advance_execs(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for exec in &mut self.execs {
            if exec.deadline.is_some_and(|deadline| now >= deadline) && exec.exit_code.is_none() {
                exec.deadline = None;
                exec.timed_out = true;
                exec.kill_since.get_or_insert(now);
            }
        }
        let mut member_counts = vec![0; self.execs.len()];
        if self.execs.iter().any(|exec| exec.kill_since.is_some()) {
            for (exec_index, stat) in self.members()?.execs {
                if self.execs[exec_index].kill_since.is_some() && !stat.is_dead() {
                    member_counts[exec_index] += 1;
                    pidfd::signal(stat.id, libc::SIGKILL)?;
                }
            }
        }
        let mut unfinished = Vec::new();
        for (exec_index, mut exec) in std::mem::take(&mut self.execs).into_iter().enumerate() {
            let is_killed = exec
                .kill_since
                .is_none_or(|since| member_counts[exec_index] == 0 || since.elapsed() > KILL_TIMEOUT);
            let Some(code) = exec.exit_code.filter(|_| is_killed) else {
                unfinished.push(exec);
                continue;
            };
            let mut connection = self.connections.get_mut(&exec.connection);
            // A process that the command left running may keep the streams open forever, so only the data that is
            // available now is sent.
            exec.pump(0, connection.as_deref_mut())?;
            exec.pump(1, connection.as_deref_mut())?;
            if let Some(connection) = connection {
                connection.send(&ShimReply::ExecExited {
                    code,
                    timed_out: exec.timed_out,
                    truncated: exec.truncated,
                });
            }
        }
        if unfinished.len() != member_counts.len() {
            self.execs = unfinished;
            self.publish_members();
        } else {
            self.execs = unfinished;
        }
        Ok(())
    }
}
