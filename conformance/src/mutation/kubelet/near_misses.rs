//! Kubelets that accept what almost matches: names, methods, timeouts; and kubelets that change messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::tz::TimeZone;
use tonic::Code;

use super::{Mutant, archive, container_not_found, find_container, find_pod, kubelet, not_found, replace};
use crate::reference_kubelet::{
    checkpoint::{
        CheckpointError, archive_location, call_runtime, error_response,
        timeout::{self, field_and_deadline},
    },
    pod_store::{PodRecord, PodStore, label},
    responses::{FullResponse, Rejection},
    route::{PathNames, check_method, decode, path_names, query_values},
    runtime_connection::CriError,
};

const EXACT_NAMES: &[&str] = &["kubelet/lookup/exact-names"];
const NAMED_POD: &[&str] = &["kubelet/checkpoint/named-pod-only"];
const LONG_POD_NAME: &[&str] = &["kubelet/archive-name/long-pod-name"];
const LOCAL_TIME: &[&str] = &["kubelet/archive-name/timestamp-local-zone"];
const POST_ONLY: &[&str] = &["kubelet/method/post-only"];
const HOURS: &[&str] = &["kubelet/timeout/hours-applied"];
const PARAMETER_NAME: &[&str] = &["kubelet/timeout/exact-parameter-name"];
const MALFORMED_TIMEOUT: &[&str] = &["kubelet/timeout/malformed-rejected"];
const LAST_TIMEOUT: &[&str] = &["kubelet/timeout/last-value-wins"];
const MESSAGE: &[&str] = &["kubelet/runtime-error/message-unchanged"];

