//! The mutants of the kubelet suite: the reference kubelet with one part replaced, and a correct kubelet over a faulty
//! runtime.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri_proto::runtime::v1::{CheckpointContainerRequest, StopContainerRequest};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use jiff::Zoned;
use tonic::Code;

mod credentials;
mod effects;
mod near_misses;

use super::{Defect, Mutant};
use crate::engine::Suite;
use crate::reference_kubelet::{
    Authorization, Config,
    authentication::{CredentialCheck, UserInfo},
    authorization::Attributes,
    checkpoint::{
        CheckpointError, archive_location, call_runtime, container_not_found, error_response, find_container, find_pod,
        rfc3339, success_response,
        timeout::{self, field_and_deadline},
    },
    create_checkpoints_dir,
    pod_store::ContainerRuns,
    responses::{FullResponse, Rejection, TEXT_PLAIN, json, method_not_allowed, reject, with_sniffed_type, with_type},
    route::{PathNames, ServedRoutes, canonical, check_method, decode, page_not_found, path_names, query_values},
    runtime_connection::{CriError, RuntimeConnection},
    server::Handlers,
};

/// A mutant of the reference kubelet, still without a defect.
struct Unfinished {
    name: &'static str,
    summary: &'static str,
}

const fn kubelet(name: &'static str) -> Unfinished {
    Unfinished { name, summary: "" }
}

impl Unfinished {
    const fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    const fn defect(self, apply: fn(&mut Config)) -> Mutant {
        let Self { name, summary } = self;
        Mutant {
            suite: Suite::Kubelet,
            name,
            defect: Defect::Kubelet { summary, apply },
            must_fail: &[],
        }
    }
}

/// The defect that replaces one part of the kubelet's behavior.
macro_rules! replace {
    ($part:ident, $value:expr) => {
        |config| config.behavior.$part = $value
    };
}
use replace;

