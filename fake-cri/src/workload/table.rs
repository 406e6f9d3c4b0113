//! The one definition of the test workload's options: the command line, the annotations and the documentation come from it.

use std::{path::PathBuf, time::Duration};

use super::{ANNOTATION_PREFIX, MemoryPattern, OnSigterm, WorkloadOptions};

/// One option.
pub struct OptionRow {
    /// Its name: `--NAME` on the command line, `fake-cri.dev/NAME` as an annotation.
    pub name: &'static str,
    /// What it takes, in words.
    pub value_help: &'static str,
    /// What it is when it is not given.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Takes the value, or says no.
    pub(super) set: fn(&mut WorkloadOptions, &str) -> Option<()>,
}

/// All options, in the order they are documented.
pub fn option_table() -> &'static [OptionRow] {
    &OPTION_TABLE
}

/// The options as a table in Markdown, for the README.
pub fn option_table_markdown() -> String {
    let mut text = String::from("| annotation | value | default | meaning |\n|---|---|---|---|\n");
    for row in option_table() {
        let OptionRow {
            name,
            value_help,
            default,
            meaning,
            ..
        } = row;
        text += &format!(
            "| `{}{name}` | {value_help} | {default} | {meaning} |\n",
            ANNOTATION_PREFIX
        );
    }
    text
}

const SIZE_HELP: &str = "a size such as `256Mi`, `1Gi` or `4096`";
const TIME_HELP: &str = "a time such as `5s` or `100ms`";
const EXIT_CODE_HELP: &str = "0 to 255";

static OPTION_TABLE: [OptionRow; 15] = [
    OptionRow {
        name: "memory",
        value_help: SIZE_HELP,
        default: "`1Mi`",
        meaning: "memory that each of its processes fills and keeps",
        set: |options, value| set_if_valid(&mut options.memory, parse_size(value)),
    },
    OptionRow {
        name: "memory-pattern",
        value_help: "`random`, `zero` or `text`",
        default: "`random`",
        meaning: "what that memory is filled with",
        set: |options, value| {
            let pattern = match value {
                "random" => MemoryPattern::Random,
                "zero" => MemoryPattern::Zero,
                "text" => MemoryPattern::Text,
                _ => return None,
            };
            set_if_valid(&mut options.memory_pattern, Some(pattern))
        },
    },
    OptionRow {
        name: "threads",
        value_help: "1 to 10000",
        default: "1",
        meaning: "threads of each process, the first one counted",
        set: |options, value| set_if_valid(&mut options.threads, parse_number(value, 1, 10_000)),
    },
    OptionRow {
        name: "children",
        value_help: "0 to 1000",
        default: "0",
        meaning: "forked processes beside the first one, each with its own memory, threads and files",
        set: |options, value| set_if_valid(&mut options.children, parse_number(value, 0, 1_000)),
    },
    OptionRow {
        name: "open-files",
        value_help: "0 to 1000",
        default: "0",
        meaning: "files that each process holds open beside its standard streams",
        set: |options, value| set_if_valid(&mut options.open_files, parse_number(value, 0, 1_000)),
    },
    OptionRow {
        name: "exit-after",
        value_help: TIME_HELP,
        default: "never",
        meaning: "how long after its start it ends by itself",
        set: |options, value| set_if_valid(&mut options.exit_after, parse_time(value)),
    },
    OptionRow {
        name: "exit-code",
        value_help: EXIT_CODE_HELP,
        default: "0",
        meaning: "the code it then ends with",
        set: |options, value| set_if_valid(&mut options.exit_code, parse_number(value, 0, 255)),
    },
    OptionRow {
        name: "canaries",
        value_help: "`yes` or `no`",
        default: "`no`",
        meaning: "bytes that only its stack, the stack of a thread more, shared memory and its heap hold, each its own",
        set: |options, value| {
            let canaries = match value {
                "yes" => true,
                "no" => false,
                _ => return None,
            };
            set_if_valid(&mut options.canaries, Some(canaries))
        },
    },
    OptionRow {
        name: "heartbeat-interval",
        value_help: "a time such as `100ms`, not zero",
        default: "`100ms`",
        meaning: "the time between two `heartbeat` lines",
        set: |options, value| {
            set_if_valid(
                &mut options.heartbeat_interval,
                parse_time(value).filter(|time| !time.is_zero()),
            )
        },
    },
    OptionRow {
        name: "on-sigterm",
        value_help: "`exit` or `ignore`",
        default: "`exit`",
        meaning: "what SIGTERM does: end it with code 0, or nothing",
        set: |options, value| {
            let on_term = match value {
                "exit" => OnSigterm::Exit,
                "ignore" => OnSigterm::Ignore,
                _ => return None,
            };
            set_if_valid(&mut options.on_sigterm, Some(on_term))
        },
    },
    OptionRow {
        name: "cwd",
        value_help: "an absolute path",
        default: "the container's",
        meaning: "the working directory it changes to",
        set: |options, value| {
            set_if_valid(
                &mut options.cwd,
                Some(PathBuf::from(value)).filter(|path| path.is_absolute()),
            )
        },
    },
    OptionRow {
        name: "exec-stdout",
        value_help: "any text",
        default: "empty",
        meaning: "what ExecSync answers on standard output (the command is not run)",
        set: |options, value| set_if_valid(&mut options.exec_stdout, Some(value.to_owned())),
    },
    OptionRow {
        name: "exec-stderr",
        value_help: "any text",
        default: "empty",
        meaning: "what ExecSync answers on standard error",
        set: |options, value| set_if_valid(&mut options.exec_stderr, Some(value.to_owned())),
    },
    OptionRow {
        name: "exec-exit-code",
        value_help: EXIT_CODE_HELP,
        default: "0",
        meaning: "the exit code that ExecSync answers",
        set: |options, value| set_if_valid(&mut options.exec_exit_code, parse_number(value, 0, 255)),
    },
    OptionRow {
        name: "exec-delay",
        value_help: TIME_HELP,
        default: "none",
        meaning: "how long ExecSync takes to answer",
        set: |options, value| set_if_valid(&mut options.exec_delay, parse_time(value)),
    },
];

fn set_if_valid<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    *slot = Some(value?);
    Some(())
}

/// Sizes as Kubernetes writes quantities (`256Mi`, `1G`) and as people do (`256 MiB`).
fn parse_size(value: &str) -> Option<u64> {
    let bytes = value.trim().parse::<bytesize::ByteSize>().ok()?.as_u64();
    // More would not be an address range; the allocator ends the process for less as well, but by its own message.
    (bytes <= 1 << 46).then_some(bytes)
}

fn parse_time(value: &str) -> Option<Duration> {
    humantime::parse_duration(value.trim()).ok()
}

fn parse_number<T: TryFrom<i64>>(value: &str, min: i64, max: i64) -> Option<T> {
    let number: i64 = value.trim().parse().ok()?;
    (min..=max).contains(&number).then(|| T::try_from(number).ok())?
}

#[cfg(test)]
mod tests {
    use super::option_table_markdown;

    #[test]
    fn documentation_has_the_option_table() {
        let page = include_str!("../../../docs/ANNOTATIONS.md");
        let table = option_table_markdown();
        assert!(page.contains(&table), "docs/ANNOTATIONS.md lacks this table:\n{table}");
    }
}
