//! CRI messages as JSON, for the files of the store. All known fields of a request are kept.
//!
//! The mapping is proto3 JSON, derived from the descriptor set, so that a new field of the CRI needs no code here. Use
//! as `#[serde(with = "message")]`.

use std::sync::LazyLock;

use cri_proto::{DESCRIPTOR_SET, runtime::v1};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de, ser};

static DESCRIPTOR_POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTOR_SET).expect("the build generates the descriptor set"));

pub(crate) trait StoredMessage: Message + Default {
    /// The name in the package `runtime.v1`.
    const NAME: &'static str;
}

impl StoredMessage for v1::PodSandboxConfig {
    const NAME: &'static str = "PodSandboxConfig";
}

impl StoredMessage for v1::ContainerConfig {
    const NAME: &'static str = "ContainerConfig";
}

impl StoredMessage for v1::LinuxContainerResources {
    const NAME: &'static str = "LinuxContainerResources";
}

fn descriptor<T: StoredMessage>() -> MessageDescriptor {
    DESCRIPTOR_POOL
        .get_message_by_name(&format!("runtime.v1.{}", T::NAME))
        .expect("the CRI defines every stored message")
}

/// Converts a message to a JSON value, for verbose responses.
pub(crate) fn to_json<T: StoredMessage>(message: &T) -> serde_json::Value {
    serialize(message, serde_json::value::Serializer).unwrap_or(serde_json::Value::Null)
}

/// Converts a message to one whose fields can be enumerated.
pub(crate) fn to_dynamic<T: StoredMessage>(message: &T) -> Result<DynamicMessage, prost::DecodeError> {
    DynamicMessage::decode(descriptor::<T>(), message.encode_to_vec().as_slice())
}

pub(crate) fn serialize<T: StoredMessage, S: Serializer>(message: &T, serializer: S) -> Result<S::Ok, S::Error> {
    to_dynamic(message).map_err(ser::Error::custom)?.serialize(serializer)
}

pub(crate) fn deserialize<'de, T: StoredMessage, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    // Through a serde_json value: prost-reflect's deserializer accepts what serde_json produces, but no borrowed
    // strings.
    let value = serde_json::Value::deserialize(deserializer)?;
    let dynamic = DynamicMessage::deserialize(descriptor::<T>(), value).map_err(de::Error::custom)?;
    T::decode(dynamic.encode_to_vec().as_slice()).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct ConfigFile {
        #[serde(with = "super")]
        config: v1::ContainerConfig,
    }

    #[test]
    fn a_config_round_trips_through_json() {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "app".to_owned(),
                attempt: 3,
            }),
            envs: vec![v1::KeyValue {
                key: "RAW".to_owned(),
                value: vec![0, 159, 146, 150],
            }],
            labels: [("io.kubernetes.pod.name".to_owned(), "\u{e9}\"\n".to_owned())].into(),
            stop_signal: v1::Signal::Sigusr1 as i32,
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_quota: i64::MIN,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = serde_json::to_string(&ConfigFile { config: config.clone() }).unwrap();
        let decoded: ConfigFile = serde_json::from_str(&text).unwrap();
        assert_eq!(decoded.config, config);
    }
}
