//! The subcommands `completions SHELL` and `man DIR`, whose output packages ship with the programs.
//!
//! Both are generated from the clap definitions and therefore agree with `--help`. The output for fake-cri is generated
//! here too, so that fake-cri needs no such subcommands.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{Cli, Failure, print};
use crate::engine::exit;

/// A program of this project.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ProjectProgram {
    /// The conformance tests
    #[default]
    CheckpointConformance,
    /// The CRI runtime for tests
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

#[derive(Clone, Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
    /// The program
    #[arg(long, value_enum, default_value_t)]
    program: ProjectProgram,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut command = self.program.command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(exit::PASS)
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct ManArgs {
    /// The directory, such as /usr/local/share/man/man1; created if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl ManArgs {
    /// Writes one page per program and subcommand.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let failed = || format!("failed to write manual pages into {}", self.directory.display());
        fs::create_dir_all(&self.directory).with_context(failed)?;
        for program in ProjectProgram::value_variants() {
            clap_mangen::generate_to(program.command(), &self.directory).with_context(failed)?;
        }
        Ok(exit::PASS)
    }
}
