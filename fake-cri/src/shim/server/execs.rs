//! Starting, ending and answering the commands beside the container.

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::message::{Refusal, Reply},
    ENDING, Server,
    container::{environment, text},
    exec::Exec,
    members::{EXEC_MARKER, ExecMark},
    streams,
};
use crate::process::{
    pidfd,
    spawn::{self, Program},
};

impl Server {
    /// Starts a command whose output and end go to a connection.
    pub(super) fn exec(
        &mut self,
        connection: u64,
        argv: &[String],
        mut env: Vec<(String, String)>,
        timeout: Option<Duration>,
    ) -> Result<(), Refusal> {
        if self.init().is_none() {
            return Err(self.refuse("entered"));
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
        env.push((EXEC_MARKER.to_owned(), id.clone()));
        let lookup: Vec<_> = self.spec.env.iter().chain(&env).cloned().collect();
        let file = super::command::find(name, &lookup, &cwd).map_err(Refusal::Exec)?;
        let null = spawn::null().map_err(failed)?;
        let (out, given_out) = streams::pipe().map_err(failed)?;
        let (error, given_error) = streams::pipe().map_err(failed)?;
        let identity = self.identity()?;
        let program = Program {
            file: text(file.as_os_str().as_encoded_bytes())?,
            argv: argv
                .iter()
                .map(|argument| text(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            env: environment(&self.spec, &env)?,
            cwd: Some(text(cwd.as_os_str().as_encoded_bytes())?),
            streams: [null.as_fd(), given_out.as_fd(), given_error.as_fd()],
            terminal: false,
            identity: identity.as_ref(),
            directory: None,
        };
        // Until it is told whose the command is, it counts as the container's.
        let shared = Arc::clone(&self.shared);
        let _nobody_looks = shared.hold_members();
        let root = spawn::spawn(&program).map_err(|error| Refusal::Exec(self.explain(&error, &file, &cwd)))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.execs
            .push(Exec::new(ExecMark { root, id }, connection, [out, error], deadline));
        self.tell_members();
        Ok(())
    }

    /// Ends commands that ran too long, and answers those that have ended.
    pub(super) fn advance_execs(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for exec in &mut self.execs {
            if exec.deadline.is_some_and(|deadline| now >= deadline) && exec.code.is_none() {
                exec.deadline = None;
                exec.timed_out = true;
                exec.killing.get_or_insert(now);
            }
        }
        let mut left = vec![0; self.execs.len()];
        if self.execs.iter().any(|exec| exec.killing.is_some()) {
            for (place, kin) in self.members()?.execs {
                if self.execs[place].killing.is_some() && !kin.ended() {
                    left[place] += 1;
                    pidfd::signal(kin.id, libc::SIGKILL)?;
                }
            }
        }
        let mut kept = Vec::new();
        for (place, mut exec) in std::mem::take(&mut self.execs).into_iter().enumerate() {
            let killed = exec
                .killing
                .is_none_or(|since| left[place] == 0 || since.elapsed() > ENDING);
            let Some(code) = exec.code.filter(|_| killed) else {
                kept.push(exec);
                continue;
            };
            let mut connection = self.connections.get_mut(&exec.connection);
            // Something it left running may hold its streams for ever; what is in them now is all that is waited for.
            exec.pump(0, connection.as_deref_mut())?;
            exec.pump(1, connection.as_deref_mut())?;
            if let Some(connection) = connection {
                connection.send(&Reply::ExecEnded {
                    code,
                    timed_out: exec.timed_out,
                    cut: exec.cut,
                });
            }
        }
        if kept.len() != left.len() {
            self.execs = kept;
            self.tell_members();
        } else {
            self.execs = kept;
        }
        Ok(())
    }
}
