//! What the filters of the lists have in common.

use std::collections::HashMap;

/// Whether labels hold every pair of a selector. An empty selector lets all through.
pub(crate) fn matches_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
