//! The embedded target: a fake-cri, started from this executable.

use std::{path::PathBuf, sync::Arc};

use fake_cri::{FakeCri, LogTo};

use super::{IMAGE, Program, Runtime};
use crate::{
    case::Suite,
    report,
    target::{Faults, TargetError, folder::Folder},
};

/// Starts embedded runtimes.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedRuntime {
    /// The name that reports give to what is wrong, and the fault rules or presets that make it so from the start.
    pub defect: Option<(String, Vec<String>)>,
    /// What fake-cri is started from, where this program's own `main` does not call its entry point.
    pub executable: Option<PathBuf>,
}

impl EmbeddedRuntime {
    /// Starts a fake-cri, in a temporary folder that goes with it.
    ///
    /// # Errors
    /// It does not start. Nothing is left behind.
    pub async fn start(self) -> Result<Runtime, TargetError> {
        let folder = Arc::new(Folder::make(None)?);
        let mut builder = FakeCri::builder()
            .state_dir(folder.below("runtime")?)
            .temporary_in(folder.path())
            .log(LogTo::Temporary);
        if let Some(executable) = &self.executable {
            builder = builder.executable(executable);
        }
        for rule in self.defect.iter().flat_map(|(_, rules)| rules) {
            builder = builder.fault(rule);
        }
        let cri = builder
            .start()
            .await
            .map_err(|error| TargetError::NotReady(error.to_string()))?;
        let description = match &self.defect {
            None => "the embedded fake-cri".to_owned(),
            Some((name, _)) => format!("the embedded fake-cri, wrong on purpose: {name}"),
        };
        let about = report::Target {
            suite: Suite::Runtime,
            kind: "embedded".to_owned(),
            description,
            endpoint: cri.endpoint(),
            container: String::new(),
            mutant: self.defect.map(|(name, _)| name),
            product: None,
            node: None,
        };
        let mut runtime = Runtime::reach(&cri.endpoint(), folder, about).await?;
        runtime.faults = Some(Faults::connect(cri.control_socket()).await?);
        runtime.program = Program::StandIn;
        *runtime.embedded.get_mut() = Some(cri);
        // Its catalogue has every name; what runs is the stand-in in any case.
        runtime.image = runtime.ensure_image(IMAGE).await?;
        Ok(runtime)
    }
}