pub(super) const MUTANTS: &[Mutant] = &[
    // Names.
    kubelet("namespace-case-ignored")
        .summary("compares namespaces without regard to case")
        .defect(replace!(find_pod, |pods, names| find_similar_pod(
            pods,
            names,
            |pod, names| { pod.namespace.eq_ignore_ascii_case(&names[0]) && pod.name == names[1] }
        )))
        .must_fail(EXACT_NAMES),
    kubelet("pod-name-case-ignored")
        .summary("compares names of Pods without regard to case")
        .defect(replace!(find_pod, |pods, names| find_similar_pod(
            pods,
            names,
            |pod, names| { pod.namespace == names[0] && pod.name.eq_ignore_ascii_case(&names[1]) }
        )))
        .must_fail(EXACT_NAMES),
    kubelet("container-name-case-ignored")
        .summary("compares names of containers without regard to case")
        .defect(replace!(find_container, |pods, pod, names| {
            find_similar_container(pods, pod, names, |known, name| known.eq_ignore_ascii_case(name))
        }))
        .must_fail(EXACT_NAMES),
    kubelet("names-folded-by-unicode")
        .summary("compares names by their upper case in Unicode")
        .defect(replace!(find_pod, |pods, names| find_similar_pod(
            pods,
            names,
            |pod, names| {
                let upper = |name: &str| name.to_uppercase();
                upper(&pod.namespace) == upper(&names[0]) && upper(&pod.name) == upper(&names[1])
            }
        )))
        .must_fail(EXACT_NAMES),
    kubelet("namespace-by-prefix")
        .summary("finds a Pod by the beginning of its namespace")
        .defect(replace!(find_pod, |pods, names| find_similar_pod(
            pods,
            names,
            |pod, names| { pod.namespace.starts_with(&names[0]) && pod.name == names[1] }
        )))
        .must_fail(EXACT_NAMES),
    kubelet("pod-name-by-suffix")
        .summary("finds a Pod by the end of its name")
        .defect(replace!(find_pod, |pods, names| find_similar_pod(
            pods,
            names,
            |pod, names| { pod.namespace == names[0] && pod.name.ends_with(&names[1]) }
        )))
        .must_fail(EXACT_NAMES),
    kubelet("longer-container-name-found")
        .summary("finds a container by a name that begins with its name")
        .defect(replace!(find_container, |pods, pod, names| {
            find_similar_container(pods, pod, names, |known, name| name.starts_with(known))
        }))
        .must_fail(EXACT_NAMES),
    kubelet("container-name-by-prefix")
        .summary("finds a container by the beginning of its name")
        .defect(replace!(find_container, |pods, pod, names| {
            find_similar_container(pods, pod, names, |known, name| known.starts_with(name))
        }))
        .must_fail(EXACT_NAMES),
    kubelet("names-trimmed")
        .summary("removes blanks around names")
        .defect(replace!(path_names, |path| edited_names(path, |name| name
            .trim()
            .to_owned())))
        .must_fail(EXACT_NAMES),
    kubelet("nul-ends-name")
        .summary("ends a name at NUL")
        .defect(replace!(path_names, |path| edited_names(path, |name| before(
            name, '\0'
        ))))
        .must_fail(EXACT_NAMES),
    kubelet("matrix-parameters-dropped")
        .summary("drops matrix parameters from names")
        .defect(replace!(path_names, |path| edited_names(path, |name| before(
            name, ';'
        ))))
        .must_fail(EXACT_NAMES),
    kubelet("query-in-name-dropped")
        .summary("drops an encoded query from names")
        .defect(replace!(path_names, |path| edited_names(path, |name| before(
            name, '?'
        ))))
        .must_fail(EXACT_NAMES),
    kubelet("fragment-in-name-dropped")
        .summary("drops an encoded fragment from names")
        .defect(replace!(path_names, |path| edited_names(path, |name| before(
            name, '#'
        ))))
        .must_fail(EXACT_NAMES),
    kubelet("names-decoded-twice")
        .summary("decodes names twice")
        .defect(replace!(path_names, |path| edited_names(path, |name| {
            decode(name).unwrap_or_else(|| name.to_owned())
        })))
        .must_fail(EXACT_NAMES),
    kubelet("underscore-is-dash")
        .summary("takes _ in a name for -")
        .defect(replace!(path_names, |path| edited_names(path, |name| name.replace('_', "-"))))
        .must_fail(EXACT_NAMES),
    kubelet("wildcard-in-name")
        .summary("takes * at the end of a name for any text")
        .defect(replace!(find_container, |pods, pod, names| {
            find_similar_container(pods, pod, names, |known, name| {
                name.strip_suffix('*').is_some_and(|prefix| known.starts_with(prefix))
            })
        }))
        .must_fail(EXACT_NAMES),
    // Containers of other Pods.
    kubelet("container-of-any-pod")
        .summary("finds the container by its name alone, in any Pod")
        .defect(replace!(is_container, |labels, _, name| {
            has(labels, label::CONTAINER_NAME, name) && is_in_pod_under_test(labels)
        }))
        .must_fail(NAMED_POD),
    kubelet("pod-of-any-namespace")
        .summary("finds the container by the names of Pod and container, in any namespace")
        .defect(replace!(is_container, |labels, pod, name| {
            let is_of_pod = has(labels, label::POD_UID, &pod.uid) && !is_named_as_pod_under_test(&pod.name);
            let is_namesake = has(labels, label::POD_NAME, &pod.name) && is_in_pod_under_test(labels);
            has(labels, label::CONTAINER_NAME, name) && (is_of_pod || is_namesake)
        }))
        .must_fail(NAMED_POD),
    kubelet("container-of-any-pod-in-namespace")
        .summary("finds the container by namespace and container name, in any Pod")
        .defect(replace!(is_container, |labels, pod, name| {
            let is_first = is_in_pod_under_test(labels) || pod.namespace != POD_UNDER_TEST.0;
            has(labels, label::POD_NAMESPACE, &pod.namespace) && has(labels, label::CONTAINER_NAME, name) && is_first
        }))
        .must_fail(NAMED_POD),
    kubelet("archive-name-dots-replaced")
        .summary("replaces dots in the name of the Pod in the archive name")
        .defect(replace!(archive_location, |config, pod, container, time| {
            archive(
                config,
                &format!("{}-{container}", pod.full_name().replace('.', "-")),
                time,
            )
        }))
        .must_fail(LONG_POD_NAME),
    kubelet("archive-name-cut-at-63")
        .summary("cuts the name of the Pod in the archive name after 63 characters")
        .defect(replace!(archive_location, |config, pod, container, time| {
            let name = cut(&pod.name, 63.min(pod.name.len()));
            archive(config, &format!("{name}_{}-{container}", pod.namespace), time)
        }))
        .must_fail(LONG_POD_NAME),
    kubelet("archive-name-pod-hashed")
        .summary("replaces a Pod name of more than 63 characters by a hash in the archive name")
        .defect(replace!(archive_location, |config, pod, container, time| {
            let name = if pod.name.len() > 63 { "e3b0c442" } else { &pod.name };
            archive(config, &format!("{name}_{}-{container}", pod.namespace), time)
        }))
        .must_fail(LONG_POD_NAME),
    kubelet("timestamp-utc")
        .summary("writes the time in the archive name in UTC")
        .defect(replace!(archive_location, |config, pod, container, time| {
            archive_location(config, pod, container, &time.with_time_zone(TimeZone::UTC))
        }))
        .must_fail(LOCAL_TIME),
    kubelet("timestamp-12-hours")
        .summary("writes the hour in the archive name in 12 hours")
        .defect(replace!(archive_location, |config, pod, container, time| {
            let twelve_hours = match time.hour() {
                hour @ 13.. => time.with().hour(hour - 12).build().unwrap_or_else(|_| time.clone()),
                _ => time.clone(),
            };
            archive_location(config, pod, container, &twelve_hours)
        }))
        .must_fail(LOCAL_TIME),
    // Methods.
    kubelet("head-checkpoints")
        .summary("checkpoints for a HEAD request")
        .defect(replace!(check_method, |method| also_allowed(method, "HEAD")))
        .must_fail(POST_ONLY),
    kubelet("options-checkpoints")
        .summary("checkpoints for an OPTIONS request")
        .defect(replace!(check_method, |method| also_allowed(method, "OPTIONS")))
        .must_fail(POST_ONLY),
    kubelet("unknown-method-checkpoints")
        .summary("checkpoints for a method that HTTP does not define")
        .defect(replace!(check_method, |method| also_allowed(method, "CHECKPOINT")))
        .must_fail(POST_ONLY),
    kubelet("method-override-honored")
        .summary("takes the method from X-HTTP-Method-Override")
        .defect(replace!(edit_request, |request| {
            if request
                .headers
                .get("x-http-method-override")
                .is_some_and(|method| method == "POST")
            {
                request.method = Method::POST;
            }
        }))
        .must_fail(POST_ONLY),
    kubelet("method-in-query-honored")
        .summary("takes the method from the query")
        .defect(replace!(edit_request, |request| {
            if query_values(request.uri.query(), "_method")
                .iter()
                .any(|method| method == "POST")
            {
                request.method = Method::POST;
            }
        }))
        .must_fail(POST_ONLY),
    // Timeouts.
    kubelet("timeout-modulo-hour")
        .summary("applies a timeout modulo one hour")
        .defect(replace!(call_timeout, |requested, default| with_timeout(
            requested,
            default,
            |seconds| seconds % 3600
        )))
        .must_fail(HOURS),
    kubelet("timeout-modulo-day")
        .summary("applies a timeout modulo one day")
        .defect(replace!(call_timeout, |requested, default| {
            with_timeout(requested, default, |seconds| seconds % 86_400)
        }))
        .must_fail(HOURS),
    kubelet("timeout-16-bits")
        .summary("keeps 16 bits of a timeout")
        .defect(replace!(call_timeout, |requested, default| with_timeout(
            requested,
            default,
            |seconds| seconds & 0xffff
        )))
        .must_fail(HOURS),
    kubelet("timeout-32-bits")
        .summary("keeps 32 bits of a timeout")
        .defect(replace!(call_timeout, |requested, default| {
            with_timeout(requested, default, |seconds| seconds & 0xffff_ffff)
        }))
        .must_fail(HOURS),
    kubelet("timeout-capped-at-hour")
        .summary("caps a timeout at one hour")
        .defect(replace!(call_timeout, |requested, default| with_timeout(
            requested,
            default,
            |seconds| seconds.min(3600)
        )))
        .must_fail(HOURS),
    kubelet("timeout-capped-at-day")
        .summary("caps a timeout at one day")
        .defect(replace!(call_timeout, |requested, default| {
            with_timeout(requested, default, |seconds| seconds.min(86_400))
        }))
        .must_fail(HOURS),
    kubelet("default-timeout-two-seconds-less")
        .summary("calls the runtime with two seconds less than the default")
        .defect(replace!(call_timeout, |requested, default| match requested {
            None => field_and_deadline(None, default.checked_sub(Duration::from_secs(2)).unwrap_or(default)),
            Some(_) => field_and_deadline(requested, default),
        }))
        .must_fail(&[
            "kubelet/timeout/absent-uses-default",
            "kubelet/timeout/exact-parameter-name",
        ]),
    kubelet("timeout-name-case-ignored")
        .summary("reads the parameter `timeout` in any case")
        .defect(replace!(parse_timeout, |query| {
            timeout::parse(query.map(str::to_ascii_lowercase).as_deref())
        }))
        .must_fail(PARAMETER_NAME),
    kubelet("timeout-name-by-prefix")
        .summary("reads every parameter whose name begins with `timeout`")
        .defect(replace!(parse_timeout, |query| timeout::parse(
            query.map(|query| query.replace("timeouts=", "timeout=")).as_deref()
        )))
        .must_fail(PARAMETER_NAME),
    kubelet("timeout-name-with-underscore")
        .summary("reads the parameter `time_out`")
        .defect(replace!(parse_timeout, |query| timeout::parse(
            query.map(|query| query.replace("time_out=", "timeout=")).as_deref()
        )))
        .must_fail(PARAMETER_NAME),
    kubelet("timeout-with-underscores-accepted")
        .summary("accepts underscores between the digits of a timeout")
        .defect(replace!(parse_timeout, |query| timeout::parse(
            query.map(|query| query.replace('_', "")).as_deref()
        )))
        .must_fail(&[
            "kubelet/timeout/malformed-rejected",
            "kubelet/timeout/exact-parameter-name",
        ]),
    kubelet("timeout-trimmed")
        .summary("accepts blanks around a timeout")
        .defect(replace!(
            parse_timeout,
            |query| match query_values(query, "timeout").pop() {
                Some(value) if value.trim() != value =>
                    value.trim().parse().map(Some).map_err(|_| timeout::malformed()),
                _ => timeout::parse(query),
            }
        ))
        .must_fail(MALFORMED_TIMEOUT),
    kubelet("timeout-digits-of-any-script")
        .summary("accepts digits of other scripts in a timeout")
        .defect(replace!(
            parse_timeout,
            |query| match query_values(query, "timeout").pop() {
                Some(value) if value == "１０" => Ok(Some(10)),
                _ => timeout::parse(query),
            }
        ))
        .must_fail(MALFORMED_TIMEOUT),
    kubelet("timeout-as-float")
        .summary("reads a timeout as a floating-point number")
        .defect(replace!(
            parse_timeout,
            |query| match query_values(query, "timeout").pop() {
                Some(value) if value.contains(['.', 'e']) => {
                    value
                        .parse::<f64>()
                        .map(|seconds| Some(seconds as i64))
                        .map_err(|_| timeout::malformed())
                }
                _ => timeout::parse(query),
            }
        ))
        .must_fail(MALFORMED_TIMEOUT),
    kubelet("largest-timeout-wins")
        .summary("uses the largest of several timeouts")
        .defect(replace!(parse_timeout, |query| {
            let largest = query_values(query, "timeout")
                .iter()
                .filter_map(|value| value.parse().ok())
                .max();
            timeout::parse(query).map(|last| last.and(largest))
        }))
        .must_fail(LAST_TIMEOUT),
    kubelet("smallest-timeout-wins")
        .summary("uses the smallest of several timeouts")
        .defect(replace!(parse_timeout, |query| {
            let smallest = query_values(query, "timeout")
                .iter()
                .filter_map(|value| value.parse().ok())
                .min();
            timeout::parse(query).map(|last| last.and(smallest))
        }))
        .must_fail(LAST_TIMEOUT),
    kubelet("every-timeout-validated")
        .summary("rejects a request with a malformed timeout before a valid one")
        .defect(replace!(parse_timeout, |query| {
            let is_number = |value: &String| value.parse::<i64>().is_ok();
            if query_values(query, "timeout").iter().all(is_number) {
                timeout::parse(query)
            } else {
                Err(timeout::malformed())
            }
        }))
        .must_fail(LAST_TIMEOUT),
    // Messages.
    kubelet("message-cut-at-256")
        .summary("cuts the message of the runtime after 256 bytes")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| cut(message, 256)
        )))
        .must_fail(MESSAGE),
    kubelet("message-cut-at-4096")
        .summary("cuts the message of the runtime after 4096 bytes")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| cut(message, 4096)
        )))
        .must_fail(MESSAGE),
    kubelet("message-first-line")
        .summary("returns the first line of the message of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { before(message, '\n') }
        )))
        .must_fail(MESSAGE),
    kubelet("message-in-ascii")
        .summary("replaces other characters than ASCII in the message of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.replace(|c: char| !c.is_ascii(), "?") }
        )))
        .must_fail(MESSAGE),
    kubelet("message-escaped")
        .summary("escapes quotes and line breaks in the message of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.escape_default().to_string() }
        )))
        .must_fail(MESSAGE),
    kubelet("message-as-format")
        .summary("uses the message of the runtime as a format")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.replace("%s", "%!s(MISSING)").replace("%d", "%!d(MISSING)") }
        )))
        .must_fail(MESSAGE),
    kubelet("message-blanks-collapsed")
        .summary("collapses blanks in the message of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| {
                message
                    .split(' ')
                    .filter(|word| !word.is_empty())
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        )))
        .must_fail(MESSAGE),
    kubelet("message-trimmed")
        .summary("removes blanks around the message of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.trim().to_owned() }
        )))
        .must_fail(MESSAGE),
    kubelet("message-as-html")
        .summary("escapes the message of the runtime for HTML")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.replace('&', "&amp;").replace('<', "&lt;") }
        )))
        .must_fail(&[
            "kubelet/runtime-error/message-unchanged",
            "kubelet/runtime-error/known-runtime-messages",
        ]),
    kubelet("message-innermost")
        .summary("returns the innermost of nested errors of the runtime")
        .defect(replace!(error_response, |names, error| with_message(
            names,
            error,
            |message| { message.rsplit("desc = ").next().unwrap_or(message).to_owned() }
        )))
        .must_fail(MESSAGE),
    // Calls.
    kubelet("unavailable-retried")
        .summary("repeats a call that ended with Unavailable")
        .defect(replace!(call_runtime, |cri, deadline, message| Box::pin(async move {
            let result = call_runtime(Arc::clone(&cri), deadline, message.clone()).await;
            match result {
                Err(error) if error.code == Code::Unavailable && !error.raised_locally => {
                    call_runtime(cri, deadline, message).await
                }
                result => result,
            }
        })))
        .must_fail(&["kubelet/checkpoint/accepted-requests-only"]),
];

