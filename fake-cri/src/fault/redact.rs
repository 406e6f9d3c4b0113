//! Removes secrets from a message before it is logged or recorded.
//!
//! Kubernetes passes Secrets to containers as environment variables, and registry credentials with image pulls. Secrets
//! are removed by field, so that no pattern must guess what a secret looks like:
//!
//! | field | why | what remains |
//! |---|---|---|
//! | `AuthConfig` | registry credentials | an empty message |
//! | `KeyValue.value` | environment variables | their names |
//! | `ExecSyncResponse.stdout`, `.stderr` | may print the environment | nothing |
//! | annotation `kubectl.kubernetes.io/last-applied-configuration` | the manifest with its environment | the key |
//! | `info` of verbose responses | holds the container's configuration | JSON without environment values |

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, SerializeOptions, Value};
use serde_json::Value as Json;

const REDACTED: &str = "[redacted]";

/// kubectl stores the whole manifest in this annotation.
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The message as JSON without secrets, with the field names of the `.proto` file, 64-bit integers as numbers.
pub(crate) fn to_json(mut message: DynamicMessage) -> Json {
    redact(&mut message);
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("every CRI type has a JSON form")
}

fn redact(message: &mut DynamicMessage) {
    match message.descriptor().full_name() {
        "runtime.v1.AuthConfig" => {
            let descriptor = message.descriptor();
            *message = DynamicMessage::new(descriptor);
        }
        "runtime.v1.KeyValue" => message.clear_field_by_name("value"),
        "runtime.v1.ExecSyncResponse" => {
            message.clear_field_by_name("stdout");
            message.clear_field_by_name("stderr");
        }
        _ => {}
    }
    // A field that this version of the CRI does not define can hold a secret.
    message.take_unknown_fields().for_each(drop);
    for (field, value) in message.fields_mut() {
        match value {
            Value::Message(message) => redact(message),
            Value::List(values) => values.iter_mut().filter_map(Value::as_message_mut).for_each(redact),
            Value::Map(map) => {
                let is_verbose_info = field.name() == "info";
                for (key, value) in map.iter_mut() {
                    match value {
                        Value::Message(message) => redact(message),
                        Value::String(text) if *key == MapKey::String(LAST_APPLIED_ANNOTATION.to_owned()) => {
                            REDACTED.clone_into(text);
                        }
                        Value::String(text) if is_verbose_info => *text = redact_info(text),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// Redacts a value of verbose information: JSON loses its environment values; other text is replaced entirely.
fn redact_info(text: &str) -> String {
    match serde_json::from_str::<Json>(text) {
        Ok(mut json) => {
            redact_environments(&mut json);
            json.to_string()
        }
        Err(_) => REDACTED.to_owned(),
    }
}

fn redact_environments(json: &mut Json) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(redact_environments),
        Json::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "env" | "envs" => redact_values(value),
                    "auth" | LAST_APPLIED_ANNOTATION => *value = REDACTED.into(),
                    _ => redact_environments(value),
                }
            }
        }
        _ => {}
    }
}

/// Redacts an environment: `NAME=value` strings, objects with a `value`, or an object of names.
fn redact_values(environment: &mut Json) {
    let variables: Vec<&mut Json> = match environment {
        Json::Array(items) => items.iter_mut().collect(),
        Json::Object(fields) => fields.iter_mut().map(|(_, value)| value).collect(),
        _ => vec![environment],
    };
    for variable in variables {
        match variable {
            Json::String(text) => {
                let name = text.split_once('=').map(|(name, _)| format!("{name}="));
                *text = name.unwrap_or_default() + REDACTED;
            }
            Json::Object(fields) => {
                if let Some(value) = fields.get_mut("value") {
                    *value = REDACTED.into();
                }
            }
            other => *other = REDACTED.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cri_proto::runtime::v1;
    use prost::Message;

    use super::*;
    use crate::fault::Rpc;

    const SECRET: &str = "hunter2-hunter2";

    fn dynamic(descriptor: prost_reflect::MessageDescriptor, message: &impl Message) -> DynamicMessage {
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).expect("a valid message")
    }

    #[test]
    fn environment_values_are_redacted() {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: "pod".to_owned(),
            config: Some(v1::ContainerConfig {
                args: vec!["--verbose".to_owned()],
                envs: vec![v1::KeyValue {
                    key: "PASSWORD".to_owned(),
                    value: SECRET.into(),
                }],
                annotations: [(LAST_APPLIED_ANNOTATION.to_owned(), SECRET.to_owned())].into(),
                ..Default::default()
            }),
            sandbox_config: Some(v1::PodSandboxConfig {
                annotations: [(LAST_APPLIED_ANNOTATION.to_owned(), SECRET.to_owned())].into(),
                ..Default::default()
            }),
        };
        let rpc = Rpc::by_name("CreateContainer").expect("an rpc");
        let json = to_json(dynamic(rpc.input(), &request));
        assert!(!json.to_string().contains(SECRET), "{json}");
        assert_eq!(json["config"]["envs"], serde_json::json!([{ "key": "PASSWORD" }]));
        assert_eq!(json["config"]["args"], serde_json::json!(["--verbose"]));
        assert_eq!(json["sandbox_config"]["annotations"][LAST_APPLIED_ANNOTATION], REDACTED);
    }

    #[test]
    fn credentials_are_removed() {
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: "busybox".to_owned(),
                ..Default::default()
            }),
            auth: Some(v1::AuthConfig {
                username: SECRET.to_owned(),
                password: SECRET.to_owned(),
                server_address: SECRET.to_owned(),
                ..Default::default()
            }),
            sandbox_config: None,
        };
        let rpc = Rpc::by_name("PullImage").expect("an rpc");
        let json = to_json(dynamic(rpc.input(), &request));
        assert_eq!(json, serde_json::json!({ "image": { "image": "busybox" }, "auth": {} }));
    }

    #[test]
    fn verbose_info_loses_environment_values_only() {
        let info = serde_json::json!({
            "pid": 7,
            "config": { "envs": [{ "key": "A", "value": SECRET }] },
            "runtimeSpec": { "process": { "env": [format!("A={SECRET}"), SECRET] } },
            "env": { "A": SECRET },
        });
        let response = v1::ContainerStatusResponse {
            status: None,
            info: [
                ("info".to_owned(), info.to_string()),
                ("raw".to_owned(), SECRET.to_owned()),
            ]
            .into(),
        };
        let rpc = Rpc::by_name("ContainerStatus").expect("an rpc");
        let json = to_json(dynamic(rpc.output(), &response));
        assert!(!json.to_string().contains(SECRET), "{json}");
        let info: Json = serde_json::from_str(json["info"]["info"].as_str().expect("a string")).expect("valid JSON");
        assert_eq!(info["pid"], 7);
        assert_eq!(info["runtimeSpec"]["process"]["env"][0], "A=[redacted]");
    }

    #[test]
    fn unknown_fields_are_dropped() {
        let mut bytes = v1::VersionRequest::default().encode_to_vec();
        bytes.extend([0xfa, 0x3f, 15]);
        bytes.extend(SECRET.as_bytes());
        let rpc = Rpc::by_name("Version").expect("an rpc");
        let message = DynamicMessage::decode(rpc.input(), bytes.as_slice()).expect("a message with an unknown field");
        assert_eq!(message.unknown_fields().count(), 1);
        assert_eq!(to_json(message), serde_json::json!({}));
    }
}
