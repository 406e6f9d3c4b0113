//! `config.dump`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::go::is_empty;

/// `config.dump`: what was checkpointed, when, by which runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDump {
    /// The container's full id.
    pub id: String,
    /// The engine's name of the container: containerd repeats the id, CRI-O makes it of the pod's and its own name.
    pub name: String,
    /// The image as the user named it, or as the engine resolved it.
    #[serde(rename = "rootfsImage", default, skip_serializing_if = "is_empty")]
    pub rootfs_image: String,
    /// The image's reference by digest, or its id.
    #[serde(rename = "rootfsImageRef", default, skip_serializing_if = "is_empty")]
    pub rootfs_image_ref: String,
    /// The image's name.
    #[serde(rename = "rootfsImageName", default, skip_serializing_if = "is_empty")]
    pub rootfs_image_name: String,
    /// The OCI runtime: `runc`, `io.containerd.runc.v2`.
    #[serde(rename = "runtime", default, skip_serializing_if = "is_empty")]
    pub runtime: String,
    /// When the container was created.
    #[serde(rename = "createdTime", with = "time")]
    pub created_at: Timestamp,
    /// When it was checkpointed; [`zero_time()`] where the document does not say so, as Podman's.
    #[serde(rename = "checkpointedTime", with = "time", default = "zero_time")]
    pub checkpointed_at: Timestamp,
    /// When it was restored; [`zero_time()`] for one that was not. Written by engines since 2023.
    #[serde(rename = "restoredTime", with = "time", default = "zero_time")]
    pub restored_at: Timestamp,
    /// Whether it was made by a restore.
    #[serde(default)]
    pub restored: bool,
}

/// Go's zero time, `0001-01-01T00:00:00Z`.
pub fn zero_time() -> Timestamp {
    Timestamp::constant(-62_135_596_800, 0)
}

/// RFC 3339 as Go writes it: a year of four digits, nanoseconds without trailing zeros.
mod time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format_args!("{text:?} is no RFC 3339 time: {error}")))
    }
}
