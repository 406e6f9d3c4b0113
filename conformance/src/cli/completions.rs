//! `checkpoint-conformance completions SHELL` and `checkpoint-conformance man DIR`: what packages ship beside a program.
//!
//! Both come from the definition of the command lines, so that they cannot say anything else than `--help` does. fake-cri's come
//! from here too: it stays a program without them.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{Cli, Failure, print};
use crate::engine::exit;

/// One of the programs of this project.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ProjectProgram {
    /// The harness
    #[default]
    CheckpointConformance,
    /// The runtime
    FakeCri,
}

impl ProjectProgram {
    fn command(self) -> clap::Command {
        match self {
            ProjectProgram::CheckpointConformance => Cli::command(),
            ProjectProgram::FakeCri => fake_cri::cli::command(),
        }
    }
}

/// Which shell, which program.
#[derive(Clone, Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
    /// The program
    #[arg(long, value_enum, default_value_t)]
    program: ProjectProgram,
}

impl CompletionsArgs {
    /// Prints the script.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut command = self.program.command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(exit::PASS)
    }
}

/// Where to.
#[derive(Clone, Debug, Args)]
pub(super) struct ManArgs {
    /// The folder, such as /usr/local/share/man/man1; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    /// Writes a page for each program and each of their subcommands.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let failed = || format!("failed to write manual pages into {}", self.folder.display());
        fs::create_dir_all(&self.folder).with_context(failed)?;
        for program in ProjectProgram::value_variants() {
            clap_mangen::generate_to(program.command(), &self.folder).with_context(failed)?;
        }
        Ok(exit::PASS)
    }
}