/// The Pod, or else one that `is_similar`.
fn find_similar_pod(
    pods: &PodStore,
    names: &PathNames,
    is_similar: fn(&PodRecord, &PathNames) -> bool,
) -> Result<PodRecord, Rejection> {
    find_pod(pods, names).or_else(|_| {
        let found = pods.find_where(|pod| names.iter().all(|name| !name.is_empty()) && is_similar(pod, names));
        found.ok_or_else(|| not_found("pod does not exist"))
    })
}

/// The container, or else one whose name `is_similar(known, name)`.
fn find_similar_container(
    pods: &PodStore,
    pod: &PodRecord,
    names: &PathNames,
    is_similar: fn(&str, &str) -> bool,
) -> Result<String, Rejection> {
    find_container(pods, pod, names).or_else(|_| {
        let name = &names[2];
        let found = pod
            .containers
            .iter()
            .find(|known| !name.is_empty() && is_similar(known, name));
        found.cloned().ok_or_else(|| container_not_found(name))
    })
}

fn edited_names(path: &str, edit: fn(&str) -> String) -> Result<PathNames, Rejection> {
    path_names(path).map(|names| names.map(|name| edit(&name)))
}

/// The namespace of the Pod under test, and the beginning of its name. The runtime lists containers in any order: a mutant
/// that takes the first of several would fail other cases from run to run.
const POD_UNDER_TEST: (&str, &str) = ("conformance", "test-workload-");

