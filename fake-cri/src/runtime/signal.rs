//! Signals by their names and by the CRI's numbers, which are not the kernel's.

use cri_proto::runtime::v1;
use nix::libc;

/// The kernel's number of a signal of the CRI; `None` for "the runtime's default".
pub fn signal_from_cri(signal: v1::Signal) -> Option<i32> {
    match signal {
        v1::Signal::RuntimeDefault => None,
        other => number(other.as_str_name().strip_prefix("SIGNAL_")?),
    }
}

/// The kernel's number of a signal's name, as an image's config writes it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub fn signal_name(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    number(&format!("SIG{}", bare.replace('+', "PLUS").replace('-', "MINUS")))
}

fn number(name: &str) -> Option<i32> {
    if let Some(rest) = name.strip_prefix("SIGRTMINPLUS") {
        return rest
            .parse::<i32>()
            .ok()
            .map(|more| libc::SIGRTMIN() + more)
            .filter(|n| *n <= libc::SIGRTMAX());
    }
    if let Some(rest) = name.strip_prefix("SIGRTMAXMINUS") {
        return rest
            .parse::<i32>()
            .ok()
            .map(|less| libc::SIGRTMAX() - less)
            .filter(|n| *n >= libc::SIGRTMIN());
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
    fn every_signal_of_the_cri_has_a_number() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            let number = signal_from_cri(signal);
            assert!(
                number.is_some_and(|number| (1..=64).contains(&number)),
                "{signal:?}: {number:?}"
            );
        }
        assert_eq!(signal_from_cri(v1::Signal::RuntimeDefault), None);
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
    fn names(#[case] text: &str, #[case] expected: Option<i32>) {
        assert_eq!(signal_name(text), expected);
    }
}
