//! Label selectors of the list calls.

use std::collections::HashMap;

/// Whether the labels contain every pair of the selector. An empty selector matches all labels.
pub(crate) fn matches_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
