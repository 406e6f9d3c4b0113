//! TokenReview and SubjectAccessReview of the stub API server.

use serde_json::{Value, json};

/// A permission: the user may use this verb on this subresource of nodes. `*` matches any verb or subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The user name.
    pub user: String,
    /// The verb, such as `create`.
    pub verb: String,
    /// The subresource, such as `checkpoint`.
    pub subresource: String,
}

/// The known tokens and permissions.
#[derive(Clone, Debug, Default)]
pub struct AccessRules {
    /// Pairs of bearer token and user name.
    pub tokens: Vec<(String, String)>,
    /// What is not permitted here is denied.
    pub permissions: Vec<Permission>,
}

impl AccessRules {
    pub(super) fn review_token(&self, mut review: Value) -> Value {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let user = self
            .tokens
            .iter()
            .find(|(issued, _)| issued == token)
            .map(|(_, user)| user);
        let status = match user {
            Some(user) => json!({
                "authenticated": true,
                "user": { "username": user, "groups": ["system:authenticated"] },
            }),
            None => json!({ "authenticated": false, "error": "unknown token" }),
        };
        set_status(&mut review, "authentication.k8s.io/v1", "TokenReview", status);
        review
    }

    pub(super) fn review_access(&self, mut review: Value) -> Value {
        let spec = &review["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let attributes = &spec["resourceAttributes"];
        let allowed = attributes["resource"] == "nodes"
            && self.allows(
                &text(&spec["user"]),
                &text(&attributes["verb"]),
                &text(&attributes["subresource"]),
            );
        let status = json!({ "allowed": allowed });
        set_status(&mut review, "authorization.k8s.io/v1", "SubjectAccessReview", status);
        review
    }

    fn allows(&self, user: &str, verb: &str, subresource: &str) -> bool {
        let matches = |rule: &str, requested: &str| rule == "*" || rule == requested;
        self.permissions.iter().any(|permission| {
            permission.user == user && matches(&permission.verb, verb) && matches(&permission.subresource, subresource)
        })
    }
}

fn set_status(review: &mut Value, version: &str, kind: &str, status: Value) {
    if !review.is_object() {
        *review = json!({});
    }
    review["apiVersion"] = json!(version);
    review["kind"] = json!(kind);
    review["status"] = status;
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn sample_rules() -> AccessRules {
        let permission = |user: &str, verb: &str, subresource: &str| Permission {
            user: user.to_owned(),
            verb: verb.to_owned(),
            subresource: subresource.to_owned(),
        };
        AccessRules {
            tokens: vec![("t0k3n".to_owned(), "alice".to_owned())],
            permissions: vec![permission("alice", "*", "*"), permission("bob", "create", "proxy")],
        }
    }

    #[rstest]
    #[case("alice", "create", "nodes", "checkpoint", true)]
    #[case("bob", "create", "nodes", "proxy", true)]
    #[case("bob", "create", "nodes", "checkpoint", false)]
    #[case("bob", "get", "nodes", "proxy", false)]
    #[case("alice", "create", "secrets", "", false)]
    #[case("carol", "create", "nodes", "checkpoint", false)]
    fn reviews_access(
        #[case] user: &str,
        #[case] verb: &str,
        #[case] resource: &str,
        #[case] subresource: &str,
        #[case] allowed: bool,
    ) {
        let attributes = json!({ "verb": verb, "resource": resource, "subresource": subresource });
        let review =
            sample_rules().review_access(json!({ "spec": { "user": user, "resourceAttributes": attributes } }));
        assert_eq!(review["status"]["allowed"], allowed);
        assert_eq!(review["kind"], "SubjectAccessReview");
    }

    #[test]
    fn reviews_tokens_and_rejects_malformed_reviews() {
        let review = |token: &str| sample_rules().review_token(json!({ "spec": { "token": token } }));
        assert_eq!(review("t0k3n")["status"]["user"]["username"], "alice");
        assert_eq!(review("other")["status"]["authenticated"], false);
        assert_eq!(sample_rules().review_token(json!(7))["status"]["authenticated"], false);
        assert_eq!(sample_rules().review_access(json!([]))["status"]["allowed"], false);
    }
}
