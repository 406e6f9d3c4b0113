//! The options of the test workload: the command line, the annotations and the documentation are derived from this
//! table.

use std::{path::PathBuf, time::Duration};

use super::{ANNOTATION_PREFIX, MemoryPattern, OnSigterm, WorkloadOptions};

/// An option.
pub struct OptionRow {
    /// The name: `--NAME` on the command line, `fake-cri.dev/NAME` as an annotation.
    pub name: &'static str,
    /// The allowed values, in words.
    pub value_help: &'static str,
    /// The default value, in words.
    pub default: &'static str,
    /// The effect of the option.
    pub meaning: &'static str,
    /// Parses and sets the value; `None` if the value is invalid.
    pub(super) set: fn(&mut WorkloadOptions, &str) -> Option<()>,
}

/// Returns all options in the order of the documentation.
pub fn option_table() -> &'static [OptionRow] {
    &OPTION_TABLE
}

/// Returns the options as a Markdown table, for docs/ANNOTATIONS.md.
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
        meaning: "memory that each process writes and keeps",
        set: |options, value| set_if_valid(&mut options.memory, parse_size(value)),
    },
    OptionRow {
        name: "memory-pattern",
        value_help: "`random`, `zero` or `text`",
        default: "`random`",
        meaning: "the content of that memory",
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
        meaning: "threads of each process, including the main thread",
        set: |options, value| set_if_valid(&mut options.threads, parse_number(value, 1, 10_000)),
    },
    OptionRow {
        name: "children",
        value_help: "0 to 1000",
        default: "0",
        meaning: "child processes that the first process forks, each with its own memory, threads and files",
        set: |options, value| set_if_valid(&mut options.children, parse_number(value, 0, 1_000)),
    },
    OptionRow {
        name: "open-files",
        value_help: "0 to 1000",
        default: "0",
        meaning: "open files of each process beside its standard streams",
        set: |options, value| set_if_valid(&mut options.open_files, parse_number(value, 0, 1_000)),
    },
    OptionRow {
        name: "exit-after",
        value_help: TIME_HELP,
        default: "never",
        meaning: "the time from the start to the exit",
        set: |options, value| set_if_valid(&mut options.exit_after, parse_time(value)),
    },
    OptionRow {
        name: "exit-code",
        value_help: EXIT_CODE_HELP,
        default: "0",
        meaning: "the exit code after that time",
        set: |options, value| set_if_valid(&mut options.exit_code, parse_number(value, 0, 255)),
    },
    OptionRow {
        name: "canaries",
        value_help: "`yes` or `no`",
        default: "`no`",
        meaning: "a canary each on the main stack, on a thread's stack, in shared memory and on the heap",
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
        meaning: "the interval of `heartbeat` lines",
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
        meaning: "the effect of SIGTERM: exit with code 0, or none",
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
        meaning: "the working directory that the workload changes to",
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
        meaning: "the standard output of an ExecSync response (the command is not run)",
        set: |options, value| set_if_valid(&mut options.exec_stdout, Some(value.to_owned())),
    },
    OptionRow {
        name: "exec-stderr",
        value_help: "any text",
        default: "empty",
        meaning: "the standard error of an ExecSync response",
        set: |options, value| set_if_valid(&mut options.exec_stderr, Some(value.to_owned())),
    },
    OptionRow {
        name: "exec-exit-code",
        value_help: EXIT_CODE_HELP,
        default: "0",
        meaning: "the exit code of an ExecSync response",
        set: |options, value| set_if_valid(&mut options.exec_exit_code, parse_number(value, 0, 255)),
    },
    OptionRow {
        name: "exec-delay",
        value_help: TIME_HELP,
        default: "none",
        meaning: "the delay of an ExecSync response",
        set: |options, value| set_if_valid(&mut options.exec_delay, parse_time(value)),
    },
];

fn set_if_valid<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    *slot = Some(value?);
    Some(())
}

/// Parses sizes in the notation of Kubernetes quantities (`256Mi`, `1G`) and with a unit after a space (`256 MiB`).
fn parse_size(value: &str) -> Option<u64> {
    let bytes = value.trim().parse::<bytesize::ByteSize>().ok()?.as_u64();
    // Larger sizes exceed the address space. For smaller ones that cannot be allocated the allocator aborts with its
    // own message.
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
