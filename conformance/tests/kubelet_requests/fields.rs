//! CRI requests reduced to what can be compared between two runs: which fields are set, and what kind of value each has.
//!
//! ```text
//!  {"config": {"metadata": {"name": "web"}, "mounts": [{"container_path": "/etc/hosts", "host_path": "/x/y"}]}}
//!   -> config.metadata.name                        text
//!      config.mounts[/etc/hosts].host_path         path
//! ```
//!
//! Numbers, booleans and the names of enum values are the same in every run and stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The fields of all requests of one method, each with the kinds of its values.
pub(crate) type Fields = BTreeMap<String, BTreeSet<String>>;
/// The fields by method.
pub(crate) type Requests = BTreeMap<String, Fields>;

/// Reduces requests, as a journal has them.
pub(crate) fn reduce<'a>(requests: impl IntoIterator<Item = &'a (String, Value)>) -> Requests {
    let mut reduced = Requests::new();
    for (method, request) in requests {
        let fields = reduced.entry(method.clone()).or_default();
        walk(fields, "", request);
    }
    reduced
}

fn walk(fields: &mut Fields, path: &str, value: &Value) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                walk(fields, &below(name), value);
            }
        }
        Value::Array(list) => {
            for value in list {
                let key = ["container_path", "key"]
                    .iter()
                    .find_map(|name| value.get(name)?.as_str());
                walk(fields, &format!("{path}[{}]", key.unwrap_or_default()), value);
            }
        }
        value => {
            fields.entry(path.to_owned()).or_default().insert(kind(value));
        }
    }
}

fn kind(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let all = |takes: fn(u8) -> bool| !text.is_empty() && text.bytes().all(takes);
    if text.starts_with('/') {
        "path".to_owned()
    } else if all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        text.clone()
    } else if text.parse::<i64>().is_ok() {
        "number".to_owned()
    } else if text.len() >= 8 && all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        "hexadecimal".to_owned()
    } else {
        "text".to_owned()
    }
}

/// A difference that is meant: where (method, and what the field's path begins with), and why.
#[derive(Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) method: &'static str,
    pub(crate) field: &'static str,
    pub(crate) why: &'static str,
}

/// What `ours` has otherwise than `recorded`, in the methods that it calls; what is allowed is left out.
pub(crate) fn differences(recorded: &Requests, ours: &Requests, allowed: &[Allowed]) -> Vec<String> {
    let mut found = Vec::new();
    for (method, fields) in ours {
        let Some(expected) = recorded.get(method) else {
            found.push(format!("{method}: the kubelet does not call it"));
            continue;
        };
        let is_allowed = |field: &str| {
            allowed
                .iter()
                .any(|one| one.method == method && field.starts_with(one.field) && !one.why.is_empty())
        };
        let names: BTreeSet<_> = expected.keys().chain(fields.keys()).collect();
        for name in names.into_iter().filter(|name| !is_allowed(name)) {
            match (expected.get(name), fields.get(name)) {
                (Some(_), None) => found.push(format!("{method}: {name} is not sent")),
                (None, Some(kinds)) => {
                    found.push(format!("{method}: {name} is sent ({kinds:?}), and not by the kubelet"))
                }
                (Some(expected), Some(kinds)) if kinds.is_disjoint(expected) => {
                    found.push(format!("{method}: {name} is {kinds:?}, and the kubelet's {expected:?}"));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create(container: Value) -> Requests {
        reduce(&[("CreateContainer".to_owned(), json!({ "config": container }))])
    }

    #[test]
    fn a_field_that_is_missing_new_or_of_another_kind_is_a_difference() {
        let recorded = create(
            json!({"image": {"image": "sha256:1", "user_specified_image": "busybox"}, "log_path": "a/0.log",
            "linux": {"resources": {"cpu_shares": 2}}}),
        );
        assert!(differences(&recorded, &recorded, &[]).is_empty());
        let ours = create(json!({"image": {"image": "/x.tar"}, "log_path": "b/1.log", "tty": true,
            "linux": {"resources": {"cpu_shares": 3}}}));
        let found = differences(&recorded, &ours, &[]);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.contains(&"CreateContainer: config.image.user_specified_image is not sent".to_owned()));
        let allowed = [
            Allowed {
                method: "CreateContainer",
                field: "config.image",
                why: "a test",
            },
            Allowed {
                method: "CreateContainer",
                field: "config.tty",
                why: "a test",
            },
        ];
        let found = differences(&recorded, &ours, &allowed);
        assert_eq!(
            found,
            ["CreateContainer: config.linux.resources.cpu_shares is {\"3\"}, and the kubelet's {\"2\"}"]
        );
    }

    #[test]
    fn mounts_are_known_by_their_path_and_labels_by_their_name() {
        let fields = &create(
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
