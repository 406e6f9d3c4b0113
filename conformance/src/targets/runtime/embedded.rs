//! The embedded target: a fake-cri, started from this executable.

use std::{path::PathBuf, sync::Arc};

use fake_cri::LogDestination;

use super::{Runtime, WORKLOAD_IMAGE, WorkloadProgram};
use crate::{
    engine::Suite,
    report,
    targets::{FakeCriControl, TargetError, embedded::start_fake_cri, run_dir::RunDir},
};

/// Starts embedded runtimes.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedRuntime {
    /// The defect: the name that reports show, and the fault rules or presets that are active from the start.
    pub defect: Option<(String, Vec<String>)>,
    /// The executable to start fake-cri from, for programs whose `main` does not call fake-cri's entry point.
    pub executable: Option<PathBuf>,
}

impl EmbeddedRuntime {
    /// Starts a fake-cri in a temporary directory, which is removed with the target.
    ///
    /// # Errors
    /// fake-cri does not start, or does not respond. Everything that was started is stopped.
    pub async fn start(self) -> Result<Runtime, TargetError> {
        let shared_dir = Arc::new(RunDir::create(None)?);
        shared_dir.create_subdir("runtime")?;
        let rules = self.defect.as_ref().map_or(&[][..], |(_, rules)| rules);
        let executable = self.executable.as_deref();
        let cri = start_fake_cri(&shared_dir, LogDestination::Temporary, executable, rules).await?;
        let description = match &self.defect {
            None => "the embedded fake-cri".to_owned(),
            Some((name, _)) => format!("the embedded fake-cri, with the defect {name}"),
        };
        let target_info = report::TargetInfo {
            mutant: self.defect.map(|(name, _)| name),
            ..report::TargetInfo::new(Suite::Runtime, "embedded", description, cri.endpoint())
        };
        let mut runtime = Runtime::connect_to(&cri.endpoint(), shared_dir, target_info).await?;
        runtime.fake_cri = Some(FakeCriControl::connect(cri.control_socket()).await?);
        runtime.program = WorkloadProgram::TestWorkload;
        *runtime.embedded_fake_cri.get_mut() = Some(cri);
        // fake-cri accepts every image name and runs the test workload for each.
        runtime.image = runtime.ensure_image(WORKLOAD_IMAGE).await?;
        Ok(runtime)
    }
}
