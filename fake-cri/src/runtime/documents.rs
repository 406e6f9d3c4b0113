//! The archive members that the container engine writes and checkpointctl reads: `config.dump` and `spec.dump`, and for
//! containerd's layout also `status` and `status.dump`.

use cri_proto::document::{
    CONFIG_DUMP, ConfigDump, SPEC_DUMP, STATUS, STATUS_DUMP, Status, StatusDump, to_json, zero_time,
};
use jiff::Timestamp;

use super::{
    ContainerRecord, ContainerState, Pod,
    spec::{crio_name, spec},
};
use crate::checkpoint::{Document, Layout};

const RUNTIME_NAME: &str = "fake-cri";

/// Creates the documents of a container that is checkpointed at `now`, in the order of the archive.
pub(crate) fn documents(
    layout: Layout,
    record: &ContainerRecord,
    pod: &Pod,
    now: Timestamp,
) -> serde_json::Result<Vec<Document>> {
    let status = record.status();
    let created = Timestamp::from_nanosecond(i128::from(record.created_at)).unwrap_or_else(|_| zero_time());
    let restored_at = match record.state {
        ContainerState::Running { started_at, .. } if record.restore.is_some() => Some(started_at),
        _ => None,
    };
    let restored_at = restored_at.and_then(|at| Timestamp::from_nanosecond(i128::from(at)).ok());
    let config = ConfigDump {
        id: record.id.clone(),
        name: match layout {
            // containerd writes the id in the field `name` too.
            Layout::Containerd => record.id.clone(),
            Layout::CriO => crio_name(record, pod),
        },
        rootfs_image: record.image_name().to_owned(),
        rootfs_image_ref: record.image_ref().to_owned(),
        rootfs_image_name: record.image_name().to_owned(),
        runtime: RUNTIME_NAME.to_owned(),
        created_at: created,
        checkpointed_at: now,
        restored: restored_at.is_some(),
        restored_at: restored_at.unwrap_or_else(zero_time),
    };
    let pid = record
        .state
        .init()
        .map_or(0, |process| process.pid.as_raw().unsigned_abs());
    let document = |name: &str, content: String| Document {
        name: name.to_owned(),
        content,
    };
    let mut documents = vec![
        document(CONFIG_DUMP, to_json(&config)?),
        document(SPEC_DUMP, to_json(&spec(layout, record, pod)?)?),
    ];
    if layout == Layout::Containerd {
        documents.push(document(STATUS, to_json(&Status::new(&status, pid))?));
        documents.push(document(STATUS_DUMP, to_json(&StatusDump::from(status))?));
    }
    Ok(documents)
}
