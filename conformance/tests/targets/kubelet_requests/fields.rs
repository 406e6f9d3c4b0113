//! Reduces CRI requests to the parts that are comparable between runs: the set fields and the kinds of their values.
//!
//! ```text
//!  {"config": {"metadata": {"name": "web"}, "mounts": [{"container_path": "/etc/hosts", "host_path": "/x/y"}]}}
//!   -> config.metadata.name                        text
//!      config.mounts[/etc/hosts].host_path         path
//! ```
//!
//! Numbers, booleans and names of enum values are the same in every run and stay unchanged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The fields of all requests of one method, each with the kinds of its values.
pub(crate) type Fields = BTreeMap<String, BTreeSet<String>>;
pub(crate) type Requests = BTreeMap<String, Fields>;

/// Reduces the requests of a journal.
pub(crate) fn collect_fields<'a>(requests: impl IntoIterator<Item = &'a (String, Value)>) -> Requests {
    let mut reduced = Requests::new();
    for (method, request) in requests {
        let fields = reduced.entry(method.clone()).or_default();
        collect_value(fields, "", request);
    }
    reduced
}

fn collect_value(fields: &mut Fields, path: &str, value: &Value) {
    let child_path = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                collect_value(fields, &child_path(name), value);
            }
        }
        Value::Array(list) => {
            for value in list {
                let key = ["container_path", "key"]
                    .iter()
                    .find_map(|name| value.get(name)?.as_str());
                collect_value(fields, &format!("{path}[{}]", key.unwrap_or_default()), value);
            }
        }
        value => {
            fields.entry(path.to_owned()).or_default().insert(value_kind(value));
        }
    }
}

fn value_kind(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let all_bytes = |takes: fn(u8) -> bool| !text.is_empty() && text.bytes().all(takes);
    if text.starts_with('/') {
        "path".to_owned()
    } else if all_bytes(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        text.clone()
    } else if text.parse::<i64>().is_ok() {
        "number".to_owned()
    } else if text.len() >= 8 && all_bytes(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        "hexadecimal".to_owned()
    } else {
        "text".to_owned()
    }
}

/// An intended difference: the method, a prefix of the field path, and the reason.
#[derive(Clone, Copy)]
pub(crate) struct AllowedDifference {
    pub(crate) method: &'static str,
    pub(crate) field: &'static str,
    pub(crate) reason: &'static str,
}

/// Returns the differences between `ours` and `recorded` for the methods that `ours` calls, except the allowed ones.
pub(crate) fn differences(recorded: &Requests, sent: &Requests, allowed: &[AllowedDifference]) -> Vec<String> {
    let mut differences_found = Vec::new();
    for (method, fields) in sent {
        let Some(expected) = recorded.get(method) else {
            differences_found.push(format!("{method}: not called by the kubelet"));
            continue;
        };
        let is_allowed = |field: &str| {
            allowed
                .iter()
                .any(|one| one.method == method && field.starts_with(one.field) && !one.reason.is_empty())
        };
        let names: BTreeSet<_> = expected.keys().chain(fields.keys()).collect();
        for name in names.into_iter().filter(|name| !is_allowed(name)) {
            match (expected.get(name), fields.get(name)) {
                (Some(_), None) => differences_found.push(format!("{method}: {name} is missing")),
                (None, Some(kinds)) => {
                    differences_found.push(format!("{method}: {name} ({kinds:?}) is not sent by the kubelet"))
                }
                (Some(expected), Some(kinds)) if kinds.is_disjoint(expected) => {
                    differences_found.push(format!("{method}: {name} is {kinds:?}, expected {expected:?}"));
                }
                _ => {}
            }
        }
    }
    differences_found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create_container_fields(container: Value) -> Requests {
        collect_fields(&[("CreateContainer".to_owned(), json!({ "config": container }))])
    }

    #[test]
    fn reports_missing_new_and_changed_fields() {
        let recorded = create_container_fields(
            json!({"image": {"image": "sha256:1", "user_specified_image": "busybox"}, "log_path": "a/0.log",
            "linux": {"resources": {"cpu_shares": 2}}}),
        );
        assert!(differences(&recorded, &recorded, &[]).is_empty());
        let sent = create_container_fields(json!({"image": {"image": "/x.tar"}, "log_path": "b/1.log", "tty": true,
            "linux": {"resources": {"cpu_shares": 3}}}));
        let found_differences = differences(&recorded, &sent, &[]);
        assert_eq!(found_differences.len(), 4, "{found_differences:?}");
        assert!(
            found_differences.contains(&"CreateContainer: config.image.user_specified_image is missing".to_owned())
        );
        let allowed = [
            AllowedDifference {
                method: "CreateContainer",
                field: "config.image",
                reason: "a test",
            },
            AllowedDifference {
                method: "CreateContainer",
                field: "config.tty",
                reason: "a test",
            },
        ];
        let found_differences = differences(&recorded, &sent, &allowed);
        assert_eq!(
            found_differences,
            ["CreateContainer: config.linux.resources.cpu_shares is {\"3\"}, expected {\"2\"}"]
        );
    }

    #[test]
    fn identifies_mounts_by_path_and_labels_by_name() {
        let fields = &create_container_fields(
            json!({"mounts": [{"container_path": "/etc/hosts", "host_path": "/a"}], "labels": {"x.io/y": "1"}}),
        )["CreateContainer"];
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "config.labels.x.io/y",
                "config.mounts[/etc/hosts].container_path",
                "config.mounts[/etc/hosts].host_path"
            ]
        );
    }
}
