//! Reads manifests: YAML or JSON files with a Pod or a PodList.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The annotations that the kubelet adds to a static Pod.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

#[derive(Debug, thiserror::Error)]
#[error("failed to load the manifest {}: {reason}", path.display())]
pub(in super::super) struct ManifestError {
    path: PathBuf,
    reason: String,
}

/// Reads the manifests of a directory, or one file. Skips subdirectories and files whose names begin with a dot.
pub(in super::super) fn load(path: &Path, node: &str) -> (Vec<Pod>, Vec<ManifestError>) {
    let mut files = Vec::new();
    let mut errors = Vec::new();
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let hidden = |path: &PathBuf| {
                path.file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            };
            files.extend(
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| !hidden(path) && path.is_file()),
            );
        }
        Err(_) if path.is_file() => files.push(path.to_owned()),
        Err(error) => errors.push(ManifestError {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
    files.sort();
    let mut pods = Vec::new();
    for file in files {
        match read(&file, node) {
            Ok(mut read) => pods.append(&mut read),
            Err(reason) => errors.push(ManifestError { path: file, reason }),
        }
    }
    (pods, errors)
}

fn read(path: &Path, node: &str) -> Result<Vec<Pod>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    // Deserialize through `serde_json::Value`, as elsewhere, so that the deserializer of `Pod` is compiled only once.
    let value: Value = serde_yaml_ng::from_slice(&text).map_err(|error| error.to_string())?;
    let field = |name: &str| {
        value
            .get(name)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let pods = match (field("apiVersion").as_str(), field("kind").as_str()) {
        ("v1", "PodList") => {
            List::<Pod>::deserialize(value)
                .map_err(|error| error.to_string())?
                .items
        }
        ("v1", "Pod") => vec![Pod::deserialize(value).map_err(|error| error.to_string())?],
        (version, kind) => {
            return Err(format!(
                "expected apiVersion v1 and kind Pod or PodList, found {version:?} and {kind:?}"
            ));
        }
    };
    pods.into_iter().map(|pod| apply_defaults(pod, path, node)).collect()
}

/// The fields that this kubelet applies, of a Pod, of a container and of a variable. An image is pulled if the runtime
/// does not have it, and `$(NAME)` is not expanded.
const POD_FIELDS: &[&str] = &[
    "containers",
    "ephemeralContainers",
    "hostNetwork",
    "initContainers",
    "nodeName",
    "restartPolicy",
    "terminationGracePeriodSeconds",
];
const CONTAINER_FIELDS: &[&str] = &[
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "name",
    "restartPolicy",
];
const VARIABLE_FIELDS: &[&str] = &["name", "value"];

/// Returns the fields of a Pod that have no effect.
fn ignored_fields(spec: &PodSpec) -> BTreeSet<String> {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let variables = containers().flat_map(|container| container.env.iter().flatten());
    let fields = |object: Value, known: &[&str]| -> Vec<String> {
        let fields = object.as_object().into_iter().flat_map(|object| object.keys());
        fields
            .filter(|field| !known.contains(&field.as_str()))
            .cloned()
            .collect()
    };
    let of_containers = containers().flat_map(|container| fields(json!(container), CONTAINER_FIELDS));
    let of_variables = variables.flat_map(|variable| fields(json!(variable), VARIABLE_FIELDS));
    let ignored = fields(json!(spec), POD_FIELDS).into_iter();
    ignored.chain(of_containers).chain(of_variables).collect()
}

/// Sets what the kubelet sets in a static Pod: uid, namespace, node, and the node name as suffix of the name.
fn apply_defaults(mut pod: Pod, path: &Path, node: &str) -> Result<Pod, String> {
    let name = pod
        .metadata
        .name
        .clone()
        .filter(|name| !name.is_empty())
        .ok_or("the Pod has no name")?;
    let spec = pod.spec.as_mut().ok_or("the Pod has no spec")?;
    validate(spec)?;
    let ignored = ignored_fields(spec);
    if !ignored.is_empty() {
        tracing::warn!(
            pod = name,
            ?ignored,
            "the manifest has fields that this kubelet does not support"
        );
    }
    spec.node_name = Some(node.to_owned());
    let hash = serde_json::to_vec(&pod).map_err(|error| error.to_string())?;
    let metadata = &mut pod.metadata;
    metadata.uid.get_or_insert_with(|| {
        let digest = Sha256::new()
            .chain_update(hash)
            .chain_update(node)
            .chain_update(path.as_os_str().as_encoded_bytes());
        hex::encode(&digest.finalize()[..16])
    });
    metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.to_owned(), metadata.uid.clone().unwrap_or_default());
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(
        "kubernetes.io/config.seen".to_owned(),
        jiff::Zoned::now().timestamp().to_string(),
    );
    Ok(pod)
}

