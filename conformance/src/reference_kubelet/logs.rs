//! `GET /containerLogs/{namespace}/{pod}/{container}`: the log of a container, without the CRI prefixes.

use std::path::Path;

use http::StatusCode;

use super::pod_store::{ContainerRuns, PodStore, RunState};
use super::responses::{self, FullResponse};
use super::route::{self, PathNames};

#[derive(Debug, Default, PartialEq, Eq)]
struct LogOptions {
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    previous: bool,
    timestamps: bool,
}

pub(super) async fn handle(pods: &PodStore, names: &PathNames, query: Option<&str>) -> FullResponse {
    let [namespace, pod, name] = names;
    let options = match options(query) {
        Ok(options) => options,
        Err((status, text)) => return responses::with_sniffed_type(status, text),
    };
    let Some(pod_record) = pods.find(namespace, pod) else {
        return responses::with_sniffed_type(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist"));
    };
    let Some(container) = pods.container(&pod_record.uid, name) else {
        return responses::with_sniffed_type(
            StatusCode::NOT_FOUND,
            format!("container {name:?} not found in pod {pod:?}"),
        );
    };
    let log = match select_log(&container, options.previous) {
        Some(log) => log.to_owned(),
        None if options.previous => {
            let text = format!("previous terminated container {name:?} in pod {pod:?} not found");
            return responses::without_content_type(StatusCode::BAD_REQUEST, text);
        }
        None => {
            let reason = container
                .waiting
                .map_or_else(|| "ContainerCreating".to_owned(), |(reason, _)| reason);
            let text = format!("container {name:?} in pod {pod:?} is waiting to start: {reason}");
            return responses::without_content_type(StatusCode::BAD_REQUEST, text);
        }
    };
    match tokio::task::spawn_blocking(move || std::fs::read(&log).map_err(|error| (log, error))).await {
        Ok(Ok(text)) => responses::without_content_type(StatusCode::OK, strip_prefixes(&text, &options)),
        Ok(Err((log, error))) => {
            let text = format!("failed to open log file {:?}: {error}", log.display().to_string());
            responses::with_sniffed_type(StatusCode::BAD_REQUEST, text)
        }
        Err(error) => responses::with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn options(query: Option<&str>) -> Result<LogOptions, (StatusCode, &'static str)> {
    let last_value = |name: &str| route::query_values(query, name).pop().filter(|value| !value.is_empty());
    let parse_number = |name: &str| match last_value(name) {
        None => Ok(None),
        Some(value) if name == "tail" && value == "all" => Ok(None),
        Some(value) => match value.parse::<i64>().map(usize::try_from) {
            Ok(Ok(number)) => Ok(Some(number)),
            Ok(Err(_)) => Err((StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#)),
            Err(_) => Err((StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#)),
        },
    };
    let flag = |name: &str| last_value(name).is_some_and(|value| value != "false" && value != "0");
    if flag("follow") {
        return Err((StatusCode::BAD_REQUEST, "the reference kubelet does not support follow"));
    }
    Ok(LogOptions {
        tail_lines: parse_number("tailLines")?.or(parse_number("tail")?),
        limit_bytes: parse_number("limitBytes")?,
        previous: flag("previous"),
        timestamps: flag("timestamps"),
    })
}

/// Selects the log of the current run if it has started and `previous` is not set, else the log of the previous run.
fn select_log(container: &ContainerRuns, previous: bool) -> Option<&Path> {
    let started = |run: &&super::pod_store::ContainerRun| run.state != RunState::Created;
    let current = container.current.as_ref().filter(started).filter(|_| !previous);
    current.or(container.previous.as_ref()).map(|run| run.log.as_path())
}

/// Returns the output of a container: the complete lines of its log without the CRI prefixes.
pub(crate) fn log_text(log: &[u8]) -> Vec<u8> {
    strip_prefixes(log, &LogOptions::default())
}

/// Removes the prefix of each line: `<time> <stream> <tag> <text>`. The next line continues one with tag `P`.
fn strip_prefixes(log: &[u8], options: &LogOptions) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    if let Some(tail) = options.tail_lines {
        lines.drain(..lines.len().saturating_sub(tail));
    }
    let mut text = Vec::with_capacity(log.len());
    for line in lines {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag), Some(rest)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            // The runtime is still writing this line.
            continue;
        };
        if options.timestamps {
            text.extend_from_slice(time);
            text.push(b' ');
        }
        let partial = tag.split(|byte| *byte == b':').next() == Some(b"P");
        text.extend_from_slice(if partial {
            rest.strip_suffix(b"\n").unwrap_or(rest)
        } else {
            rest
        });
    }
    text.truncate(options.limit_bytes.unwrap_or(usize::MAX));
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:00.2Z stdout P tw\n\
        2026-01-01T00:00:00.3Z stderr F o\n2026-01-01T00:00:00.4Z stdout F  three \n2026";

    #[rstest]
    #[case(None, "one\ntwo\n three \n")]
    #[case(Some("tailLines=2"), " three \n")]
    #[case(Some("tail=all"), "one\ntwo\n three \n")]
    #[case(Some("limitBytes=5"), "one\nt")]
    #[case(Some("timestamps=true&tailLines=2"), "2026-01-01T00:00:00.4Z  three \n")]
    fn strips_the_prefix(#[case] query: Option<&str>, #[case] expected: &str) {
        assert_eq!(
            String::from_utf8(strip_prefixes(LOG, &options(query).unwrap())).unwrap(),
            expected
        );
    }

    #[test]
    fn rejects_invalid_options() {
        let status = |query| options(Some(query)).map_err(|(status, _)| status);
        assert_eq!(status("tailLines=x"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(status("tailLines=-1"), Err(StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(status("follow=true"), Err(StatusCode::BAD_REQUEST));
    }
}
