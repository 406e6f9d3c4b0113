//! One container: its record on disk, its state, and the handle of its shim.

use std::{path::PathBuf, sync::Mutex};

use cri_proto::runtime::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    error::RuntimeError,
    filter::matches_labels,
    image::Image,
    message,
    restore_source::RestoreRecord,
    state::{ContainerExit, ContainerState, InvalidTransition, LifecycleEvent},
    store::{Store, StoredObject},
};
use crate::{process::identity::Identity, shim::Shim};

/// The persistent state of a container, stored as a JSON file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The full id of the pod sandbox.
    pub pod_id: String,
    /// The config of the request, unchanged.
    #[serde(with = "message")]
    pub config: v1::ContainerConfig,
    /// The limits of the last UpdateContainerResources, initially those of the config.
    #[serde(with = "message")]
    pub resources: v1::LinuxContainerResources,
    /// The image at the time of creation. A later removal or retag of the image does not change the container.
    pub image: Image,
    /// The checkpoint archive that the container is restored from.
    #[serde(default)]
    pub restore: Option<PathBuf>,
    /// The user and groups of the processes, set at creation. For a restored container `None` until it runs: the
    /// archive decides, and the first process shows the result.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Data from the archive in `restore`.
    #[serde(default)]
    pub restored: RestoreRecord,
    /// The path of the log: the pod's `log_directory` joined with the container's `log_path`.
    pub log: Option<PathBuf>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The lifecycle state.
    #[serde(flatten)]
    pub state: ContainerState,
}

impl StoredObject for ContainerRecord {
    const DIR_NAME: &'static str = "containers";

    fn id(&self) -> &str {
        &self.id
    }
}

impl ContainerRecord {
    /// The name in the metadata.
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }

    /// The attempt in the metadata.
    pub fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
    }

    /// The state as the CRI's enum.
    pub fn cri_state(&self) -> v1::ContainerState {
        match self.state {
            ContainerState::Created => v1::ContainerState::ContainerCreated,
            ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
            ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
        }
    }

    /// The user of the processes. Before the start of a restored container: the user in `spec.dump` of its archive.
    pub fn user(&self) -> Option<v1::LinuxContainerUser> {
        if let Some(identity) = &self.identity {
            return Some(v1::LinuxContainerUser {
                uid: identity.uid.into(),
                gid: identity.gid.into(),
                supplemental_groups: identity.groups.iter().map(|group| i64::from(*group)).collect(),
            });
        }
        let user = self.restored_process()?.user();
        let groups = user.additional_gids().iter().flatten();
        Some(v1::LinuxContainerUser {
            uid: user.uid().into(),
            gid: user.gid().into(),
            supplemental_groups: groups.map(|gid| i64::from(*gid)).collect(),
        })
    }

    /// Returns the state after an event. Adjusts the times so that creation <= start <= exit, even if the clock was set
    /// back.
    ///
    /// # Errors
    ///
    /// The event is not valid in the current state.
    pub(crate) fn state_after(&self, mut event: LifecycleEvent) -> Result<ContainerState, InvalidTransition> {
        let not_before = match &self.state {
            ContainerState::Created => self.created_at,
            ContainerState::Running { started_at, .. } | ContainerState::Exited { started_at, .. } => *started_at,
        };
        match &mut event {
            LifecycleEvent::Started { started_at: at, .. } => *at = (*at).max(not_before),
            LifecycleEvent::StartFailed(exit) | LifecycleEvent::Exited(exit) => {
                exit.finished_at = exit.finished_at.max(not_before)
            }
        }
        self.state.after(event)
    }

    /// The process in `spec.dump` of the archive. The restored processes keep its arguments, environment and directory.
    pub(crate) fn restored_process(&self) -> Option<&cri_proto::document::spec::Process> {
        self.restored.spec.as_ref()?.process().as_ref()
    }

    /// Whether state and labels match the filter. The caller must compare the ids of the container and of its pod.
    pub(crate) fn matches(&self, filter: &v1::ContainerFilter) -> bool {
        let has_state = |expected: &v1::ContainerStateValue| expected.state == self.cri_state() as i32;
        filter.state.as_ref().is_none_or(has_state) && matches_labels(&self.config.labels, &filter.label_selector)
    }
}

/// A container of the runtime.
#[derive(Debug)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    record: watch::Sender<ContainerRecord>,
    shim: Mutex<Option<Shim>>,
    /// Time and CPU time of the last stats request, in nanoseconds. The next request computes the rate from them.
    pub(crate) last_cpu_sample: Mutex<Option<(i64, u64)>>,
    /// Held during a start and during the removal. Stop and kill wait for it.
    pub(crate) start_lock: tokio::sync::Mutex<()>,
    /// Held during a checkpoint; further checkpoints of the container wait.
    pub(crate) checkpoint_lock: tokio::sync::Mutex<()>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Container {
        Container {
            id: record.id.clone(),
            record: watch::Sender::new(record),
            shim: Mutex::default(),
            last_cpu_sample: Mutex::default(),
            start_lock: tokio::sync::Mutex::default(),
            checkpoint_lock: tokio::sync::Mutex::default(),
        }
    }

    /// Returns a copy of the current record.
    pub fn record(&self) -> ContainerRecord {
        self.record.borrow().clone()
    }

    pub(crate) fn shim(&self) -> Option<Shim> {
        self.shim.lock().expect("no holder of this lock panics").clone()
    }

    pub(crate) fn set_shim(&self, shim: Shim) {
        *self.shim.lock().expect("no holder of this lock panics") = Some(shim);
    }

    /// Sets the state `exited`, even if the file cannot be written: waiters must be notified, and after a restart of
    /// fake-cri the exit record of the shim still exists.
    pub(crate) fn record_exit(&self, store: &Store, exit: ContainerExit) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        self.record
            .send_if_modified(|record| match record.state_after(LifecycleEvent::Exited(exit)) {
                Ok(state) => {
                    record.state = state;
                    if let Err(error) = store.save(record) {
                        tracing::error!(container = record.id, %error, "failed to write the container's exit to its file");
                    }
                    true
                }
                Err(error) => {
                    result = Err(error.into());
                    false
                }
            });
        result
    }

    /// Changes the state. The file is written before the new state is visible.
    pub(crate) fn apply_event(&self, store: &Store, event: LifecycleEvent) -> Result<(), RuntimeError> {
        self.update(store, |record| {
            record.state = record.state_after(event)?;
            Ok(())
        })
    }

    /// Changes the record: first in the file, then in memory. On an error nothing changes.
    pub(crate) fn update(
        &self,
        store: &Store,
        change: impl FnOnce(&mut ContainerRecord) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        self.record.send_if_modified(|record| {
            let mut changed = record.clone();
            result = change(&mut changed).and_then(|()| store.save(&changed));
            if result.is_ok() {
                *record = changed;
            }
            result.is_ok()
        });
        result
    }

    pub(crate) async fn wait_exited(&self) {
        let mut changes = self.record.subscribe();
        // The sender lives as long as `self`, so `wait_for` cannot fail.
        let _ = changes.wait_for(|record| record.state.is_exited()).await;
    }
}
