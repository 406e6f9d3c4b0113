//! The environment of a container, and the expansion of `$(NAME)`.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Returns the variables in order. Static Pods cannot refer to ConfigMaps and Secrets, only to fields of the Pod.
pub(super) fn variables_of(pod: &Pod, container: &Container) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match &variable.value {
            Some(value) => Some(expand(value, &variables)),
            None => {
                let field = variable
                    .value_from
                    .as_ref()
                    .and_then(|source| source.field_ref.as_ref());
                match field {
                    Some(field) => self::field(pod, &field.field_path),
                    None => Some(String::new()),
                }
            }
        };
        match value {
            Some(value) => variables.push((variable.name.clone(), value)),
            None => tracing::warn!(variable = variable.name, "skipped a variable: unsupported source"),
        }
    }
    variables
}

fn field(pod: &Pod, path: &str) -> Option<String> {
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => pod.spec.as_ref()?.node_name.clone(),
        _ => None,
    }
}

/// Replaces `$(NAME)` with the value of the variable and `$$` with `$`. References to unknown variables stay.
pub(super) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(offset) = rest.find('$') {
        expanded.push_str(&rest[..offset]);
        rest = &rest[offset + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        match name {
            Some((name, tail)) => {
                // The last variable of a name takes effect.
                match variables.iter().rev().find(|(variable, _)| variable == name) {
                    Some((_, value)) => expanded.push_str(value),
                    None => expanded.push_str(&format!("$({name})")),
                }
                rest = tail;
            }
            None => expanded.push('$'),
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("plain", "plain")]
    #[case("$(A)-$(B)", "1-$(B)")]
    #[case("$$(A)", "$(A)")]
    #[case("$A $( $", "$A $( $")]
    fn expands(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(
            expand(text, &[("A".into(), "0".into()), ("A".into(), "1".into())]),
            expected
        );
    }

    #[test]
    fn resolves_pod_fields() {
        let pod: Pod = super::super::yaml(
            "{apiVersion: v1, kind: Pod, metadata: {name: p, uid: u}, spec: {nodeName: n, containers: [{name: a, env: [\
             {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: IP, valueFrom: {fieldRef: \
             {fieldPath: status.podIP}}}, {name: BOTH, value: $(NAME)-$(X)}]}]}}",
        );
        let variables = variables_of(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(
            variables,
            [
                ("NAME".to_owned(), "p".to_owned()),
                ("BOTH".to_owned(), "p-$(X)".to_owned())
            ]
        );
    }
}
