//! One container: its file, its state, and the handle on its shim.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

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

/// What is known of a container, as it stands in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The pod sandbox it belongs to.
    pub pod_id: String,
    /// What the caller sent, whole.
    #[serde(with = "message")]
    pub config: v1::ContainerConfig,
    /// The limits as they were updated last; what the config says until then.
    #[serde(with = "message")]
    pub resources: v1::LinuxContainerResources,
    /// The image as it was when the container was made: a later removal or move of the tag changes nothing.
    pub image: Image,
    /// The checkpoint archive it goes on from instead of being started.
    #[serde(default)]
    pub restore: Option<PathBuf>,
    /// As whom its processes run: decided when it is made; of a restored one, as its archive has it, known once it runs.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// What is kept of that archive.
    #[serde(default)]
    pub restored: RestoreRecord,
    /// Where its log goes: the pod's folder with the container's path.
    pub log: Option<PathBuf>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// What it is doing.
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
    /// Its name.
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }

    /// Which attempt it is.
    pub fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
    }

    /// The CRI's number of its state.
    pub fn cri_state(&self) -> v1::ContainerState {
        match self.state {
            ContainerState::Created => v1::ContainerState::ContainerCreated,
            ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
            ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
        }
    }

    /// The user it runs as. Of a container that is yet to be restored it is the one that its archive's `spec.dump` names.
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

    /// Its state after this event, with times in their order whatever the clock did meanwhile: it is created, then started,
    /// then it ends.
    ///
    /// # Errors
    ///
    /// An event that its state does not know.
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

    /// What the container it goes on from ran as, by the archive's `spec.dump`: its processes still do.
    pub(crate) fn restored_process(&self) -> Option<&cri_proto::document::spec::Process> {
        self.restored.spec.as_ref()?.process().as_ref()
    }

    /// Whether a filter of states, pods and labels lets it through; its id is the caller's to look at.
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
    /// The last time and CPU time that were asked for, to tell the use between two calls.
    pub(crate) last_cpu_sample: Mutex<Option<(i64, u64)>>,
    /// One start at a time, and none while it is being removed.
    pub(crate) start_lock: tokio::sync::Mutex<()>,
    /// One checkpoint at a time: the others wait for their turn.
    pub(crate) checkpoint_lock: tokio::sync::Mutex<()>,
    /// What faults have wrong about it.
    pub(crate) injected: InjectedState,
}

/// What faults have wrong about a container, from the checkpoint on that they fired on.
#[derive(Debug, Default)]
pub(crate) struct InjectedState {
    /// The next checkpoint fails.
    pub(crate) refuse_next_checkpoint: AtomicBool,
    /// Its status says that it has exited.
    pub(crate) report_exited: AtomicBool,
    /// ExecSync fails.
    pub(crate) refuse_exec: AtomicBool,
    /// Ends the commands that are under way.
    pub(crate) kill_execs: tokio::sync::Notify,
}

impl Container {
    /// A container as its file tells it.
    pub(crate) fn new(record: ContainerRecord) -> Container {
        Container {
            id: record.id.clone(),
            record: watch::Sender::new(record),
            shim: Mutex::default(),
            last_cpu_sample: Mutex::default(),
            start_lock: tokio::sync::Mutex::default(),
            checkpoint_lock: tokio::sync::Mutex::default(),
            injected: InjectedState::default(),
        }
    }

    /// What is known of it now.
    pub fn record(&self) -> ContainerRecord {
        self.record.borrow().clone()
    }

    /// What ContainerStatus answers, without the verbose part.
    pub fn status(&self) -> v1::ContainerStatus {
        let mut status = self.record().status();
        if self.injected.report_exited.load(Ordering::SeqCst) {
            status.state = v1::ContainerState::ContainerExited as i32;
        }
        status
    }

    /// The shim it was started by; `None` before its start.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.shim.lock().expect("no holder of this lock panics").clone()
    }

    /// Says which shim has it.
    pub(crate) fn set_shim(&self, shim: Shim) {
        *self.shim.lock().expect("no holder of this lock panics") = Some(shim);
    }

    /// Lets the container's end happen, even when it cannot be written down: whoever waits for it must be told, and after a
    /// restart the shim's own record tells it again.
    pub(crate) fn record_exit(&self, store: &Store, exit: ContainerExit) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        self.record
            .send_if_modified(|record| match record.state_after(LifecycleEvent::Exited(exit)) {
                Ok(state) => {
                    record.state = state;
                    if let Err(error) = store.save(record) {
                        tracing::error!(container = record.id, %error, "failed to write down the container's end");
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

    /// Lets an event happen: the new state is in the file before anyone sees it.
    pub(crate) fn apply_event(&self, store: &Store, event: LifecycleEvent) -> Result<(), RuntimeError> {
        self.update(store, |record| {
            record.state = record.state_after(event)?;
            Ok(())
        })
    }

    /// Changes what is known of it, in the file first. On an error nothing changes.
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

    /// Waits until it has ended.
    pub(crate) async fn wait_exited(&self) {
        let mut changes = self.record.subscribe();
        // The sender lives as long as `self`, so this ends by the state alone.
        let _ = changes.wait_for(|record| record.state.is_exited()).await;
    }
}