/// The reference kubelet over a fake-cri with this preset.
const fn faulty_runtime(name: &'static str, must_fail: &'static [&'static str]) -> Mutant {
    Mutant::preset(Suite::Kubelet, name, must_fail)
}

const GATE_OFF_MESSAGE: &str = "the feature gate ContainerCheckpoint is off";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All mutants, by topic.
pub(super) const MUTANTS: [&[Mutant]; 4] = [GENERAL, credentials::MUTANTS, near_misses::MUTANTS, effects::MUTANTS];

const GENERAL: &[Mutant] = &[
    // Lookup.
    // A namespace that does not exist has no Pod either.
    kubelet("pod-unknown-200")
        .summary("returns 200 for an unknown Pod")
        .defect(replace!(find_pod, |pods, names| find_pod(pods, names).map_err(|_| success())))
        .must_fail(&[
            "kubelet/lookup/pod-unknown",
            "kubelet/lookup/namespace-unknown",
            "kubelet/lookup/static-pod-full-name",
            "kubelet/lookup/invalid-names",
        ]),
    kubelet("container-unknown-500")
        .summary("returns 500 for an unknown container")
        .defect(replace!(find_container, |pods, pod, names| {
            find_container(pods, pod, names)
                .map_err(|response| with_status(response, StatusCode::INTERNAL_SERVER_ERROR))
        }))
        .must_fail(&[
            "kubelet/lookup/container-unknown",
            "kubelet/lookup/overlong-name",
            "kubelet/lookup/invalid-names",
        ]),
    kubelet("namespace-ignored")
        .summary("finds a Pod in any namespace")
        .defect(replace!(find_pod, |pods, names| {
            let in_any = || pods.find_where(|pod| pod.name == names[1]);
            find_pod(pods, names).or_else(|response| in_any().ok_or(response))
        }))
        .must_fail(&["kubelet/lookup/namespace-unknown", "kubelet/lookup/exact-names"]),
    kubelet("container-name-ignored")
        .summary("checkpoints the first container of the Pod for any container name")
        .defect(replace!(find_container, |_, pod, _| Ok(pod.containers[0].clone())))
        .must_fail(&[
            "kubelet/checkpoint/named-container-only",
            "kubelet/lookup/container-unknown",
            "kubelet/lookup/overlong-name",
            "kubelet/lookup/invalid-names",
            "kubelet/container-state/created-rejected",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
            "kubelet/concurrency/other-container",
            "kubelet/metrics/accepted-requests-only",
        ]),
    kubelet("exited-200")
        .summary("returns 200 for an exited container")
        .defect(replace!(error_response, |names, error| match error {
            CheckpointError::NotRunning(_) => *success(),
            _ => error_response(names, error),
        }))
        .must_fail(&[
            "kubelet/container-state/created-rejected",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
        ]),
    // Feature gate.
    kubelet("feature-gate-ignored")
        .summary("serves the route with the feature gate off")
        .defect(|config| config.container_checkpoint = Some(true))
        .must_fail(&[
            "kubelet/feature-gate/disabled",
            "kubelet/checkpoints-dir/absent-with-gate-disabled",
        ]),
    kubelet("feature-gate-disabled-500")
        .summary("returns 500 with the feature gate off")
        .defect(replace!(edit_response, |handlers, request, response| {
            if without_gate(handlers, request) {
                return with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, GATE_OFF_MESSAGE);
            }
            response
        }))
        .must_fail(&["kubelet/feature-gate/disabled"]),
    // Authentication and authorization.
    kubelet("anonymous-accepted")
        .summary("accepts requests without credentials")
        .defect(|config| config.anonymous = true)
        .must_fail(&[
            "kubelet/authentication/credentials-required",
            "kubelet/authentication/non-bearer-scheme-rejected",
        ]),
    kubelet("untrusted-credentials-accepted")
        .summary("accepts credentials of any issuer")
        .defect(replace!(authenticate, |authentication, request| {
            let is_invalid = |check: &CredentialCheck| matches!(check, CredentialCheck::Invalid);
            let invalid = authentication.check(request).iter().any(is_invalid);
            authentication.user(request).or_else(|| invalid.then(any_user))
        }))
        .must_fail(&[
            "kubelet/authentication/unknown-token-rejected",
            "kubelet/authentication/untrusted-certificate-rejected",
            "kubelet/authentication/expired-certificate-rejected",
            "kubelet/authentication/future-certificate-rejected",
            "kubelet/authentication/namesake-ca-rejected",
            "kubelet/authentication/server-certificate-rejected",
        ]),
    kubelet("unauthenticated-403")
        .summary("returns 403 for missing or invalid credentials")
        .defect(replace!(edit_response, |_, _, response| match response.status() {
            StatusCode::UNAUTHORIZED => with_sniffed_type(StatusCode::FORBIDDEN, "Unauthorized"),
            _ => response,
        }))
        .must_fail(&[
            "kubelet/authentication/credentials-required",
            "kubelet/authentication/non-bearer-scheme-rejected",
            "kubelet/authentication/unknown-token-rejected",
            "kubelet/authentication/untrusted-certificate-rejected",
            "kubelet/authentication/expired-certificate-rejected",
            "kubelet/authentication/future-certificate-rejected",
            "kubelet/authentication/namesake-ca-rejected",
            "kubelet/authentication/server-certificate-rejected",
        ]),
    kubelet("authorization-ignored")
        .summary("authorizes every authenticated user")
        .defect(|config| config.authorization = Authorization::AlwaysAllow)
        .must_fail(&["kubelet/authorization/permission-required"]),
    // Name and location of the archive.
    kubelet("archive-name-without-namespace")
        .summary("omits the namespace from the archive name")
        .defect(replace!(archive_location, |config, pod, container, time| {
            archive(config, &format!("{}-{container}", pod.name), time)
        }))
        .must_fail(&["kubelet/archive-name/format"]),
    kubelet("archive-name-without-container")
        .summary("omits the container from the archive name")
        .defect(replace!(archive_location, |config, pod, _, time| archive(
            config,
            &pod.full_name(),
            time
        )))
        .must_fail(&["kubelet/archive-name/format"]),
    kubelet("timestamp-unix-seconds")
        .summary("writes the time in the archive name as seconds since 1970")
        .defect(replace!(archive_location, |config, pod, container, time| {
            let seconds = time.timestamp().as_second();
            let name = format!("checkpoint-{}-{container}-{seconds}.tar", pod.full_name());
            config.checkpoints_dir().join(name)
        }))
        .must_fail(&["kubelet/archive-name/timestamp-rfc3339"]),
    kubelet("timestamp-of-kubelet-start")
        .summary("uses the start time of the kubelet in the archive name")
        .defect(replace!(archive_time, Some(Zoned::now())))
        .must_fail(&[
            "kubelet/archive-name/timestamp",
            "kubelet/archive-name/timestamp-local-zone",
        ]),
    kubelet("timestamp-wrong-zone")
        .summary("uses the next time zone in the archive name")
        .defect(replace!(archive_location, |config, pod, container, time| {
            archive_location(config, pod, container, &shift_time_zone(time))
        }))
        .must_fail(&["kubelet/archive-name/timestamp-local-zone"]),
    kubelet("archive-outside-checkpoints-dir")
        .summary("writes the archive outside of `checkpoints`")
        .defect(replace!(archive_location, |config, pod, container, time| {
            let location = archive_location(config, pod, container, time);
            config.root_dir.join(location.file_name().unwrap_or_default())
        }))
        .must_fail(&["kubelet/archive/in-checkpoints-dir"]),
    // Permissions of the archive.
    kubelet("checkpoints-dir-mode-0755")
        .summary("creates `checkpoints` with mode 0755")
        .defect(replace!(create_checkpoints_dir, |path| {
            create_checkpoints_dir(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o755))
        }))
        .must_fail(&["kubelet/checkpoints-dir/mode-0700"]),
    kubelet("archive-mode-0644")
        .summary("gives the archive mode 0644")
        .defect(replace!(edit_response, |_, _, response| {
            edit_archive(&response, |archive| {
                fs::set_permissions(archive, Permissions::from_mode(0o644))
            });
            response
        }))
        .must_fail(&["kubelet/archive/root-only"]),
    faulty_runtime("world-readable-archive", &["kubelet/archive/root-only"]),
    // Existence and content of the archive.
    kubelet("archive-deleted")
        .summary("deletes the archive before the response")
        .defect(replace!(edit_response, |_, _, response| {
            edit_archive(&response, |archive| fs::remove_file(archive));
            response
        }))
        .must_fail(&["kubelet/archive/at-location"]),
    faulty_runtime("no-archive", &["kubelet/archive/at-location"]),
    faulty_runtime("empty-archive", &["kubelet/archive/tar"]),
    faulty_runtime("truncated-archive", &["kubelet/archive/tar"]),
    faulty_runtime("corrupt-archive", &["kubelet/archive/tar"]),
    faulty_runtime(
        "partial-archive",
        &["kubelet/checkpoint/succeeds", "kubelet/archive/absent-after-error"],
    ),
    faulty_runtime("missing-inventory", &["kubelet/archive/required-members"]),
    faulty_runtime("missing-spec-dump", &["kubelet/archive/required-members"]),
    faulty_runtime("missing-config-dump", &["kubelet/archive/required-members"]),
    faulty_runtime(
        "missing-pages",
        &["kubelet/archive/contains-memory", "kubelet/checkpoint/named-pod-only"],
    ),
    // Effect on the container.
    kubelet("container-stopped")
        .summary("stops the container after its checkpoint")
        .defect(replace!(call_runtime, |cri, deadline, message| {
            Box::pin(async move {
                let stop = StopContainerRequest {
                    container_id: message.container_id.clone(),
                    timeout: 0,
                };
                cri.call(deadline, message).await?;
                cri.call(cri.timeout(), stop).await.map(drop)
            })
        }))
        .must_fail(&["kubelet/container/keeps-running"]),
    faulty_runtime("container-killed", &["kubelet/container/keeps-running"]),
    faulty_runtime("left-frozen", &["kubelet/container/keeps-running"]),
    // Errors of the runtime.
    kubelet("runtime-error-200")
        .summary("returns 200 for an error of the runtime")
        .defect(replace!(error_response, |names, error| match error {
            CheckpointError::Runtime(error) if !error.raised_locally => *success(),
            _ => error_response(names, error),
        }))
        .must_fail(&[
            "kubelet/runtime-error/status-code",
            "kubelet/runtime-error/unimplemented",
        ]),
    kubelet("runtime-error-without-message")
        .summary("returns 500 without the message of the runtime")
        .defect(replace!(error_response, |names, error| error_text(
            names,
            error,
            "runtime error",
            |error| !error.raised_locally
        )))
        .must_fail(&[
            "kubelet/runtime-error/message",
            "kubelet/runtime-error/unimplemented-message",
        ]),
    kubelet("runtime-error-404")
        .summary("returns 404 for an error of the runtime")
        .defect(replace!(error_response, |names, error| {
            error_status(names, error, StatusCode::NOT_FOUND, |error| {
                error.code != Code::Unimplemented && !error.raised_locally
            })
        }))
        .must_fail(&[
            "kubelet/runtime-error/status-code",
            "kubelet/checkpoint/accepted-requests-only",
        ]),
    kubelet("unimplemented-501")
        .summary("returns 501 when the runtime does not implement the call")
        .defect(replace!(error_response, |names, error| {
            error_status(names, error, StatusCode::NOT_IMPLEMENTED, |error| {
                error.code == Code::Unimplemented
            })
        }))
        .must_fail(&["kubelet/runtime-error/unimplemented"]),
    kubelet("responds-early")
        .summary("returns 200 before the runtime has finished")
        .defect(replace!(call_runtime, |cri, deadline, message| {
            tokio::spawn(call_runtime(cri, deadline, message));
            Box::pin(std::future::ready(Ok(())))
        }))
        .must_fail(&["kubelet/checkpoint/waits-for-runtime"]),
    kubelet("cancel-ignored")
        .summary("does not cancel the runtime call when the client disconnects")
        .defect(replace!(call_runtime, |cri, deadline, message| {
            let call = tokio::spawn(call_runtime(cri, deadline, message));
            Box::pin(async {
                call.await
                    .unwrap_or_else(|_| Err(CriError::unavailable("the task of the call failed")))
            })
        }))
        .must_fail(&[
            "kubelet/cancellation/cancels-runtime-call",
            "kubelet/runtime-error/connection-lost",
        ]),
    // Timeout.
    kubelet("timeout-ignored")
        .summary("does not pass on a timeout above the default")
        .defect(replace!(call_timeout, |_, default| field_and_deadline(None, default)))
        .must_fail(&[
            "kubelet/timeout/above-default-applied",
            "kubelet/timeout/overflow-expires-at-once",
        ]),
    kubelet("timeout-zero-expires-at-once")
        .summary("lets timeout=0 expire immediately")
        .defect(replace!(call_timeout, |requested, default| match requested {
            Some(0) => (0, None),
            _ => field_and_deadline(requested, default),
        }))
        .must_fail(&["kubelet/timeout/zero-uses-default"]),
    kubelet("timeout-below-default-applied")
        .summary("passes on a timeout below the default")
        .defect(replace!(call_timeout, |requested, default| match requested {
            Some(seconds @ 1..) if Duration::from_secs(seconds.unsigned_abs()) < default => {
                (seconds, Some(Duration::from_secs(seconds.unsigned_abs())))
            }
            _ => field_and_deadline(requested, default),
        }))
        .must_fail(&["kubelet/timeout/raised-to-default"]),
    kubelet("timeout-malformed-accepted")
        .summary("treats a timeout that is not a number as absent")
        .defect(replace!(parse_timeout, |query| Ok(
            timeout::parse(query).unwrap_or(None)
        )))
        .must_fail(&[
            "kubelet/timeout/malformed-rejected",
            "kubelet/metrics/accepted-requests-only",
        ]),
    // Format of the response.
    kubelet("body-items-string")
        .summary("returns `items` as a string")
        .defect(replace!(success_response, |location| json(
            serde_json::json!({ "items": location }).to_string()
        )))
        .must_fail(&["kubelet/response/body"]),
    kubelet("body-empty")
        .summary("returns 200 without a body")
        .defect(replace!(success_response, |_| json("")))
        .must_fail(&["kubelet/response/body"]),
    kubelet("body-wrong-location")
        .summary("returns the path of another file than the archive")
        .defect(replace!(success_response, |location| success_response(
            &location.with_extension("1.tar")
        )))
        .must_fail(&["kubelet/response/location-as-requested"]),
    kubelet("content-type-text-plain")
        .summary("returns 200 with the content type text/plain")
        .defect(replace!(success_response, |location| with_type(
            StatusCode::OK,
            TEXT_PLAIN,
            success_response(location).into_body()
        )))
        .must_fail(&["kubelet/response/content-type"]),
    kubelet("get-allowed")
        .summary("checkpoints for a GET request")
        .defect(replace!(check_method, |method| match *method {
            Method::GET => Ok(()),
            _ => check_method(method, Method::POST),
        }))
        .must_fail(&["kubelet/method/post-only"]),
    // Order of authentication, authorization, lookup and routing.
    // Authorization comes after authentication.
    kubelet("lookup-before-authentication")
        .summary("returns 404 for an unknown Pod before authentication")
        .defect(replace!(before_authentication, lookup_first))
        .must_fail(&[
            "kubelet/authentication/before-lookup",
            "kubelet/authorization/before-lookup",
        ]),
    kubelet("routing-before-authentication")
        .summary("rejects a wrong path or method before authentication")
        .defect(replace!(before_authentication, route_first))
        .must_fail(&[
            "kubelet/authentication/before-routing",
            "kubelet/authorization/before-routing",
            "kubelet/authorization/verb-follows-method",
        ]),
    kubelet("non-bearer-scheme-accepted")
        .summary("accepts an Authorization header that is not a bearer token")
        .defect(replace!(authenticate, |authentication, request| {
            let credentials = authentication.check(request);
            let absent = credentials.iter().all(|check| matches!(check, CredentialCheck::Absent));
            let header = request.headers.contains_key(header::AUTHORIZATION);
            authentication
                .user(request)
                .or_else(|| (header && absent).then(any_user))
        }))
        .must_fail(&["kubelet/authentication/non-bearer-scheme-rejected"]),
    kubelet("www-authenticate-on-401")
        .summary("returns 401 with a WWW-Authenticate header")
        .defect(replace!(edit_response, |_, _, mut response| {
            if response.status() == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static("Bearer realm=\"kubelet\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }))
        .must_fail(&["kubelet/authentication/unauthorized-body"]),
    kubelet("bearer-tokens-ignored")
        .summary("ignores bearer tokens")
        .defect(|config| config.token_auth_file = None)
        .must_fail(&["kubelet/authentication/bearer-token-accepted"]),
    kubelet("forbidden-body-without-user")
        .summary("omits user and resource from the body of 403")
        .defect(replace!(edit_response, |_, _, response| match response.status() {
            StatusCode::FORBIDDEN => with_sniffed_type(StatusCode::FORBIDDEN, "Forbidden\n"),
            _ => response,
        }))
        .must_fail(&[
            "kubelet/authorization/verb-follows-method",
            "kubelet/authorization/forbidden-body",
        ]),
    kubelet("nodes-proxy-sufficient")
        .summary("lets a user checkpoint who may only create nodes/proxy")
        .defect(replace!(authorize, |Handlers { authorizer, .. }, user, attributes| {
            let proxy = Attributes {
                subresources: vec!["proxy"],
                ..attributes.clone()
            };
            authorizer.allows(user, attributes) || authorizer.allows(user, &proxy)
        }))
        .must_fail(&["kubelet/authorization/nodes-proxy-insufficient"]),
    kubelet("lookup-before-authorization")
        .summary("returns 404 for an unknown Pod before authorization")
        .defect(replace!(before_authorization, lookup_first))
        .must_fail(&["kubelet/authorization/before-lookup"]),
    kubelet("routing-before-authorization")
        .summary("rejects a wrong path or method before authorization")
        .defect(replace!(before_authorization, route_first))
        .must_fail(&[
            "kubelet/authorization/verb-follows-method",
            "kubelet/authorization/before-routing",
        ]),
    kubelet("verb-always-create")
        .summary("authorizes every method with the verb create")
        .defect(replace!(authorize, |Handlers { authorizer, .. }, user, attributes| {
            attributes.verb = "create";
            authorizer.allows(user, attributes)
        }))
        .must_fail(&["kubelet/authorization/verb-follows-method"]),
    kubelet("http2-unauthenticated")
        .summary("skips authentication over HTTP/2")
        .defect(replace!(authenticate, |authentication, request| {
            let http2 = request.version == Version::HTTP_2;
            authentication.user(request).or_else(|| http2.then(any_user))
        }))
        .must_fail(&["kubelet/http2/same-responses"]),
    // Bodies of 404 responses, and container states.
    kubelet("namespace-unknown-wrong-body")
        .summary("returns another body for an unknown namespace")
        .defect(replace!(find_pod, |pods, names| {
            if pods.find_where(|pod| pod.namespace == names[0]).is_none() {
                return Err(not_found(&format!("namespace {:?} not found", names[0])));
            }
            find_pod(pods, names)
        }))
        .must_fail(&["kubelet/lookup/namespace-unknown-body"]),
    kubelet("pod-unknown-wrong-body")
        .summary("returns another body for an unknown Pod")
        .defect(replace!(find_pod, |pods, names| {
            let namespace_exists = pods.find_where(|pod| pod.namespace == names[0]).is_some();
            find_pod(pods, names).map_err(|response| {
                if namespace_exists {
                    not_found(&format!("pod {:?} not found", names[1]))
                } else {
                    response
                }
            })
        }))
        .must_fail(&["kubelet/lookup/pod-unknown-body"]),
    kubelet("container-unknown-wrong-body")
        .summary("omits the name from the body for an unknown container")
        .defect(replace!(find_container, |pods, pod, names| {
            find_container(pods, pod, names).map_err(|_| not_found("container does not exist"))
        }))
        .must_fail(&["kubelet/lookup/container-unknown-body"]),
    kubelet("invalid-names-400")
        .summary("returns 400 for a name that is invalid for objects")
        .defect(replace!(before_lookup, |_, request| {
            let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
            match checkpoint_names(request) {
                Some(names) if !names.concat().bytes().all(valid) => {
                    Err(reject(StatusCode::BAD_REQUEST, "invalid name"))
                }
                _ => Ok(()),
            }
        }))
        .must_fail(&["kubelet/lookup/invalid-names", "kubelet/lookup/exact-names"]),
    kubelet("overlong-name-414")
        .summary("returns 414 for a path of several thousand bytes")
        .defect(replace!(before_lookup, |_, request| match request.uri.path().len() {
            ..=4096 => Ok(()),
            _ => Err(reject(StatusCode::URI_TOO_LONG, "414: URI Too Long")),
        }))
        .must_fail(&["kubelet/lookup/overlong-name"]),
    kubelet("static-pod-short-name-found")
        .summary("finds a static Pod also without the node name")
        .defect(replace!(find_pod, |pods, names| {
            let [namespace, name, _] = names;
            let is_short = |full: &str| {
                full.strip_prefix(name.as_str())
                    .is_some_and(|node| node.starts_with('-'))
            };
            let by_short_name = || pods.find_where(|pod| pod.namespace == *namespace && is_short(&pod.name));
            find_pod(pods, names).or_else(|response| by_short_name().ok_or(response))
        }))
        .must_fail(&["kubelet/lookup/static-pod-full-name"]),
    kubelet("timeout-validated-before-lookup")
        .summary("validates the timeout before it looks up the Pod")
        .defect(replace!(before_lookup, |_, request| timeout::parse(
            request.uri.query()
        )
        .map(drop)))
        .must_fail(&["kubelet/lookup/before-timeout-validation"]),
    kubelet("state-checked-before-timeout")
        .summary("checks the container state before it validates the timeout")
        .defect(replace!(
            before_lookup,
            |handlers, request| match checkpoint_names(request) {
                Some(names) if runs(handlers, &names).is_some_and(|runs| !runs.is_running()) => {
                    let error = CheckpointError::NotRunning(names[2].clone());
                    Err(Box::new(error_response(&names, &error)))
                }
                _ => Ok(()),
            }
        ))
        .must_fail(&["kubelet/timeout/validated-before-state"]),
    kubelet("init-container-404")
        .summary("returns 404 for init containers")
        .defect(replace!(find_container, |pods, pod, names| {
            if pod.init_containers.contains(&names[2]) {
                return Err(container_not_found(&names[2]));
            }
            find_container(pods, pod, names)
        }))
        .must_fail(&[
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/sidecar-accepted",
        ]),
    kubelet("ephemeral-container-404")
        .summary("returns 404 for ephemeral containers")
        .defect(replace!(find_container, |pods, pod, names| {
            if pod.ephemeral_containers.contains(&names[2]) {
                return Err(container_not_found(&names[2]));
            }
            find_container(pods, pod, names)
        }))
        .must_fail(&["kubelet/lookup/ephemeral-container-found"]),
    kubelet("crash-loop-404")
        .summary("returns 404 for a container that waits for its restart")
        .defect(replace!(
            find_container,
            |pods, pod, names| match pods.container(&pod.uid, &names[2]) {
                Some(runs) if runs.waiting.is_some() => Err(container_not_found(&names[2])),
                _ => find_container(pods, pod, names),
            }
        ))
        .must_fail(&[
            "kubelet/container-state/crash-loop-rejected",
            "kubelet/container-state/created-rejected",
        ]),
    kubelet("created-checkpointed")
        .summary("checkpoints a container that was never started")
        .defect(|config| config.behavior.container_filter.state = None)
        .must_fail(&["kubelet/container-state/created-rejected"]),
    // Conditions under which the endpoint does not exist.
    kubelet("feature-gate-disabled-wrong-body")
        .summary("names the feature gate in the 404 body when the gate is off")
        .defect(replace!(edit_response, |handlers, request, response| {
            if without_gate(handlers, request) {
                return with_sniffed_type(StatusCode::NOT_FOUND, GATE_OFF_MESSAGE);
            }
            response
        }))
        .must_fail(&["kubelet/feature-gate/disabled-body"]),
    kubelet("feature-gate-disabled-401")
        .summary("returns 401 without credentials when the feature gate is off")
        .defect(replace!(edit_response, |handlers, request, response| {
            if without_gate(handlers, request) && handlers.authentication.user(request).is_none() {
                return with_sniffed_type(StatusCode::UNAUTHORIZED, "Unauthorized");
            }
            response
        }))
        .must_fail(&["kubelet/feature-gate/disabled-before-authentication"]),
    kubelet("feature-gate-off-by-default")
        .summary("turns the feature gate off by default")
        .defect(|config| config.container_checkpoint = config.container_checkpoint.or(Some(false)))
        .must_fail(&["kubelet/feature-gate/enabled-by-default"]),
    kubelet("debugging-handlers-flag-ignored")
        .summary("serves the route with the debugging handlers off")
        .defect(|config| config.debugging_handlers = true)
        .must_fail(&["kubelet/endpoint/requires-debugging-handlers"]),
    kubelet("read-only-port-checkpoints")
        .summary("serves checkpoints on the read-only port")
        .defect(replace!(served_routes, |config, authenticated| ServedRoutes {
            checkpoint: config.checkpoint_gate() && config.debugging_handlers,
            ..ServedRoutes::new(config, authenticated)
        }))
        .must_fail(&["kubelet/endpoint/absent-on-read-only-port"]),
    // The directory `checkpoints` and its archives.
    kubelet("checkpoints-dir-with-gate-disabled")
        .summary("creates `checkpoints` with the feature gate off")
        .defect(|config| {
            let _ = create_checkpoints_dir(&config.checkpoints_dir());
        })
        .must_fail(&["kubelet/checkpoints-dir/absent-with-gate-disabled"]),
    kubelet("checkpoints-dir-created-late")
        .summary("creates `checkpoints` at the first checkpoint")
        .defect(|config| {
            config.behavior.create_checkpoints_dir = |_| Ok(());
            config.behavior.archive_location = |config, pod, container, time| {
                let _ = create_checkpoints_dir(&config.checkpoints_dir());
                archive_location(config, pod, container, time)
            };
        })
        .must_fail(&["kubelet/checkpoints-dir/created-at-start"]),
    kubelet("archives-deleted-at-start")
        .summary("deletes the archives at start")
        .defect(|config| {
            let _ = fs::remove_dir_all(config.checkpoints_dir());
        })
        .must_fail(&[
            "kubelet/archive/survives-restart",
            "kubelet/archive/earlier-archives-unchanged",
        ]),
    kubelet("earlier-archives-deleted")
        .summary("deletes the earlier archives of the container")
        .defect(replace!(edit_response, |_, _, response| {
            edit_archive(&response, delete_other_archives);
            response
        }))
        .must_fail(&["kubelet/archive/earlier-archives-unchanged"]),
    kubelet("missing-archive-500")
        .summary("returns 500 when the runtime succeeds without an archive")
        .defect(replace!(edit_response, |_, _, response| match archive_of(&response) {
            Some(archive) if !archive.exists() => {
                with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, "no archive")
            }
            _ => response,
        }))
        .must_fail(&["kubelet/checkpoint/trusts-runtime"]),
    // Format of the request.
    kubelet("method-405-checkpoints")
        .summary("returns 405 and calls the runtime")
        .defect(|config| {
            config.behavior.check_method = |_| Ok(());
            config.behavior.edit_response = |_, request, response| match archive_of(&response) {
                Some(_) if request.method != Method::POST => method_not_allowed("POST"),
                _ => response,
            };
        })
        .must_fail(&["kubelet/method/post-only", "kubelet/checkpoint/accepted-requests-only"]),
    kubelet("allow-header-missing")
        .summary("returns 405 without an Allow header")
        .defect(replace!(edit_response, |_, _, mut response| {
            response.headers_mut().remove(header::ALLOW);
            response
        }))
        .must_fail(&["kubelet/method/allow-header"]),
    kubelet("container-name-optional")
        .summary("checkpoints the first container for a path without container")
        .defect(|config| {
            config.behavior.path_names = |path| path_names(path).or_else(|_| path_names(&format!("{path}/*")));
            config.behavior.find_container = |pods, pod, names| match names[2].as_str() {
                "*" => Ok(pod.containers[0].clone()),
                _ => find_container(pods, pod, names),
            };
        })
        .must_fail(&["kubelet/path/too-few-segments"]),
    kubelet("extra-segments-ignored")
        .summary("ignores path segments after the container")
        .defect(replace!(path_names, |path| {
            let segments: Vec<_> = path.split('/').take(5).collect();
            path_names(&segments.join("/"))
        }))
        .must_fail(&["kubelet/path/too-many-segments"]),
    kubelet("trailing-slash-404")
        .summary("returns 404 for a trailing slash")
        .defect(replace!(path_names, |path| {
            if path.ends_with('/') {
                return Err(page_not_found());
            }
            path_names(path)
        }))
        .must_fail(&["kubelet/path/trailing-slash-accepted"]),
    kubelet("percent-encoding-not-decoded")
        .summary("does not percent-decode names in the path")
        .defect(replace!(edit_request, |request| {
            if decode(request.uri.path()).is_some() {
                edit_path(request, escape_percent);
            }
        }))
        .must_fail(&["kubelet/path/percent-decoded", "kubelet/path/encoded-slash-separates"]),
    kubelet("encoded-slash-not-decoded")
        .summary("does not split names at an encoded slash")
        .defect(replace!(edit_request, |request| edit_path(request, |path| path
            .replace("%2F", "%252F"))))
        .must_fail(&["kubelet/path/encoded-slash-separates"]),
    kubelet("dot-segments-resolved")
        .summary("resolves `..` in the path instead of redirecting")
        .defect(replace!(edit_request, |request| {
            if request.uri.path().contains("/../") {
                edit_path(request, canonical);
            }
        }))
        .must_fail(&["kubelet/path/dot-segments-redirected"]),
    kubelet("empty-segments-dropped")
        .summary("drops an empty path segment instead of redirecting")
        .defect(replace!(edit_request, |request| edit_path(request, |path| path
            .replace("//", "/"))))
        .must_fail(&["kubelet/path/empty-segments-redirected"]),
    kubelet("malformed-escape-accepted")
        .summary("accepts malformed percent-encoding")
        .defect(replace!(edit_request, |request| {
            if decode(request.uri.path()).is_none() {
                edit_path(request, escape_percent);
            }
        }))
        .must_fail(&["kubelet/path/malformed-escape-rejected"]),
    kubelet("accept-header-ignored")
        .summary("ignores the Accept header")
        .defect(replace!(edit_request, |request| drop(
            request.headers.remove(header::ACCEPT)
        )))
        .must_fail(&["kubelet/request/accept-without-json-rejected"]),
    kubelet("not-acceptable-without-body")
        .summary("returns 406 without a body")
        .defect(replace!(edit_response, |_, _, response| match response.status() {
            StatusCode::NOT_ACCEPTABLE => response.map(|_| Bytes::new()),
            _ => response,
        }))
        .must_fail(&["kubelet/request/not-acceptable-body"]),
    kubelet("accept-list-406")
        .summary("returns 406 for an Accept header with several types")
        .defect(replace!(edit_request, |request| {
            let is_list = |value: &HeaderValue| value.as_bytes().contains(&b',');
            if request.headers.get(header::ACCEPT).is_some_and(is_list) {
                request
                    .headers
                    .insert(header::ACCEPT, HeaderValue::from_static("text/html"));
            }
        }))
        .must_fail(&["kubelet/request/accept-list-with-json"]),
    kubelet("non-json-body-400")
        .summary("returns 400 for a request body that is not JSON")
        .defect(replace!(
            before_lookup,
            |_, request| match request.headers.get(header::CONTENT_LENGTH) {
                Some(length) if length != "0" => Err(reject(StatusCode::BAD_REQUEST, "the body is not JSON")),
                _ => Ok(()),
            }
        ))
        .must_fail(&["kubelet/request/body-ignored"]),
    kubelet("unknown-parameter-400")
        .summary("returns 400 for an unknown query parameter")
        .defect(replace!(before_lookup, |_, request| {
            let mut parameters = request
                .uri
                .query()
                .unwrap_or_default()
                .split('&')
                .filter(|part| !part.is_empty());
            if parameters.all(|part| part.starts_with("timeout")) {
                return Ok(());
            }
            Err(reject(StatusCode::BAD_REQUEST, "unknown parameter"))
        }))
        .must_fail(&[
            "kubelet/request/unknown-parameter-ignored",
            "kubelet/timeout/exact-parameter-name",
        ]),
    kubelet("errors-as-json")
        .summary("returns errors with the content type application/json")
        .defect(replace!(edit_response, |_, _, mut response| {
            if response.status().is_client_error() || response.status().is_server_error() {
                let kind = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            response
        }))
        .must_fail(&["kubelet/response/error-content-type"]),
    // Timeout.
    kubelet("default-timeout-one-day")
        .summary("calls the runtime with a timeout of one day by default")
        .defect(replace!(call_timeout, |requested, default| match requested {
            None => (86_400, Some(DAY)),
            Some(_) => field_and_deadline(requested, default),
        }))
        .must_fail(&[
            "kubelet/timeout/absent-uses-default",
            "kubelet/timeout/exact-parameter-name",
        ]),
    kubelet("cri-timeout-field-missing")
        .summary("sends timeout 0 in the CRI request")
        .defect(replace!(call_runtime, |cri, deadline, mut message| {
            message.timeout = 0;
            call_runtime(cri, deadline, message)
        }))
        .must_fail(&["kubelet/timeout/cri-request-field"]),
    kubelet("first-timeout-wins")
        .summary("uses the first of several timeouts")
        .defect(replace!(parse_timeout, |query| {
            let first = query.and_then(|query| query.split('&').find(|part| part.starts_with("timeout=")));
            timeout::parse(first)
        }))
        .must_fail(&["kubelet/timeout/last-value-wins"]),
    kubelet("negative-timeout-uses-default")
        .summary("treats a negative timeout as absent")
        .defect(replace!(parse_timeout, |query| Ok(
            timeout::parse(query)?.map(|seconds| seconds.max(0))
        )))
        .must_fail(&["kubelet/timeout/negative-rejected"]),
    kubelet("plus-sign-404")
        .summary("returns 404 for a timeout with a plus sign")
        .defect(replace!(
            parse_timeout,
            |query| match query_values(query, "timeout").last() {
                Some(value) if value.starts_with('+') => Err(timeout::malformed()),
                _ => timeout::parse(query),
            }
        ))
        .must_fail(&["kubelet/timeout/plus-sign-accepted"]),
    kubelet("overflow-timeout-capped")
        .summary("caps an overflowing timeout at one day")
        .defect(replace!(call_timeout, |requested, default| {
            let (field, deadline) = field_and_deadline(requested, default);
            (field, deadline.or(Some(DAY)))
        }))
        .must_fail(&["kubelet/timeout/overflow-expires-at-once"]),
    // Calls to the runtime, errors and metrics.
    kubelet("cri-called-twice")
        .summary("calls the runtime twice for one request")
        .defect(replace!(call_runtime, |cri, deadline, message| {
            Box::pin(async move {
                call_runtime(Arc::clone(&cri), deadline, message.clone()).await?;
                call_runtime(cri, deadline, message).await
            })
        }))
        .must_fail(&[
            "kubelet/checkpoint/accepted-requests-only",
            "kubelet/checkpoint/single-cri-call",
            "kubelet/concurrency/all-served",
            "kubelet/metrics/operations",
        ]),
    kubelet("one-at-a-time")
        .summary("returns 429 during another checkpoint")
        .defect(replace!(max_checkpoints, 1))
        .must_fail(&["kubelet/concurrency/all-served", "kubelet/concurrency/other-container"]),
    kubelet("runtime-error-unwrapped")
        .summary("returns 500 with only the message of the runtime")
        .defect(replace!(error_response, |names, error| match error {
            CheckpointError::Runtime(error) if !error.raised_locally => {
                with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, error.message.clone())
            }
            _ => error_response(names, error),
        }))
        .must_fail(&["kubelet/runtime-error/body"]),
    kubelet("grpc-unknown-without-message")
        .summary("omits the message of an error with code Unknown")
        .defect(replace!(error_response, |names, error| {
            error_text(names, error, "rpc error: code = Unknown", |error| {
                error.code == Code::Unknown
            })
        }))
        .must_fail(&["kubelet/runtime-error/known-runtime-messages"]),
    kubelet("unavailable-503")
        .summary("returns 503 when the runtime returns Unavailable")
        .defect(replace!(error_response, |names, error| {
            error_status(names, error, StatusCode::SERVICE_UNAVAILABLE, |error| {
                error.code == Code::Unavailable && !error.raised_locally
            })
        }))
        .must_fail(&["kubelet/runtime-error/every-grpc-code"]),
    kubelet("deadline-exceeded-504")
        .summary("returns 504 when the deadline passes")
        .defect(replace!(error_response, |names, error| {
            error_status(names, error, StatusCode::GATEWAY_TIMEOUT, |error| {
                error.code == Code::DeadlineExceeded && error.raised_locally
            })
        }))
        .must_fail(&[
            "kubelet/runtime-error/deadline-exceeded",
            "kubelet/timeout/overflow-expires-at-once",
        ]),
    kubelet("runtime-unreachable-502")
        .summary("returns 502 when the runtime is unreachable")
        .defect(replace!(error_response, |names, error| {
            error_status(names, error, StatusCode::BAD_GATEWAY, |error| {
                error.message.contains("Error while dialing")
            })
        }))
        .must_fail(&["kubelet/runtime-error/runtime-unreachable"]),
    kubelet("lost-call-retried")
        .summary("retries a call whose connection broke")
        .defect(replace!(call_runtime, |cri, deadline, message| Box::pin(
            retry_lost_call(cri, deadline, message)
        )))
        .must_fail(&[
            "kubelet/checkpoint/accepted-requests-only",
            "kubelet/runtime-error/connection-lost",
        ]),
    kubelet("operations-not-counted")
        .summary("does not count checkpoints in the metrics")
        .defect(replace!(edit_response, |_, _, response| without_metric(
            response,
            "kubelet_runtime_operations_total"
        )))
        .must_fail(&["kubelet/metrics/operations"]),
    kubelet("errors-not-counted")
        .summary("does not count failed checkpoints as errors")
        .defect(replace!(edit_response, |_, _, response| without_metric(
            response,
            "kubelet_runtime_operations_errors_total"
        )))
        .must_fail(&["kubelet/metrics/errors"]),
    kubelet("container-log-in-error-body")
        .summary("returns the beginning of the container log in the body of 500")
        .defect(replace!(
            edit_response,
            |handlers, request, response| match checkpoint_names(request) {
                Some(names) if response.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                    let log = runs(handlers, &names).and_then(|runs| fs::read_to_string(runs.current?.log).ok());
                    // Without the heartbeats, which differ from response to response.
                    let log: String = log.iter().flat_map(|log| log.split_inclusive('\n')).take(2).collect();
                    with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, log)
                }
                _ => response,
            }
        ))
        .must_fail(&[
            "kubelet/runtime-error/connection-lost",
            "kubelet/container-state/created-rejected",
            "kubelet/runtime-error/deadline-exceeded",
            "kubelet/lookup/ephemeral-container-found",
            "kubelet/container-state/exited-rejected",
            "kubelet/container-state/finished-init-rejected",
            "kubelet/container-state/crash-loop-rejected",
            "kubelet/runtime-error/message",
            "kubelet/runtime-error/runtime-unreachable",
            "kubelet/runtime-error/unimplemented-message",
            "kubelet/confidentiality/no-memory-disclosure",
            "kubelet/timeout/negative-rejected",
            "kubelet/timeout/overflow-expires-at-once",
        ]),
];

