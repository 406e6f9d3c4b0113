//! The one definition of the stand-in's options: the command line, the annotations and the documentation come from it.

use std::{path::PathBuf, time::Duration};

use super::{OnTerm, Options, Pattern};

/// One option.
pub struct Row {
    /// Its name: `--NAME` on the command line, `fake-cri.dev/NAME` as an annotation.
    pub name: &'static str,
    /// What it takes, in words.
    pub takes: &'static str,
    /// What it is when it is not given.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Takes the value, or says no.
    pub(super) set: fn(&mut Options, &str) -> Option<()>,
}

/// All options, in the order they are documented.
pub fn table() -> &'static [Row] {
    &TABLE
}

/// The options as a table in Markdown, for the README.
pub fn table_markdown() -> String {
    let mut text = String::from("| annotation | value | default | meaning |\n|---|---|---|---|\n");
    for row in table() {
        let Row {
            name,
            takes,
            default,
            meaning,
            ..
        } = row;
        text += &format!("| `{}{name}` | {takes} | {default} | {meaning} |\n", super::PREFIX);
    }
    text
}

const SIZE: &str = "a size such as `256Mi`, `1Gi` or `4096`";
const TIME: &str = "a time such as `5s` or `100ms`";
const CODE: &str = "0 to 255";

static TABLE: [Row; 15] = [
    Row {
        name: "memory",
        takes: SIZE,
        default: "`1Mi`",
        meaning: "memory that each of its processes fills and keeps",
        set: |options, value| set(&mut options.memory, size(value)),
    },
    Row {
        name: "pattern",
        takes: "`random`, `zero` or `text`",
        default: "`random`",
        meaning: "what that memory is filled with",
        set: |options, value| {
            let pattern = match value {
                "random" => Pattern::Random,
                "zero" => Pattern::Zero,
                "text" => Pattern::Text,
                _ => return None,
            };
            set(&mut options.pattern, Some(pattern))
        },
    },
    Row {
        name: "threads",
        takes: "1 to 10000",
        default: "1",
        meaning: "threads of each process, the first one counted",
        set: |options, value| set(&mut options.threads, number(value, 1, 10_000)),
    },
    Row {
        name: "children",
        takes: "0 to 1000",
        default: "0",
        meaning: "forked processes beside the first one, each with its own memory, threads and files",
        set: |options, value| set(&mut options.children, number(value, 0, 1_000)),
    },
    Row {
        name: "files",
        takes: "0 to 1000",
        default: "0",
        meaning: "files that each process holds open beside its standard streams",
        set: |options, value| set(&mut options.files, number(value, 0, 1_000)),
    },
    Row {
        name: "exit-after",
        takes: TIME,
        default: "never",
        meaning: "how long after its start it ends by itself",
        set: |options, value| set(&mut options.exit_after, time(value)),
    },
    Row {
        name: "exit-code",
        takes: CODE,
        default: "0",
        meaning: "the code it then ends with",
        set: |options, value| set(&mut options.exit_code, number(value, 0, 255)),
    },
    Row {
        name: "canaries",
        takes: "`yes` or `no`",
        default: "`no`",
        meaning: "bytes that only its stack, the stack of a thread more, shared memory and its heap hold, each its own",
        set: |options, value| {
            let canaries = match value {
                "yes" => true,
                "no" => false,
                _ => return None,
            };
            set(&mut options.canaries, Some(canaries))
        },
    },
    Row {
        name: "tick",
        takes: "a time such as `100ms`, not zero",
        default: "`100ms`",
        meaning: "the time between two `tick` lines",
        set: |options, value| set(&mut options.tick, time(value).filter(|time| !time.is_zero())),
    },
    Row {
        name: "on-term",
        takes: "`exit` or `ignore`",
        default: "`exit`",
        meaning: "what SIGTERM does: end it with code 0, or nothing",
        set: |options, value| {
            let on_term = match value {
                "exit" => OnTerm::Exit,
                "ignore" => OnTerm::Ignore,
                _ => return None,
            };
            set(&mut options.on_term, Some(on_term))
        },
    },
    Row {
        name: "cwd",
        takes: "an absolute path",
        default: "the container's",
        meaning: "the working directory it changes to",
        set: |options, value| {
            set(
                &mut options.cwd,
                Some(PathBuf::from(value)).filter(|path| path.is_absolute()),
            )
        },
    },
    Row {
        name: "exec-stdout",
        takes: "any text",
        default: "empty",
        meaning: "what ExecSync answers on standard output (the command is not run)",
        set: |options, value| set(&mut options.exec_stdout, Some(value.to_owned())),
    },
    Row {
        name: "exec-stderr",
        takes: "any text",
        default: "empty",
        meaning: "what ExecSync answers on standard error",
        set: |options, value| set(&mut options.exec_stderr, Some(value.to_owned())),
    },
    Row {
        name: "exec-code",
        takes: CODE,
        default: "0",
        meaning: "the exit code that ExecSync answers",
        set: |options, value| set(&mut options.exec_code, number(value, 0, 255)),
    },
    Row {
        name: "exec-delay",
        takes: TIME,
        default: "none",
        meaning: "how long ExecSync takes to answer",
        set: |options, value| set(&mut options.exec_delay, time(value)),
    },
];

fn set<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    *slot = Some(value?);
    Some(())
}

/// Sizes as Kubernetes writes quantities (`256Mi`, `1G`) and as people do (`256 MiB`).
fn size(value: &str) -> Option<u64> {
    let bytes = value.trim().parse::<bytesize::ByteSize>().ok()?.as_u64();
    // More would not be an address range; the allocator ends the process for less as well, but by its own message.
    (bytes <= 1 << 46).then_some(bytes)
}

fn time(value: &str) -> Option<Duration> {
    humantime::parse_duration(value.trim()).ok()
}

fn number<T: TryFrom<i64>>(value: &str, least: i64, most: i64) -> Option<T> {
    let number: i64 = value.trim().parse().ok()?;
    (least..=most).contains(&number).then(|| T::try_from(number).ok())?
}

#[cfg(test)]
mod tests {
    use super::table_markdown;

    #[test]
    fn the_page_about_annotations_shows_this_table() {
        let page = include_str!("../../../docs/ANNOTATIONS.md");
        let table = table_markdown();
        assert!(page.contains(&table), "docs/ANNOTATIONS.md lacks this table:\n{table}");
    }
}
