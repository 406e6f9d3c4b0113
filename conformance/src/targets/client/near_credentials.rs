//! Credentials that are almost valid, with one defect each.

/// The defect of a client certificate that is otherwise that of the authorized user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvalidCertificate {
    /// Its validity has ended.
    Expired,
    /// Its validity has not begun.
    NotYetValid,
    /// It is valid for servers only (extended key usage).
    ServerAuthOnly,
    /// Its issuer has the name of the kubelet's client CA and another key.
    NamesakeAuthority,
}

/// How a bearer token differs from a valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenAlteration {
    /// Without the last byte.
    LastByteRemoved,
    /// Without the first byte.
    FirstByteRemoved,
    /// With another byte at the end.
    ByteAppended,
    /// The last byte is another one.
    LastByteChanged,
    /// The byte in the middle is another one.
    MiddleByteChanged,
    /// The first eight bytes are those of the token, the others are not.
    OnlyPrefixKept,
    /// Another token of the same length.
    SameLength,
    /// Every letter has the other case.
    CaseSwapped,
    /// The token is the second word after the scheme.
    AfterOtherWord,
}

impl TokenAlteration {
    /// All alterations.
    pub const ALL: [TokenAlteration; 9] = [
        TokenAlteration::LastByteRemoved,
        TokenAlteration::FirstByteRemoved,
        TokenAlteration::ByteAppended,
        TokenAlteration::LastByteChanged,
        TokenAlteration::MiddleByteChanged,
        TokenAlteration::OnlyPrefixKept,
        TokenAlteration::SameLength,
        TokenAlteration::CaseSwapped,
        TokenAlteration::AfterOtherWord,
    ];

    /// The altered token; `None` if this alteration does not change the token.
    pub fn apply(self, token: &str) -> Option<String> {
        const PREFIX_BYTES: usize = 8;
        // Tokens are ASCII (RFC 6750, `b64token`).
        let bytes = token.as_bytes();
        let changed_at = |index: usize| {
            let mut bytes = bytes.to_vec();
            bytes[index] = other_byte(bytes[index]);
            bytes
        };
        let altered = match self {
            _ if bytes.len() <= PREFIX_BYTES => return None,
            TokenAlteration::LastByteRemoved => bytes[..bytes.len() - 1].to_vec(),
            TokenAlteration::FirstByteRemoved => bytes[1..].to_vec(),
            TokenAlteration::ByteAppended => [bytes, b"0"].concat(),
            TokenAlteration::LastByteChanged => changed_at(bytes.len() - 1),
            TokenAlteration::MiddleByteChanged => changed_at(bytes.len() / 2),
            TokenAlteration::OnlyPrefixKept => {
                let rest = bytes[PREFIX_BYTES..].iter().map(|byte| other_byte(*byte));
                bytes[..PREFIX_BYTES].iter().copied().chain(rest).collect()
            }
            TokenAlteration::SameLength => bytes.iter().map(|byte| other_byte(*byte)).collect(),
            TokenAlteration::CaseSwapped => bytes.iter().map(|byte| swap_case(*byte)).collect(),
            TokenAlteration::AfterOtherWord => [b"token ", bytes].concat(),
        };
        let altered = String::from_utf8(altered).ok()?;
        (altered != token).then_some(altered)
    }
}

fn swap_case(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { byte }
}

/// Another byte that a token may have. In base64url it differs in the highest bit: the lowest bits of the last byte of
/// a signature may be padding, which decoders ignore.
fn other_byte(byte: u8) -> u8 {
    const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    match BASE64URL.iter().position(|letter| *letter == byte) {
        Some(index) => BASE64URL[(index + 32) % 64],
        None => b'A',
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_alteration_of_a_token_is_another_token() {
        let token = "1f0e2d3c4b5a69788796a5b4c3d2e1f0";
        let altered: BTreeSet<_> = TokenAlteration::ALL
            .iter()
            .map(|alteration| alteration.apply(token).unwrap())
            .collect();
        assert_eq!(altered.len(), TokenAlteration::ALL.len());
        assert!(!altered.contains(token));
        assert_eq!(TokenAlteration::SameLength.apply(token).unwrap().len(), token.len());
    }

    #[test]
    fn a_token_without_letters_has_no_other_case() {
        assert_eq!(TokenAlteration::CaseSwapped.apply("0123456789"), None);
        assert_eq!(TokenAlteration::ByteAppended.apply("short"), None);
    }

    #[test]
    fn the_last_byte_changes_its_highest_bit() {
        assert_eq!(
            TokenAlteration::LastByteChanged.apply("AAAAAAAAAA").as_deref(),
            Some("AAAAAAAAAg")
        );
    }
}
