//! The user and groups of a container: what config and image request, and what fake-cri has the privilege to apply.
//!
//! The rules are those of the CRI (`LinuxContainerSecurityContext`) as containerd applies them. A group without a user
//! is an error. A user name must exist in `/etc/passwd` (the host's, because containers use the host's files). The
//! primary group is the user's group in `/etc/passwd`, or 0. The user's groups in `/etc/group` are added, unless the
//! policy is Strict. The primary group is also a supplementary group (CVE-2022-36109).
//!
//! CreateContainer fails with FailedPrecondition if the requested user or groups cannot be applied: the request is
//! valid, and a fake-cri with more privileges accepts it. With `--allow-unapplied-fields` the container runs as
//! fake-cri's own user, and log and ContainerStatus show that. A user that only the image names never fails the call.

use cri_proto::runtime::v1;

use super::{RuntimeError, image::Image};
use crate::process::identity::Identity;

pub(crate) struct HostAccounts {
    passwd: String,
    group: String,
}

/// An entry of `/etc/passwd` (passwd(5)).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl HostAccounts {
    /// Reads the files of the host. A missing file counts as empty.
    pub(crate) fn read_host() -> HostAccounts {
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        let text = |path: &str| String::from_utf8_lossy(&read(path)).into_owned();
        HostAccounts {
            passwd: text("/etc/passwd"),
            group: text("/etc/group"),
        }
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(Account {
                name,
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }

    /// Name, gid and members of each group (group(5)).
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    fn uid(&self, user: &str) -> Option<u32> {
        user.parse()
            .ok()
            .or_else(|| self.accounts().find(|account| account.name == user).map(|it| it.uid))
    }

    fn gid(&self, group: &str) -> Option<u32> {
        let find_group = || self.groups().find(|(name, ..)| *name == group);
        group.parse().ok().or_else(|| find_group().map(|(_, gid, _)| gid))
    }

    fn groups_of(&self, uid: u32) -> Vec<u32> {
        let Some(account) = self.accounts().find(|account| account.uid == uid) else {
            return Vec::new();
        };
        let is_member = |members: &str| members.split(',').any(|member| member == account.name);
        self.groups()
            .filter(|(_, _, members)| is_member(members))
            .map(|(_, gid, _)| gid)
            .collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct RequestedIdentity {
    identity: Identity,
    uid_source: IdSource,
    gid_source: IdSource,
    /// The supplementary groups in the request, without those of `/etc/group`.
    requested_groups: Vec<u32>,
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdSource {
    Unrequested,
    Image,
    Request,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EffectiveIdentity {
    pub(crate) identity: Identity,
    /// One message for each requested part that is not applied.
    pub(crate) unapplied: Vec<String>,
}

/// Decides the user and groups of a container.
///
/// # Errors
///
/// `InvalidArgument` for a contradictory request or an unknown user; `FailedPrecondition` if fake-cri lacks the
/// privilege, unless `accept` is set.
pub(crate) fn resolve_identity(
    config: &v1::ContainerConfig,
    image: &Image,
    accept: bool,
) -> Result<EffectiveIdentity, RuntimeError> {
    let failed =
        |error: std::io::Error| RuntimeError::Internal(format!("failed to read fake-cri's own identity: {error}"));
    let runtime_user = Identity::current().map_err(failed)?;
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let context = context.cloned().unwrap_or_default();
    let request = requested_identity(&context, image, &runtime_user, &HostAccounts::read_host())?;
    let obstacle = request.identity.obstacle().map_err(failed)?;
    apply_obstacle(request, &runtime_user, obstacle, accept)
}

/// Whether the request sets a user, groups or `no_new_privs`.
pub(crate) fn is_requested(config: &v1::ContainerConfig) -> bool {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.is_some_and(|context| {
        context.run_as_user.is_some()
            || !context.run_as_username.is_empty()
            || !context.supplemental_groups.is_empty()
            || context.no_new_privs
    })
}

/// Validates the user and groups in a sandbox config. They have no effect, because a sandbox has no process.
///
/// # Errors
///
/// `InvalidArgument` for a group without a user (the CRI requires a user) and for an id out of range.
pub(crate) fn check_sandbox(config: &v1::PodSandboxConfig) -> Result<(), RuntimeError> {
    let Some(context) = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) else {
        return Ok(());
    };
    let uid = optional_id(context.run_as_user.as_ref(), "run_as_user")?;
    let group = optional_id(context.run_as_group.as_ref(), "run_as_group")?;
    group_ids(&context.supplemental_groups)?;
    is_strict_policy(context.supplemental_groups_policy)?;
    check_group_has_user(uid.is_some(), group)
}

fn requested_identity(
    context: &v1::LinuxContainerSecurityContext,
    image: &Image,
    runtime_user: &Identity,
    accounts: &HostAccounts,
) -> Result<RequestedIdentity, RuntimeError> {
    let (user, name) = (
        optional_id(context.run_as_user.as_ref(), "run_as_user")?,
        context.run_as_username.as_str(),
    );
    let group = optional_id(context.run_as_group.as_ref(), "run_as_group")?;
    let extra_groups = group_ids(&context.supplemental_groups)?;
    let strict = is_strict_policy(context.supplemental_groups_policy)?;
    if user.is_some() && !name.is_empty() {
        return Err(RuntimeError::InvalidArgument(format!(
            "run_as_user {} and run_as_username {name:?} are both set: set only one of them",
            user.unwrap_or_default()
        )));
    }
    check_group_has_user(user.is_some() || !name.is_empty(), group)?;
    let requested_uid = match (user, name) {
        (Some(uid), _) => Some(uid),
        (None, "") => None,
        (None, name) => Some(accounts.uid(name).ok_or_else(|| {
            RuntimeError::InvalidArgument(format!(
                "run_as_username {name:?}: unable to find user {name}: no matching entries in passwd file"
            ))
        })?),
    };
    let (image_user, image_group) = image.user.split_once(':').unwrap_or((&image.user, ""));
    let (uid, uid_source) = match requested_uid {
        Some(uid) => (uid, IdSource::Request),
        None => match accounts.uid(image_user) {
            Some(uid) => (uid, IdSource::Image),
            None => (runtime_user.uid, IdSource::Unrequested),
        },
    };
    let image_gid = (uid_source == IdSource::Image)
        .then(|| accounts.gid(image_group))
        .flatten();
    let (gid, gid_source) = match (group, image_gid, uid_source) {
        (Some(gid), ..) => (gid, IdSource::Request),
        (None, Some(gid), _) => (gid, IdSource::Image),
        (None, None, IdSource::Unrequested) => (runtime_user.gid, IdSource::Unrequested),
        (None, None, _) => {
            let account = accounts.accounts().find(|account| account.uid == uid);
            (account.map_or(0, |account| account.gid), IdSource::Unrequested)
        }
    };
    let mut groups = vec![gid];
    if uid_source == IdSource::Unrequested && extra_groups.is_empty() && !strict {
        groups = runtime_user.groups.clone();
    } else {
        let account_groups = if strict { Vec::new() } else { accounts.groups_of(uid) };
        for group in account_groups.into_iter().chain(extra_groups.iter().copied()) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    Ok(RequestedIdentity {
        identity: Identity {
            uid,
            gid,
            groups,
            no_new_privs: context.no_new_privs || runtime_user.no_new_privs,
        },
        uid_source,
        gid_source,
        requested_groups: extra_groups,
        strict,
    })
}

/// Returns the requested identity if there is no obstacle. Otherwise refuses the request, or falls back to fake-cri's
/// own user and lists what is not applied.
fn apply_obstacle(
    request: RequestedIdentity,
    runtime_user: &Identity,
    obstacle: Option<String>,
    accept: bool,
) -> Result<EffectiveIdentity, RuntimeError> {
    let Some(obstacle) = obstacle else {
        return Ok(EffectiveIdentity {
            identity: request.identity,
            unapplied: Vec::new(),
        });
    };
    let identity = Identity {
        no_new_privs: request.identity.no_new_privs,
        ..runtime_user.clone()
    };
    let Identity { uid, gid, .. } = request.identity;
    let (mut requested, mut from_image) = (Vec::new(), Vec::new());
    let mut add_difference = |source: IdSource, field: &str, value: String| match source {
        IdSource::Unrequested => {}
        IdSource::Image => from_image.push(format!("the image's user {value}")),
        IdSource::Request => requested.push(format!("{field} {value}")),
    };
    if uid != runtime_user.uid {
        add_difference(request.uid_source, "run_as_user", uid.to_string());
    }
    if gid != runtime_user.gid {
        add_difference(request.gid_source, "run_as_group", gid.to_string());
    }
    let missing_groups: Vec<u32> = request
        .requested_groups
        .iter()
        .copied()
        .filter(|group| !runtime_user.groups.contains(group) && *group != runtime_user.gid)
        .collect();
    if !missing_groups.is_empty() {
        add_difference(IdSource::Request, "supplemental_groups", format!("{missing_groups:?}"));
    }
    let has_extra_groups = runtime_user
        .groups
        .iter()
        .any(|group| *group != runtime_user.gid && !request.requested_groups.contains(group));
    if request.strict && has_extra_groups {
        add_difference(IdSource::Request, "supplemental_groups_policy", "Strict".to_owned());
    }
    if !requested.is_empty() && !accept {
        return Err(RuntimeError::FailedPrecondition(format!(
            "{} cannot be applied: {obstacle}; run fake-cri as root, or start it with --allow-unapplied-fields to run such containers as \
             fake-cri's own user",
            requested.join(", ")
        )));
    }
    let unapplied = requested.into_iter().chain(from_image);
    Ok(EffectiveIdentity {
        identity,
        unapplied: unapplied
            .map(|difference| format!("{difference} is not applied: {obstacle}"))
            .collect(),
    })
}

fn check_group_has_user(user: bool, group: Option<u32>) -> Result<(), RuntimeError> {
    match group {
        Some(group) if !user => Err(RuntimeError::InvalidArgument(format!(
            "run_as_group {group}: runAsGroup is specified without a runAsUser"
        ))),
        _ => Ok(()),
    }
}

/// Checks a uid or gid: 32 bits, where 0xffffffff is not an id but means "no change" (setresuid(2)).
fn kernel_id(value: i64, field: &str) -> Result<u32, RuntimeError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| RuntimeError::InvalidArgument(format!("{field} {value} is not an id: 0 to {}", u32::MAX - 1)))
}

fn optional_id(value: Option<&v1::Int64Value>, field: &str) -> Result<Option<u32>, RuntimeError> {
    value.map(|value| kernel_id(value.value, field)).transpose()
}

fn group_ids(values: &[i64]) -> Result<Vec<u32>, RuntimeError> {
    values
        .iter()
        .map(|value| kernel_id(*value, "supplemental_groups"))
        .collect()
}

fn is_strict_policy(value: i32) -> Result<bool, RuntimeError> {
    match v1::SupplementalGroupsPolicy::try_from(value) {
        Ok(policy) => Ok(policy == v1::SupplementalGroupsPolicy::Strict),
        Err(_) => Err(RuntimeError::InvalidArgument(format!(
            "supplemental_groups_policy {value} is unknown"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn accounts() -> HostAccounts {
        HostAccounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nalice:x:1001:1002::/home/alice:/bin/sh\nbroken\n".to_owned(),
            group: "root:x:0:\nalice:x:1002:\nusers:x:100:bob,alice\nwheel:x:10:alice\n".to_owned(),
        }
    }

    fn test_identity(uid: u32) -> Identity {
        Identity {
            uid,
            gid: uid,
            groups: vec![uid, 27],
            no_new_privs: false,
        }
    }

    fn user(user: i64) -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value: user }),
            ..Default::default()
        }
    }

    fn image(user: &str) -> Image {
        Image {
            user: user.to_owned(),
            ..Image::default()
        }
    }

    #[rstest]
    #[case::number(user(1001), "", 1001, 1002, &[1002, 100, 10])]
    #[case::unknown_number(user(5000), "", 5000, 0, &[0])]
    #[case::name(v1::LinuxContainerSecurityContext { run_as_username: "alice".into(), ..Default::default() }, "", 1001, 1002, &[1002, 100, 10])]
    #[case::group(v1::LinuxContainerSecurityContext { run_as_group: Some(v1::Int64Value { value: 7 }), ..user(1001) }, "", 1001, 7, &[7, 100, 10])]
    #[case::more_groups(v1::LinuxContainerSecurityContext { supplemental_groups: vec![1234, 10], ..user(1001) }, "", 1001, 1002, &[1002, 100, 10, 1234])]
    #[case::strict(v1::LinuxContainerSecurityContext { supplemental_groups: vec![1234], supplemental_groups_policy: 1, ..user(1001) }, "", 1001, 1002, &[1002, 1234])]
    #[case::image(Default::default(), "alice:users", 1001, 100, &[100, 10])]
    #[case::image_numbers(Default::default(), "65535:65534", 65535, 65534, &[65534])]
    #[case::request_over_image(user(0), "alice:users", 0, 0, &[0])]
    #[case::no_request(Default::default(), "", 50, 50, &[50, 27])]
    #[case::unknown_image_user(Default::default(), "nosuch", 50, 50, &[50, 27])]
    fn resolves_the_requested_identity(
        #[case] context: v1::LinuxContainerSecurityContext,
        #[case] from_image: &str,
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] groups: &[u32],
    ) {
        let request = requested_identity(&context, &image(from_image), &test_identity(50), &accounts()).unwrap();
        let Identity {
            uid: u,
            gid: g,
            groups: gs,
            ..
        } = request.identity;
        assert_eq!((u, g, gs.as_slice()), (uid, gid, groups));
    }

    #[rstest]
    #[case(v1::LinuxContainerSecurityContext { run_as_group: Some(v1::Int64Value { value: 7 }), ..Default::default() }, "runAsGroup is specified without a runAsUser")]
    #[case(v1::LinuxContainerSecurityContext { run_as_username: "alice".into(), ..user(1) }, "both set")]
    #[case(v1::LinuxContainerSecurityContext { run_as_username: "nosuch".into(), ..Default::default() }, "unable to find user nosuch")]
    #[case(user(-1), "run_as_user -1 is not an id")]
    #[case(user(i64::from(u32::MAX)), "is not an id")]
    #[case(v1::LinuxContainerSecurityContext { supplemental_groups: vec![1 << 40], ..user(1) }, "supplemental_groups 1099511627776")]
    #[case(v1::LinuxContainerSecurityContext { supplemental_groups_policy: 9, ..user(1) }, "supplemental_groups_policy 9")]
    fn invalid_identities_are_refused(#[case] context: v1::LinuxContainerSecurityContext, #[case] expected: &str) {
        let error = requested_identity(&context, &image("alice"), &test_identity(50), &accounts()).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::InvalidArgument(message) if message.contains(expected)),
            "{error}"
        );
    }

    #[test]
    fn an_unapplied_identity_is_refused_or_reported() {
        let context = v1::LinuxContainerSecurityContext {
            supplemental_groups: vec![27, 1234],
            no_new_privs: true,
            ..user(1001)
        };
        let resolve = |accept| {
            let request = requested_identity(&context, &image(""), &test_identity(50), &accounts()).unwrap();
            apply_obstacle(request, &test_identity(50), Some("no capability".to_owned()), accept)
        };
        let refused = resolve(false).unwrap_err().to_string();
        assert!(refused.starts_with("run_as_user 1001, supplemental_groups [1234] cannot be applied: no capability"));
        assert!(refused.contains("--allow-unapplied-fields"), "{refused}");
        let accepted = resolve(true).unwrap();
        assert_eq!(
            accepted.identity,
            Identity {
                no_new_privs: true,
                ..test_identity(50)
            }
        );
        assert_eq!(accepted.unapplied.len(), 2);
    }

    #[test]
    fn unprivileged_default_and_image_users_are_accepted() {
        let obstacle = || Some("no capability".to_owned());
        let resolve = |context: v1::LinuxContainerSecurityContext, from_image: &str| {
            requested_identity(&context, &image(from_image), &test_identity(50), &accounts()).unwrap()
        };
        let decision = apply_obstacle(resolve(user(50), ""), &test_identity(50), obstacle(), false).unwrap();
        assert_eq!((decision.identity, decision.unapplied.len()), (test_identity(50), 0));
        let decision = apply_obstacle(
            resolve(Default::default(), "alice"),
            &test_identity(50),
            obstacle(),
            false,
        )
        .unwrap();
        assert_eq!(decision.identity, test_identity(50));
        assert_eq!(
            decision.unapplied,
            ["the image's user 1001 is not applied: no capability"]
        );
    }
}