fn any_user() -> UserInfo {
    UserInfo {
        name: "anyone".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
    }
}

fn not_found(text: &str) -> Rejection {
    reject(StatusCode::NOT_FOUND, text)
}

/// The response for an archive that does not exist.
fn success() -> Rejection {
    Box::new(success_response(Path::new("/checkpoint.tar")))
}

fn with_status(mut response: Rejection, status: StatusCode) -> Rejection {
    *response.status_mut() = status;
    response
}

/// The names in the path of a checkpoint request; `None` for other requests.
fn checkpoint_names(request: &Parts) -> Option<PathNames> {
    let path = decode(request.uri.path())?;
    let is_checkpoint = path.starts_with("/checkpoint/");
    is_checkpoint.then(|| path_names(&path).ok())?
}

/// Returns 404 for a checkpoint of an unknown Pod.
fn lookup_first(handlers: &Handlers, request: &Parts) -> Result<(), Rejection> {
    match checkpoint_names(request) {
        Some(names) => find_pod(&handlers.pods, &names).map(drop),
        None => Ok(()),
    }
}

/// Returns 404 or 405 for a checkpoint with a wrong path or method.
fn route_first(_: &Handlers, request: &Parts) -> Result<(), Rejection> {
    match decode(request.uri.path()) {
        Some(path) if path.starts_with("/checkpoint/") => {
            path_names(&path)?;
            check_method(&request.method, Method::POST)
        }
        _ => Ok(()),
    }
}