fn validate(spec: &PodSpec) -> Result<(), String> {
    if spec.containers.is_empty() {
        return Err("the Pod has no containers".to_owned());
    }
    let mut names = BTreeSet::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if container.name.is_empty() || container.name.len() > 63 || !container.name.bytes().all(plain) {
            return Err(format!("invalid container name {:?}", container.name));
        }
        if !names.insert(&container.name) {
            return Err(format!("duplicate container name {:?}", container.name));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(format!("the container {:?} has no image", container.name));
        }
    }
    Ok(())
}

/// Returns the spec of a Pod. Manifests without a spec are rejected when they are read.
pub(super) fn pod_spec(pod: &Pod) -> &PodSpec {
    pod.spec
        .as_ref()
        .expect("a manifest without a spec is rejected when it is read")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn applies_the_kubelets_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let app =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: busybox}]}\n";
        std::fs::write(directory.path().join("web.yaml"), app).unwrap();
        std::fs::write(directory.path().join(".hidden.yaml"), app).unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        let (pods, errors) = load(directory.path(), "Node1");
        assert!(errors.is_empty(), "{errors:?}");
        let [pod] = &pods[..] else { panic!("{pods:?}") };
        let metadata = &pod.metadata;
        assert_eq!(metadata.name.as_deref(), Some("web-node1"));
        assert_eq!(metadata.namespace.as_deref(), Some("default"));
        let uid = metadata.uid.clone().unwrap();
        assert_eq!(
            (uid.len(), metadata.annotations.as_ref().unwrap()[CONFIG_HASH].clone()),
            (32, uid.clone())
        );
        assert_eq!(
            load(directory.path(), "Node1").0[0].metadata.uid,
            Some(uid.clone()),
            "the uid is stable"
        );

        std::fs::write(directory.path().join("web.yaml"), app.replace("busybox", "other")).unwrap();
        assert_ne!(
            load(directory.path(), "Node1").0[0].metadata.uid,
            Some(uid),
            "the uid depends on the content"
        );
    }

    #[test]
    fn reports_ignored_fields() {
        let spec: PodSpec = super::super::yaml(
            "{hostNetwork: true, volumes: [{name: v}], containers: [{name: a, image: b, tty: true, env: [\
             {name: X, value: y}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}]}",
        );
        assert_eq!(Vec::from_iter(ignored_fields(&spec)), ["tty", "valueFrom", "volumes"]);
    }

    #[rstest]
    #[case("not: a pod", "kind")]
    #[case(
        "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: [{name: a, image: b}]}",
        "no name"
    )]
    #[case(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}",
        "no containers"
    )]
    #[case(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: A, image: b}]}",
        "invalid container name"
    )]
    #[case(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a}]}",
        "no image"
    )]
    fn reports_invalid_manifests(#[case] text: &str, #[case] expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod.yaml");
        std::fs::write(&path, text).unwrap();
        let (pods, errors) = load(&path, "n");
        assert!(pods.is_empty());
        assert!(errors[0].to_string().contains(expected), "{}", errors[0]);
    }
}
