//! Parses a 512-byte tar header strictly.
//!
//! The layout is that of POSIX `ustar` and of GNU tar. A number is octal text that ends with a space or NUL, or is
//! base-256 with the high bit of its first byte set. A header that readers could interpret differently is an error.

use thiserror::Error;

pub(crate) const BLOCK_BYTES: usize = 512;

/// The fields of a header, without extension headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TarHeader {
    pub(crate) name: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) type_flag: u8,
    pub(crate) link: Vec<u8>,
    /// Whether blocks with further sparse maps follow (old GNU format).
    pub(crate) sparse_continues: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum HeaderError {
    #[error("wrong header checksum: {stated} stated, {computed} computed")]
    Checksum { stated: u64, computed: u64 },
    #[error("the header field {0} is not a number")]
    Number(&'static str),
    #[error("neither a ustar nor a GNU tar header")]
    Magic,
    #[error("the header field {0} is out of range")]
    Range(&'static str),
}

impl TarHeader {
    /// Parses a block that is not all zeros.
    pub(crate) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, HeaderError> {
        let stated = parse_number(&block[148..156]).ok_or(HeaderError::Number("chksum"))?;
        let computed = checksum(block);
        // Historic tars summed signed bytes. The sums differ only for bytes above 0x7f.
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(|(index, byte)| checksum_term(index, *byte as i8))
            .sum();
        if stated != computed as i128 && stated != i128::from(signed) {
            let stated = u64::try_from(stated).unwrap_or(u64::MAX);
            return Err(HeaderError::Checksum { stated, computed });
        }
        let magic = &block[257..265];
        let posix = magic == b"ustar\x0000";
        if !posix && magic != b"ustar  \0" && magic != [0; 8] {
            return Err(HeaderError::Magic);
        }
        let field = |range: std::ops::Range<usize>, name| parse_number(&block[range]).ok_or(HeaderError::Number(name));
        let mode = field(100..108, "mode")?;
        field(108..116, "uid")?;
        field(116..124, "gid")?;
        let size = field(124..136, "size")?;
        let mtime = field(136..148, "mtime")?;
        let mut name = field_text(&block[0..100]).to_vec();
        let prefix = field_text(&block[345..500]);
        if posix && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            name,
            mode: u32::try_from(mode).map_err(|_| HeaderError::Range("mode"))?,
            size: u64::try_from(size)
                .ok()
                .filter(|size| *size <= i64::MAX as u64)
                .ok_or(HeaderError::Range("size"))?,
            mtime: i64::try_from(mtime).map_err(|_| HeaderError::Range("mtime"))?,
            type_flag: block[156],
            link: field_text(&block[157..257]).to_vec(),
            sparse_continues: block[156] == b'S' && block[482] != 0,
        })
    }
}

/// The sum of the header's bytes, with its checksum field counted as spaces.
pub(crate) fn checksum(block: &[u8; BLOCK_BYTES]) -> u64 {
    block
        .iter()
        .enumerate()
        .map(|(index, byte)| {
            if (148..156).contains(&index) {
                32
            } else {
                u64::from(*byte)
            }
        })
        .sum()
}

fn checksum_term(index: usize, byte: i8) -> i64 {
    if (148..156).contains(&index) {
        32
    } else {
        i64::from(byte)
    }
}

fn field_text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// The number in a field. An empty field is zero, as in all readers.
fn parse_number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        // Base-256: two's complement, without the marker bit.
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
        }
        return Some(value);
    }
    let digits = field_text(field).trim_ascii();
    digits.iter().try_fold(0_i128, |value, digit| match digit {
        b'0'..=b'7' => Some(value * 8 + i128::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"0000644\0", Some(0o644))]
    #[case(b"   644 \0", Some(0o644))]
    #[case(b"\0\0\0\0\0\0\0\0", Some(0))]
    #[case(b"0000689\0", None)]
    #[case(b"-000001\0", None)]
    #[case(b"\x80\0\0\0\0\0\x01\0", Some(256))]
    #[case(b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1))]
    #[case(b"12 34\0\0\0", None)]
    fn parses_numbers(#[case] field: &[u8], #[case] expected: Option<i128>) {
        assert_eq!(parse_number(field), expected);
    }

    fn header_block(change: impl FnOnce(&mut [u8; BLOCK_BYTES])) -> [u8; BLOCK_BYTES] {
        let mut header = tar::Header::new_ustar();
        header.set_path("a/b").expect("a short path");
        header.set_mode(0o600);
        header.set_size(3);
        header.set_mtime(7);
        header.set_cksum();
        let mut block = *header.as_bytes();
        change(&mut block);
        block
    }

    fn fix_checksum(block: &mut [u8; BLOCK_BYTES]) {
        let sum = format!("{:06o}\0 ", checksum(block));
        block[148..156].copy_from_slice(sum.as_bytes());
    }

    #[test]
    fn reads_headers_of_the_tar_crate() {
        let header = TarHeader::parse(&header_block(|_| {})).expect("a good header");
        assert_eq!(
            (header.name.as_slice(), header.size, header.mode, header.mtime),
            (&b"a/b"[..], 3, 0o600, 7)
        );
    }

    #[test]
    fn detects_a_changed_byte() {
        assert!(matches!(
            TarHeader::parse(&header_block(|b| b[0] = b'z')),
            Err(HeaderError::Checksum { .. })
        ));
    }

    #[test]
    fn rejects_impossible_sizes() {
        let too_large = header_block(|b| {
            b[124..136].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
            fix_checksum(b);
        });
        assert_eq!(TarHeader::parse(&too_large), Err(HeaderError::Range("size")));
        let negative = header_block(|b| {
            b[124..136].copy_from_slice(&[0xff; 12]);
            fix_checksum(b);
        });
        assert_eq!(TarHeader::parse(&negative), Err(HeaderError::Range("size")));
    }

    #[test]
    fn rejects_random_blocks() {
        assert!(TarHeader::parse(&[0x41; BLOCK_BYTES]).is_err());
    }
}
