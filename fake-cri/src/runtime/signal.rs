//! Conversion of signal names and of the CRI's signal enum, whose values are not the kernel's numbers.

use cri_proto::runtime::v1;
use nix::libc;

/// The kernel's number for a signal of the CRI; `None` for RUNTIME_DEFAULT.
pub fn cri_signal_number(signal: v1::Signal) -> Option<i32> {
    match signal {
        v1::Signal::RuntimeDefault => None,
        other => signal_number(other.as_str_name().strip_prefix("SIGNAL_")?),
    }
}

/// Parses a stop signal as in an image config: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper_case = text.to_ascii_uppercase();
    let without_sig = upper_case.strip_prefix("SIG").unwrap_or(&upper_case);
    signal_number(&format!(
        "SIG{}",
        without_sig.replace('+', "PLUS").replace('-', "MINUS")
    ))
}

fn signal_number(name: &str) -> Option<i32> {
    if let Some(rest) = name.strip_prefix("SIGRTMINPLUS") {
        return rest
            .parse::<i32>()
            .ok()
            .map(|offset| libc::SIGRTMIN() + offset)
            .filter(|signal| *signal <= libc::SIGRTMAX());
    }
    if let Some(rest) = name.strip_prefix("SIGRTMAXMINUS") {
        return rest
            .parse::<i32>()
            .ok()
            .map(|offset| libc::SIGRTMAX() - offset)
            .filter(|signal| *signal >= libc::SIGRTMIN());
    }
    match name {
        "SIGRTMIN" => Some(libc::SIGRTMIN()),
        "SIGRTMAX" => Some(libc::SIGRTMAX()),
        "SIGIOT" => Some(libc::SIGABRT),
        "SIGCLD" => Some(libc::SIGCHLD),
        "SIGPOLL" => Some(libc::SIGIO),
        other => other
            .parse::<nix::sys::signal::Signal>()
            .ok()
            .map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn every_cri_signal_has_a_number() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            let number = cri_signal_number(signal);
            assert!(
                number.is_some_and(|number| (1..=64).contains(&number)),
                "{signal:?}: {number:?}"
            );
        }
        assert_eq!(cri_signal_number(v1::Signal::RuntimeDefault), None);
    }

    #[rstest]
    #[case("SIGTERM", Some(15))]
    #[case("quit", Some(3))]
    #[case("9", Some(9))]
    #[case("SIGRTMIN+3", Some(37))]
    #[case("SIGRTMAX-1", Some(63))]
    #[case("SIGNOTHING", None)]
    #[case("99", None)]
    #[case("", None)]
    fn parses_signal_names(#[case] text: &str, #[case] expected: Option<i32>) {
        assert_eq!(parse_signal(text), expected);
    }
}
