//! Who may do what: `USER VERB RESOURCE`.

use std::path::Path;

use http::Method;

use super::authentication::User;
use super::{Authorization, Config, Mutant, StartError};

/// The rules, or none: then everything is allowed.
#[derive(Debug)]
pub(super) struct Authorizer {
    rules: Option<Vec<Rule>>,
    /// A mutant's: who may go through the proxy may everything.
    proxy_suffices: bool,
}

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    user: String,
    verb: String,
    resource: String,
}

/// What a request would do, as the API server is asked it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) verb: &'static str,
    subresources: Vec<&'static str>,
}

impl Attributes {
    /// By method and decoded path.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let below = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let subresources = if below("/checkpoint") {
            vec!["checkpoint"]
        } else if below("/metrics") {
            vec!["metrics"]
        } else if below("/pods") {
            vec!["pods", "proxy"]
        } else if below("/healthz") {
            vec!["healthz", "proxy"]
        } else {
            vec!["proxy"]
        };
        Self { verb, subresources }
    }

    /// The body of 403.
    pub(super) fn forbidden(&self, user: &User) -> String {
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
            Authorization::Rules(path) if !config.is(Mutant::AuthorizationIgnored) => Some(read(path)?),
            Authorization::Rules(_) | Authorization::AlwaysAllow => None,
        };
        Ok(Self {
            rules,
            proxy_suffices: config.is(Mutant::ProxyRightSuffices),
        })
    }

    /// Whether some rule allows it; of several subresources one suffices.
    pub(super) fn allows(&self, user: &User, attributes: &Attributes) -> bool {
        let Some(rules) = &self.rules else { return true };
        let resource = |rule: &Rule, sub: &str| rule.resource == "*" || rule.resource == format!("nodes/{sub}");
        rules.iter().any(|rule| {
            rule.names(user)
                && (rule.verb == "*" || rule.verb == attributes.verb)
                && (attributes.subresources.iter().any(|sub| resource(rule, sub))
                    || self.proxy_suffices && resource(rule, "proxy"))
        })
    }
}

impl Rule {
    fn names(&self, user: &User) -> bool {
        match self.user.strip_prefix("group:") {
            Some(group) => user.groups.iter().any(|known| known == group),
            None => self.user == "*" || self.user == user.name,
        }
    }
}

fn read(path: &Path) -> Result<Vec<Rule>, StartError> {
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
            let reason = format!("line {}: a rule is USER VERB RESOURCE", number + 1);
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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        std::fs::write(&path, text).unwrap();
        Ok(Authorizer {
            rules: Some(read(&path)?),
            proxy_suffices: false,
        })
    }

    #[test]
    fn allows_what_a_rule_names() {
        let rules =
            authorizer("# who may\nalice create nodes/checkpoint\ngroup:ops * *\n* get nodes/healthz\n").unwrap();
        let user = |name: &str, group: &str| User {
            name: name.into(),
            groups: vec![group.into()],
        };
        let checkpoint = Attributes::of(&Method::POST, "/checkpoint/a/b/c");
        assert!(rules.allows(&user("alice", ""), &checkpoint));
        assert!(rules.allows(&user("bob", "ops"), &checkpoint));
        assert!(!rules.allows(&user("bob", ""), &checkpoint));
        assert!(!rules.allows(&user("alice", ""), &Attributes::of(&Method::GET, "/checkpoint/a/b/c")));
        assert!(rules.allows(&user("bob", ""), &Attributes::of(&Method::GET, "/healthz")));
        assert!(!rules.allows(&user("bob", ""), &Attributes::of(&Method::GET, "/healthzz")));
    }

    #[test]
    fn words_the_refusal_as_a_kubelet() {
        let user = User {
            name: "bob".into(),
            groups: vec![],
        };
        let text = |method: Method, path: &str| Attributes::of(&method, path).forbidden(&user);
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
        assert!(error.ends_with("line 1: a rule is USER VERB RESOURCE"), "{error}");
    }
}
