//! The engine's own members of an archive: `config.dump`, `spec.dump`, `status.dump` and `status`, as containerd writes
//! them and checkpointctl reads them.

use cri_proto::document::{
    CONFIG_DUMP, ConfigDump, SPEC_DUMP, STATUS, STATUS_DUMP, Status, StatusDump, never, to_json,
};
use jiff::Timestamp;

use super::{Pod, Record, State, spec::spec};
use crate::checkpoint::Document;

/// The name by which `config.dump` tells the runtime.
const RUNTIME: &str = "fake-cri";

/// The documents about a container that is checkpointed now, in the order in which they stand in the archive.
pub(crate) fn documents(record: &Record, pod: &Pod, now: Timestamp) -> serde_json::Result<Vec<Document>> {
    let status = record.status();
    let created = Timestamp::from_nanosecond(i128::from(record.created_at)).unwrap_or_else(|_| never());
    let restored_at = match record.state {
        State::Running { started_at, .. } if record.restore.is_some() => Some(started_at),
        _ => None,
    };
    let restored_at = restored_at.and_then(|at| Timestamp::from_nanosecond(i128::from(at)).ok());
    let config = ConfigDump {
        id: record.id.clone(),
        // containerd repeats the id here.
        name: record.id.clone(),
        rootfs_image: record.image_name().to_owned(),
        rootfs_image_ref: record.image_ref().to_owned(),
        rootfs_image_name: record.image_name().to_owned(),
        runtime: RUNTIME.to_owned(),
        created,
        checkpointed: now,
        restored: restored_at.is_some(),
        restored_at: restored_at.unwrap_or_else(never),
    };
    let pid = record.state.process().map_or(0, |process| process.pid.unsigned_abs());
    let document = |name: &str, content: String| Document {
        name: name.to_owned(),
        content,
    };
    Ok(vec![
        document(CONFIG_DUMP, to_json(&config)?),
        document(SPEC_DUMP, to_json(&spec(record, pod)?)?),
        document(STATUS, to_json(&Status::new(&status, pid))?),
        document(STATUS_DUMP, to_json(&StatusDump::from(status))?),
    ])
}
