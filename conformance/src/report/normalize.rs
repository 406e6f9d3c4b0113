//! Replaces the parts of an actual text that differ from run to run: ids, pids, ports, times, sizes, directories.

use std::{borrow::Cow, sync::LazyLock};

use regex::Regex;

/// The patterns and their replacements, applied in order: a timestamp must match before the numbers in it do.
static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"/tmp/(checkpoint-conformance-|\.tmp)[A-Za-z0-9]+", "<directory>"),
        (r"/fake-cri-[A-Za-z0-9]{6}/", "/<directory>/"),
        (
            r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})",
            "<time>",
        ),
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "<id>",
        ),
        (r"\b[0-9a-f]{12,}\b", "<id>"),
        (r"(127\.0\.0\.1|localhost|\[::1\]):\d+", "$1:<port>"),
        (r"\b([pt]id|inode|heartbeat|start time)( Some\(| |=)\d+", "$1$2<number>"),
        (r"\b(pipe|socket):\[\d+\]", "$1:[<number>]"),
        (
            r"\b\d+(\.\d+)? ?(ns|us|µs|ms)\b|\b\d+\.\d+ ?s\b|\b\d+s \d+ms\b",
            "<duration>",
        ),
        (r"\b\d+(\.\d+)? (bytes|pages|B|KiB|MiB|GiB)\b", "<size> $2"),
        (r"\bat byte \d+", "at byte <number>"),
        (
            r"\bheartbeat <number> before, \d+ after",
            "heartbeat <number> before, <number> after",
        ),
    ]
    .map(|(pattern, replacement)| (Regex::new(pattern).expect("valid pattern"), replacement))
    .into()
});

/// Replaces the parts of `actual` that differ between two runs with a word in angle brackets.
pub fn normalize(actual: &str) -> String {
    let mut text = Cow::Borrowed(actual);
    for (pattern, replacement) in PATTERNS.iter() {
        if let Cow::Owned(replaced) = pattern.replace_all(&text, *replacement) {
            text = Cow::Owned(replaced);
        }
    }
    text.into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("404 \"pod does not exist\"", "404 \"pod does not exist\"")]
    #[case("deadline 120.0 s, field 120", "deadline <duration>, field 120")]
    #[case(
        "pid 8519, heartbeat 3 before, 6 after",
        "pid <number>, heartbeat <number> before, <number> after"
    )]
    #[case(
        "/tmp/checkpoint-conformance-trUIkk/kubelet/checkpoints/checkpoint-a_b-app-2026-11-22T17:14:31Z.tar",
        "<directory>/kubelet/checkpoints/checkpoint-a_b-app-<time>.tar"
    )]
    #[case(
        "ef35ed23981cdc0d9556c364818e5796356a0ea5d95933ebf6653b3958d6016b for ns/pod/app",
        "<id> for ns/pod/app"
    )]
    #[case(
        "dial unix /tmp/checkpoint-conformance-trUIkk/fake-cri-1pf3wK/cri@fake.sock",
        "dial unix <directory>/<directory>/cri@fake.sock"
    )]
    #[case("https://127.0.0.1:34567/", "https://127.0.0.1:<port>/")]
    #[case("called at 2026-11-22T17:14:32.221+01:00", "called at <time>")]
    #[case("200 after 317 ms, 3596288 bytes", "200 after <duration>, <size> bytes")]
    #[case(
        "in checkpoint/pages-1.img at byte 2389232",
        "in checkpoint/pages-1.img at byte <number>"
    )]
    #[case("created 0f8fad5b-d9cb-469f-a165-70867728950e", "created <id>")]
    #[case("[\"/dev/null\", \"pipe:[42633]\"]", "[\"/dev/null\", \"pipe:[<number>]\"]")]
    fn replaces_what_differs_between_runs(#[case] actual: &str, #[case] normal: &str) {
        assert_eq!(normalize(actual), normal);
    }
}