/// The runs of the container that a checkpoint request names.
fn runs(handlers: &Handlers, [namespace, pod, container]: &PathNames) -> Option<ContainerRuns> {
    let pod = handlers.pods.find(namespace, pod)?;
    handlers.pods.container(&pod.uid, container)
}

/// Whether this is a checkpoint request, and the feature gate is off.
fn without_gate(handlers: &Handlers, request: &Parts) -> bool {
    !handlers.config.checkpoint_gate() && request.uri.path().starts_with("/checkpoint/")
}

fn escape_percent(path: &str) -> String {
    path.replace('%', "%25")
}

fn edit_path(request: &mut Parts, edit: impl FnOnce(&str) -> String) {
    let path = edit(request.uri.path());
    let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    request.uri = format!("{path}{query}")
        .parse()
        .expect("a path with other escapes is a path");
}

fn archive(config: &Config, name: &str, time: &Zoned) -> PathBuf {
    let time = rfc3339(time, config.fractional_timestamps);
    config.checkpoints_dir().join(format!("checkpoint-{name}-{time}.tar"))
}

/// The archive that a successful response names.
fn archive_of(response: &FullResponse) -> Option<PathBuf> {
    let body: serde_json::Value = serde_json::from_slice(response.body()).ok()?;
    Some(PathBuf::from(body["items"][0].as_str()?))
}

