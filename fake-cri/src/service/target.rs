//! Finds the pod and the container that a request refers to.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, Value};

use crate::fault::{CallTarget, ResolveTarget};

/// The target of a request: from the ids in the request, and from the configs of pods and containers that do not exist
/// yet.
pub(super) fn find_target(request: &DynamicMessage, resolver: &dyn ResolveTarget) -> CallTarget {
    let pod = string_field(request, "pod_sandbox_id");
    let container = string_field(request, "container_id");
    let mut target = match (&pod, &container) {
        (None, None) => CallTarget::default(),
        _ => resolver.resolve(pod.as_deref(), container.as_deref()),
    };
    for field in ["config", "sandbox_config"] {
        let Some(config) = message_field(request, field) else {
            continue;
        };
        let Some(metadata) = message_field(&config, "metadata") else {
            continue;
        };
        if config.descriptor().name() == "ContainerConfig" {
            target.container = string_field(&metadata, "name").unwrap_or_default();
        } else {
            target.pod = string_field(&metadata, "name").unwrap_or_default();
            target.namespace = string_field(&metadata, "namespace").unwrap_or_default();
            target.uid = string_field(&metadata, "uid").unwrap_or_default();
            target.annotations = string_map_field(&config, "annotations");
        }
    }
    target
}

/// The value of a string field, `None` if the field is missing or empty.
fn string_field(message: &DynamicMessage, field: &str) -> Option<String> {
    let value = message.get_field_by_name(field)?;
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn message_field(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    if !message.has_field_by_name(field) {
        return None;
    }
    message.get_field_by_name(field)?.as_message().cloned()
}

fn string_map_field(message: &DynamicMessage, field: &str) -> HashMap<String, String> {
    let value = message.get_field_by_name(field);
    let map = value.as_ref().and_then(|value| value.as_map());
    let pair = |(key, value): (&MapKey, &Value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()));
    map.into_iter().flatten().filter_map(pair).collect()
}