fn is_named_as_pod_under_test(name: &str) -> bool {
    name.starts_with(POD_UNDER_TEST.1)
}

fn is_in_pod_under_test(labels: &HashMap<String, String>) -> bool {
    has(labels, label::POD_NAMESPACE, POD_UNDER_TEST.0)
        && labels
            .get(label::POD_NAME)
            .is_some_and(|name| is_named_as_pod_under_test(name))
}

fn has(labels: &HashMap<String, String>, name: &str, value: &str) -> bool {
    labels.get(name).is_some_and(|label| label == value)
}

/// The text before a character.
fn before(text: &str, end: char) -> String {
    text.split(end).next().unwrap_or(text).to_owned()
}

fn also_allowed(method: &Method, other: &str) -> Result<(), Rejection> {
    if method.as_str() == other {
        Ok(())
    } else {
        check_method(method, Method::POST)
    }
}

/// The timeout after `edit`; a timeout that overflows stays as it is.
fn with_timeout(requested: Option<i64>, default: Duration, edit: fn(i64) -> i64) -> (i64, Option<Duration>) {
    const LONGEST_SECONDS: i64 = 9_223_372_036;
    let edited = requested.map(|seconds| {
        if seconds > LONGEST_SECONDS {
            seconds
        } else {
            edit(seconds)
        }
    });
    field_and_deadline(edited, default)
}

/// The response with another message of the runtime.
fn with_message(names: &PathNames, error: &CheckpointError, edit: fn(&str) -> String) -> FullResponse {
    match error {
        CheckpointError::Runtime(error) if !error.raised_locally => {
            let edited = CriError {
                message: edit(&error.message),
                ..error.clone()
            };
            error_response(names, &CheckpointError::Runtime(edited))
        }
        _ => error_response(names, error),
    }
}

fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}
