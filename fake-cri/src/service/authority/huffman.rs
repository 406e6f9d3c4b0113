//! The Huffman code of HPACK (RFC 7541, Appendix B).
//!
//! The code is canonical: the codes of one length are consecutive in the order of their symbols, and each length begins
//! where the previous one ended. Therefore the code lengths define the whole code.

use std::sync::LazyLock;

/// The number of bits of each byte's code.
const CODE_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];

const CODE_MAX_BITS: usize = 30;

struct CodeTable {
    by_symbol: [u32; 256],
    /// The symbols in the order of their codes.
    symbols: Vec<u8>,
    /// For each length: the first code, the index of its symbol in `symbols`, and the number of codes.
    by_length: [(u32, usize, usize); CODE_MAX_BITS + 1],
}

static CODES: LazyLock<CodeTable> = LazyLock::new(|| {
    let mut codes = CodeTable {
        by_symbol: [0; 256],
        symbols: Vec::with_capacity(256),
        by_length: [(0, 0, 0); CODE_MAX_BITS + 1],
    };
    let mut code = 0;
    for length in 1..=CODE_MAX_BITS {
        code <<= 1;
        let symbols = (0..=u8::MAX).filter(|symbol| usize::from(CODE_LENGTHS[usize::from(*symbol)]) == length);
        let (first, start_index) = (code, codes.symbols.len());
        for symbol in symbols {
            codes.by_symbol[usize::from(symbol)] = code;
            codes.symbols.push(symbol);
            code += 1;
        }
        codes.by_length[length] = (first, start_index, codes.symbols.len() - start_index);
    }
    codes
});

pub(super) fn code_bits(symbol: u8) -> u8 {
    CODE_LENGTHS[usize::from(symbol)]
}

/// Decodes a string. Returns `None` for an invalid code or invalid padding.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let codes = &*CODES;
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut length) = (0u32, 0);
    for bit in coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit_index| byte >> bit_index & 1))
    {
        code = code << 1 | u32::from(bit);
        length += 1;
        let (first, start_index, count) = *codes.by_length.get(length)?;
        let offset = code.wrapping_sub(first) as usize;
        if offset < count {
            decoded.push(codes.symbols[start_index + offset]);
            (code, length) = (0, 0);
        }
    }
    // The rest must be padding: less than a byte, and a prefix of EOS, which is all ones.
    (length < 8 && code == (1 << length) - 1).then_some(decoded)
}

/// Encodes a string into a buffer of the exact length. The padding is all ones.
pub(super) fn encode_into(coded: &mut [u8], symbols: &[u8]) {
    coded.fill(0xff);
    let mut bit_offset = 0;
    for symbol in symbols {
        let (code, length) = (CODES.by_symbol[usize::from(*symbol)], usize::from(code_bits(*symbol)));
        for bit_index in (0..length).rev() {
            if code >> bit_index & 1 == 0 {
                coded[bit_offset / 8] &= !(0x80 >> (bit_offset % 8));
            }
            bit_offset += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lengths_satisfy_kraft() {
        // Together with EOS, which has 30 bits, the code is complete (Kraft's equality).
        let sum: u64 = CODE_LENGTHS
            .iter()
            .map(|length| 1u64 << (CODE_MAX_BITS - usize::from(*length)))
            .sum();
        assert_eq!(sum + 1, 1 << CODE_MAX_BITS);
    }

    #[test]
    fn rfc_examples_round_trip() {
        // RFC 7541, C.4.1, C.4.2 and C.4.3.
        let examples: [(&[u8], &[u8]); 3] = [
            (
                b"www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff],
            ),
            (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            (b"custom-value", &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]),
        ];
        for (text, coded) in examples {
            assert_eq!(decode(coded).as_deref(), Some(text));
            let mut written = vec![0; coded.len()];
            encode_into(&mut written, text);
            assert_eq!(written, coded);
        }
    }

    #[test]
    fn all_bytes_round_trip_and_bad_padding_is_refused() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let bits: usize = all.iter().map(|symbol| usize::from(code_bits(*symbol))).sum();
        let mut coded = vec![0; bits.div_ceil(8)];
        encode_into(&mut coded, &all);
        assert_eq!(decode(&coded), Some(all));
        // The code of "0" is five zero bits, and three zero bits are not a prefix of EOS. Eight padding bits are too
        // many.
        assert_eq!(decode(&[0]), None);
        assert_eq!(decode(&[0xff]), None);
    }
}
