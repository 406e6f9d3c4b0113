//! Authorization by rules of the form `USER VERB RESOURCE`.

use std::path::Path;

use http::Method;

use super::authentication::UserInfo;
use super::{Authorization, Config, StartError};

/// Decides by the rules; without rules everything is allowed.
#[derive(Debug)]
pub(crate) struct Authorizer {
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    user: String,
    verb: String,
    resource: String,
}

/// The attributes of a request, as the kubelet sends them in a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: &'static str,
    pub(crate) subresources: Vec<&'static str>,
}

impl Attributes {
    /// Determines the attributes from the method and the decoded path.
    pub(super) fn from_request(method: &Method, path: &str) -> Self {
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let is_below = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let subresources = if is_below("/checkpoint") {
            vec!["checkpoint"]
        } else if is_below("/metrics") {
            vec!["metrics"]
        } else if is_below("/pods") {
            vec!["pods", "proxy"]
        } else if is_below("/healthz") {
            vec!["healthz", "proxy"]
        } else {
            vec!["proxy"]
        };
        Self { verb, subresources }
    }

    pub(super) fn forbidden_body(&self, user: &UserInfo) -> String {
        let subresources = self.subresources.join(" ");
        format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{subresources}])\n",
            user.name, self.verb
        )
    }
}

impl Authorizer {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let rules = match &config.authorization {
            Authorization::Rules(path) => Some(read_rules(path)?),
            Authorization::AlwaysAllow => None,
        };
        Ok(Self { rules })
    }

    /// Whether a rule allows the request. Permission for one of several subresources suffices.
    pub(crate) fn allows(&self, user: &UserInfo, attributes: &Attributes) -> bool {
        let Some(rules) = &self.rules else { return true };
        let resource = |rule: &Rule, sub: &str| rule.resource == "*" || rule.resource == format!("nodes/{sub}");
        rules.iter().any(|rule| {
            rule.matches_user(user)
                && (rule.verb == "*" || rule.verb == attributes.verb)
                && attributes.subresources.iter().any(|sub| resource(rule, sub))
        })
    }
}

impl Rule {
    fn matches_user(&self, user: &UserInfo) -> bool {
        match self.user.strip_prefix("group:") {
            Some(group) => user.groups.iter().any(|member| member == group),
            None => self.user == "*" || self.user == user.name,
        }
    }
}

fn read_rules(path: &Path) -> Result<Vec<Rule>, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut rules = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [user, verb, resource] = words[..] else {
            let reason = format!("line {}: expected USER VERB RESOURCE", number + 1);
            return Err(StartError::Content {
                path: path.to_owned(),
                reason,
            });
        };
        rules.push(Rule {
            user: user.to_owned(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
        });
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizer(text: &str) -> Result<Authorizer, StartError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        std::fs::write(&path, text).unwrap();
        Ok(Authorizer {
            rules: Some(read_rules(&path)?),
        })
    }

    #[test]
    fn allows_what_a_rule_names() {
        let rules = authorizer("# rules\nalice create nodes/checkpoint\ngroup:ops * *\n* get nodes/healthz\n").unwrap();
        let user = |name: &str, group: &str| UserInfo {
            name: name.into(),
            groups: vec![group.into()],
        };
        let checkpoint = Attributes::from_request(&Method::POST, "/checkpoint/a/b/c");
        assert!(rules.allows(&user("alice", ""), &checkpoint));
        assert!(rules.allows(&user("bob", "ops"), &checkpoint));
        assert!(!rules.allows(&user("bob", ""), &checkpoint));
        assert!(!rules.allows(
            &user("alice", ""),
            &Attributes::from_request(&Method::GET, "/checkpoint/a/b/c")
        ));
        assert!(rules.allows(&user("bob", ""), &Attributes::from_request(&Method::GET, "/healthz")));
        assert!(!rules.allows(&user("bob", ""), &Attributes::from_request(&Method::GET, "/healthzz")));
    }

    #[test]
    fn words_the_403_like_the_kubelet() {
        let user = UserInfo {
            name: "bob".into(),
            groups: vec![],
        };
        let text = |method: Method, path: &str| Attributes::from_request(&method, path).forbidden_body(&user);
        assert_eq!(
            text(Method::POST, "/checkpoint/a/b/c"),
            "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[checkpoint])\n"
        );
        assert_eq!(
            text(Method::GET, "/pods"),
            "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
        );
    }

    #[test]
    fn a_malformed_rule_names_its_line() {
        let error = authorizer("alice create\n").unwrap_err().to_string();
        assert!(error.ends_with("line 1: expected USER VERB RESOURCE"), "{error}");
    }
}
