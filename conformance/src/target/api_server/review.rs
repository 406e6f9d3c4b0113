//! Who bears a token, and who may do what to a node.

use serde_json::{Value, json};

/// One right: a user may do this verb to this subresource of nodes; `*` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The user.
    pub user: String,
    /// The verb, as `create`.
    pub verb: String,
    /// The subresource, as `checkpoint`.
    pub subresource: String,
}

/// The people that are known: by token, and by what they may.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// Bearer tokens with their users.
    pub tokens: Vec<(String, String)>,
    /// What no right allows is denied.
    pub rights: Vec<Right>,
}

impl Rights {
    /// A TokenReview with its status filled in.
    pub(super) fn review_token(&self, mut review: Value) -> Value {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let user = self
            .tokens
            .iter()
            .find(|(known, _)| known == token)
            .map(|(_, user)| user);
        let status = match user {
            Some(user) => json!({
                "authenticated": true,
                "user": { "username": user, "groups": ["system:authenticated"] },
            }),
            None => json!({ "authenticated": false, "error": "nobody issued this token" }),
        };
        complete(&mut review, "authentication.k8s.io/v1", "TokenReview", status);
        review
    }

    /// A SubjectAccessReview with its status filled in.
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
        complete(&mut review, "authorization.k8s.io/v1", "SubjectAccessReview", status);
        review
    }

    fn allows(&self, user: &str, verb: &str, subresource: &str) -> bool {
        let is = |rule: &str, seen: &str| rule == "*" || rule == seen;
        self.rights
            .iter()
            .any(|right| right.user == user && is(&right.verb, verb) && is(&right.subresource, subresource))
    }
}

fn complete(review: &mut Value, version: &str, kind: &str, status: Value) {
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

    fn rights() -> Rights {
        let right = |user: &str, verb: &str, subresource: &str| Right {
            user: user.to_owned(),
            verb: verb.to_owned(),
            subresource: subresource.to_owned(),
        };
        Rights {
            tokens: vec![("t0k3n".to_owned(), "alice".to_owned())],
            rights: vec![right("alice", "*", "*"), right("bob", "create", "proxy")],
        }
    }

    #[rstest]
    #[case("alice", "create", "nodes", "checkpoint", true)]
    #[case("bob", "create", "nodes", "proxy", true)]
    #[case("bob", "create", "nodes", "checkpoint", false)]
    #[case("bob", "get", "nodes", "proxy", false)]
    #[case("alice", "create", "secrets", "", false)]
    #[case("carol", "create", "nodes", "checkpoint", false)]
    fn access_is_reviewed(
        #[case] user: &str,
        #[case] verb: &str,
        #[case] resource: &str,
        #[case] subresource: &str,
        #[case] allowed: bool,
    ) {
        let attributes = json!({ "verb": verb, "resource": resource, "subresource": subresource });
        let review = rights().review_access(json!({ "spec": { "user": user, "resourceAttributes": attributes } }));
        assert_eq!(review["status"]["allowed"], allowed);
        assert_eq!(review["kind"], "SubjectAccessReview");
    }

    #[test]
    fn tokens_are_reviewed_and_no_review_is_no_panic() {
        let review = |token: &str| rights().review_token(json!({ "spec": { "token": token } }));
        assert_eq!(review("t0k3n")["status"]["user"]["username"], "alice");
        assert_eq!(review("other")["status"]["authenticated"], false);
        assert_eq!(rights().review_token(json!(7))["status"]["authenticated"], false);
        assert_eq!(rights().review_access(json!([]))["status"]["allowed"], false);
    }
}
