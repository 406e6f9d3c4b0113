//! A container's environment, and the `$(NAME)` in its words.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The variables in their order. A static Pod can name no ConfigMap and no Secret; of fields it can name its own.
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
            None => tracing::warn!(variable = variable.name, "left out: its source is not known here"),
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

/// Replaces each `$(NAME)` of a known variable; `$$` stands for one `$`, and what is unknown stays as it is.
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
                // The last one of a name counts.
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
