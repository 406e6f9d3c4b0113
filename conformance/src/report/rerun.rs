//! The command that runs one case again.

/// The command line of the run, without the options that select cases and name output files.
#[derive(Clone, Debug, Default)]
pub struct RerunCommand(Vec<String>);

impl RerunCommand {
    /// Creates the command from the command line of the run, with the program as first argument.
    pub fn from_args(args: impl IntoIterator<Item = String>) -> RerunCommand {
        let mut args_kept = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let options_dropped = [
                "--filter",
                "--level",
                "--report-dir",
                "--report",
                "--sonobuoy-done-file",
            ];
            if options_dropped.contains(&arg.as_str()) {
                args.next();
            } else if !options_dropped.iter().any(|flag| arg.starts_with(&format!("{flag}="))) {
                args_kept.push(arg);
            }
        }
        RerunCommand(args_kept)
    }

    /// Returns the command line for this case, quoted for a shell.
    pub fn command(&self, id: &str) -> String {
        let words = self.0.iter().map(String::as_str).chain(["--filter", id]);
        words.map(shell_quote).collect::<Vec<_>>().join(" ")
    }
}

fn shell_quote(arg: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !arg.is_empty() && arg.chars().all(is_plain) {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["c", "--filter=a*", "--strict"], "c --strict --filter kubelet/x")]
    #[case(&["c", "kubelet", "--report-dir", "out", "--level", "robust"], "c kubelet --filter kubelet/x")]
    #[case(&["my dir/c", "--ca", "it's"], r"'my dir/c' --ca 'it'\''s' --filter kubelet/x")]
    fn builds_the_rerun_command(#[case] args: &[&str], #[case] command: &str) {
        let repeat = RerunCommand::from_args(args.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(repeat.command("kubelet/x"), command);
    }
}
