//! The signal actions that `/proc` shows.

use cri_proto::criu::{message::SaEntry, sigaction_signals};

/// `SIG_IGN`.
const SIG_IGN: u64 = 1;

/// The actions as far as `/proc` shows them: ignored or default. Handlers are unknown.
pub(super) fn actions_from_status(ignored: u64) -> Vec<SaEntry> {
    sigaction_signals()
        .map(|signal| SaEntry {
            sigaction: match ignored & (1 << (signal - 1)) {
                0 => 0,
                _ => SIG_IGN,
            },
            ..SaEntry::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_at_the_positions_criu_reads() {
        let actions = actions_from_status(1 << (13 - 1) | 1 << (1 - 1) | 1 << (64 - 1));
        assert_eq!(actions.len(), 62);
        let ignored: Vec<_> = (0..62).filter(|index| actions[*index].sigaction == SIG_IGN).collect();
        // SIGHUP, SIGPIPE (shifted by SIGKILL), signal 64 (shifted by SIGKILL and SIGSTOP).
        assert_eq!(ignored, [0, 11, 61]);
    }
}
