//! Finds the pod and the container that a request is about.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, Value};

use crate::fault::{Subject, Subjects};

/// The subject of a request: by the ids it carries, and by the configurations it brings for what is not made yet.
pub(super) fn subject(request: &DynamicMessage, subjects: &dyn Subjects) -> Subject {
    let pod = text(request, "pod_sandbox_id");
    let container = text(request, "container_id");
    let mut subject = match (&pod, &container) {
        (None, None) => Subject::default(),
        _ => subjects.subject(pod.as_deref(), container.as_deref()),
    };
    for field in ["config", "sandbox_config"] {
        let Some(config) = message(request, field) else {
            continue;
        };
        let Some(metadata) = message(&config, "metadata") else {
            continue;
        };
        if config.descriptor().name() == "ContainerConfig" {
            subject.container = text(&metadata, "name").unwrap_or_default();
        } else {
            subject.pod = text(&metadata, "name").unwrap_or_default();
            subject.namespace = text(&metadata, "namespace").unwrap_or_default();
            subject.uid = text(&metadata, "uid").unwrap_or_default();
            subject.annotations = texts(&config, "annotations");
        }
    }
    subject
}

/// A text field that is there and not empty.
fn text(message: &DynamicMessage, field: &str) -> Option<String> {
    let value = message.get_field_by_name(field)?;
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn message(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    if !message.has_field_by_name(field) {
        return None;
    }
    message.get_field_by_name(field)?.as_message().cloned()
}

fn texts(message: &DynamicMessage, field: &str) -> HashMap<String, String> {
    let value = message.get_field_by_name(field);
    let map = value.as_ref().and_then(|value| value.as_map());
    let pair = |(key, value): (&MapKey, &Value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()));
    map.into_iter().flatten().filter_map(pair).collect()
}
