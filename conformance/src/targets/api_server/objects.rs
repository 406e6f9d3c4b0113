//! The objects of the stub API server: one node, and empty lists.

use serde_json::{Value, json};

const RESOURCE_LISTS: [(&str, &str, &str); 6] = [
    ("/api/v1/nodes", "v1", "NodeList"),
    ("/api/v1/services", "v1", "ServiceList"),
    ("/api/v1/pods", "v1", "PodList"),
    (
        "/apis/node.k8s.io/v1/runtimeclasses",
        "node.k8s.io/v1",
        "RuntimeClassList",
    ),
    (
        "/apis/storage.k8s.io/v1/csidrivers",
        "storage.k8s.io/v1",
        "CSIDriverList",
    ),
    (
        "/apis/certificates.k8s.io/v1beta1/clustertrustbundles",
        "certificates.k8s.io/v1beta1",
        "ClusterTrustBundleList",
    ),
];

pub(super) fn list(path: &str, node: &str) -> Option<Value> {
    let (_, version, kind) = RESOURCE_LISTS.iter().find(|(list_path, ..)| *list_path == path)?;
    let items = if *kind == "NodeList" {
        vec![node_object(node)]
    } else {
        Vec::new()
    };
    Some(json!({ "apiVersion": version, "kind": kind, "metadata": { "resourceVersion": "1" }, "items": items }))
}

/// The object at this path. The node is the only object.
pub(super) fn get(path: &str, node: &str) -> Option<Value> {
    let name = path.strip_prefix("/api/v1/nodes/")?;
    (name == node).then(|| node_object(node))
}

fn node_object(name: &str) -> Value {
    // A node without capacity admits no Pods, not even static ones.
    let capacity = json!({ "cpu": "64", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "110" });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": "00000000-0000-0000-0000-000000000001",
            "resourceVersion": "1",
            "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
        },
        "spec": {},
        "status": {
            "allocatable": capacity,
            "capacity": capacity,
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_one_node_and_nothing_else() {
        let nodes = list("/api/v1/nodes", "here").unwrap();
        assert_eq!(nodes["items"][0]["metadata"]["name"], "here");
        assert_eq!(list("/api/v1/services", "here").unwrap()["items"], json!([]));
        assert_eq!(get("/api/v1/nodes/here", "here").unwrap()["kind"], "Node");
        for path in ["/api/v1/nodes/there", "/api/v1/secrets", "/api/v1/namespaces/a/pods/b"] {
            assert!(get(path, "here").is_none() && list(path, "here").is_none(), "{path}");
        }
    }
}