/// Errors are ignored: without the defect the mutant is reported as not caught.
fn edit_archive(response: &FullResponse, edit: fn(&Path) -> std::io::Result<()>) {
    let _ = archive_of(response).map(|archive| edit(&archive));
}

fn delete_other_archives(archive: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(archive.parent().unwrap_or(archive))?.flatten() {
        let is_archive = entry.file_name().as_encoded_bytes().starts_with(b"checkpoint-");
        if is_archive && entry.path() != archive {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The kubelet's response with another status for some errors of the call.
fn error_status(
    names: &PathNames,
    error: &CheckpointError,
    status: StatusCode,
    applies: fn(&CriError) -> bool,
) -> FullResponse {
    let mut response = error_response(names, error);
    if matches!(error, CheckpointError::Runtime(error) if applies(error)) {
        *response.status_mut() = status;
    }
    response
}

/// The kubelet's response with another text in place of some errors of the call.
fn error_text(names: &PathNames, error: &CheckpointError, text: &str, applies: fn(&CriError) -> bool) -> FullResponse {
    match error {
        CheckpointError::Runtime(error) if applies(error) => {
            let text = format!("checkpointing of {} failed ({text})", names.join("/"));
            with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
        _ => error_response(names, error),
    }
}

/// The same time in the zone one hour further east, or west beyond UTC+14.
fn shift_time_zone(now: &Zoned) -> Zoned {
    const HOUR_SECONDS: i32 = 3600;
    let eastward_seconds = now.offset().seconds() + HOUR_SECONDS;
    let seconds = if eastward_seconds > 14 * HOUR_SECONDS {
        eastward_seconds - 2 * HOUR_SECONDS
    } else {
        eastward_seconds
    };
    let offset = jiff::tz::Offset::from_seconds(seconds).expect("the offset is less than a day");
    now.with_time_zone(jiff::tz::TimeZone::fixed(offset))
}

/// Repeats the call until the runtime is reachable, for at most half a second.
async fn retry_lost_call(
    cri: Arc<RuntimeConnection>,
    deadline: Duration,
    message: CheckpointContainerRequest,
) -> Result<(), CriError> {
    const MAX_RETRIES: usize = 10;
    const RETRY_INTERVAL: Duration = Duration::from_millis(50);
    let mut result = call_runtime(Arc::clone(&cri), deadline, message.clone()).await;
    for _ in 0..MAX_RETRIES {
        match &result {
            Err(error) if error.raised_locally && error.code == Code::Unavailable => {}
            _ => break,
        }
        // The client may not have noticed the broken connection yet, and a new connection takes time.
        tokio::time::sleep(RETRY_INTERVAL).await;
        result = call_runtime(Arc::clone(&cri), deadline, message.clone()).await;
    }
    result
}

/// Removes the counter of CheckpointContainer with this name.
fn without_metric(response: FullResponse, name: &str) -> FullResponse {
    let sample = format!("{name}{{operation_type=\"checkpoint_container\"}}");
    response.map(|body| match str::from_utf8(&body) {
        Ok(text) if text.contains(&sample) => {
            let lines = text.split_inclusive('\n').filter(|line| !line.starts_with(&sample));
            lines.collect::<String>().into()
        }
        _ => body,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-11-22T14:05:06+00:00[UTC]", "2026-11-22T15:05:06+01:00")]
    #[case("2026-11-22T14:05:06+14:00[Pacific/Kiritimati]", "2026-11-22T13:05:06+13:00")]
    fn shifted_zone_always_differs(#[case] moment: &str, #[case] expected: &str) {
        let shifted = shift_time_zone(&moment.parse::<Zoned>().unwrap());
        assert_eq!(rfc3339(&shifted, false), expected);
    }
}
