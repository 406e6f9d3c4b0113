//! The subcommand `image OUT.tar`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::{
    engine::exit,
    image::{Executable, ImageContent, OciImageError, find_workload, write},
    targets::runtime::WORKLOAD_IMAGE,
};

#[derive(Clone, Debug, Args)]
pub(super) struct ImageArgs {
    /// The archive to write; import it with `ctr -n k8s.io images import OUT.tar`
    #[arg(value_name = "OUT.tar")]
    out: PathBuf,
    /// The name of the image
    #[arg(long, value_name = "REF", default_value = WORKLOAD_IMAGE)]
    name: String,
    /// Add this program as /checkpoint-conformance, for Jobs; it must be a static executable
    #[arg(long)]
    include_harness: bool,
    /// The static test workload [default: this program if it is static, else the one that cargo built beside it]
    #[arg(long, value_name = "FILE")]
    test_workload: Option<PathBuf>,
}

impl ImageArgs {
    /// Writes the image and prints the command that imports it.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let content = self.content().map_err(anyhow::Error::from)?;
        write(&self.out, &content).map_err(anyhow::Error::from)?;
        print(&format!(
            "wrote {} to {}\nimport it: ctr -n k8s.io images import {1}\n",
            self.name,
            self.out.display()
        ))?;
        Ok(exit::PASS)
    }

    fn content(&self) -> Result<ImageContent, OciImageError> {
        let harness = if self.include_harness {
            let executable = std::env::current_exe().map_err(|source| OciImageError::File {
                path: "/proc/self/exe".into(),
                source,
            })?;
            let harness = Executable::inspect(&executable).map_err(|error| OciImageError::Harness {
                reason: error.to_string(),
            })?;
            Some(harness)
        } else {
            None
        };
        Ok(ImageContent {
            name: self.name.clone(),
            workload: find_workload(self.test_workload.as_deref())?,
            harness,
        })
    }
}
