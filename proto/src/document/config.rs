use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::go::is_empty;

/// `config.dump`: the checkpointed container, the time, and the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDump {
    /// The full id of the container.
    pub id: String,
    /// The engine's name of the container: containerd repeats the id; CRI-O combines the names of the Pod and of the
    /// container.
    pub name: String,
    /// The image as the user named it, or as the engine resolved it.
    #[serde(rename = "rootfsImage", default, skip_serializing_if = "is_empty")]
    pub rootfs_image: String,
    /// The digest reference or the id of the image.
    #[serde(rename = "rootfsImageRef", default, skip_serializing_if = "is_empty")]
    pub rootfs_image_ref: String,
    /// The name of the image.
    #[serde(rename = "rootfsImageName", default, skip_serializing_if = "is_empty")]
    pub rootfs_image_name: String,
    /// The OCI runtime, such as `runc` or `io.containerd.runc.v2`.
    #[serde(rename = "runtime", default, skip_serializing_if = "is_empty")]
    pub runtime: String,
    /// The creation time of the container.
    #[serde(rename = "createdTime", with = "time")]
    pub created_at: Timestamp,
    /// The time of the checkpoint; [`zero_time()`] if the field is missing, as in Podman's documents.
    #[serde(rename = "checkpointedTime", with = "time", default = "zero_time")]
    pub checkpointed_at: Timestamp,
    /// The time of the restore; [`zero_time()`] for a container that was not restored. Engines have written the field
    /// since 2023.
    #[serde(rename = "restoredTime", with = "time", default = "zero_time")]
    pub restored_at: Timestamp,
    /// Whether the container was restored from a checkpoint.
    #[serde(default)]
    pub restored: bool,
}

/// Go's zero time, `0001-01-01T00:00:00Z`.
pub fn zero_time() -> Timestamp {
    Timestamp::constant(-62_135_596_800, 0)
}

/// RFC 3339 in Go's form: a four-digit year, nanoseconds without trailing zeros.
mod time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format_args!("{text:?} is not an RFC 3339 time: {error}")))
    }
}
