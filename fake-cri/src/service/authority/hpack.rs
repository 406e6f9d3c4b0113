//! Replaces the value of `:authority` in HPACK header blocks (RFC 7541), in place.
//!
//! A replacement has the same number of bytes, coded and decoded. Therefore the frames around the block do not change,
//! and the dynamic tables of both sides stay synchronized, because the size of an entry counts decoded bytes. The table
//! here only tracks which entries are named `:authority`, and the sizes that decide evictions.

use std::{collections::VecDeque, ops::Range};

use super::huffman;

const AUTHORITY_HEADER: &str = ":authority";

/// The names of the static table, which begins at index 1 (RFC 7541, Appendix A).
const STATIC_TABLE: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// The overhead of an entry in the dynamic table (RFC 7541, section 4.1).
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The initial size limit of the dynamic table (RFC 9113, SETTINGS_HEADER_TABLE_SIZE).
const DYNAMIC_TABLE_BYTES: usize = 4096;

/// The header block is invalid. h2, which decodes the block afterwards, reports the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedBlock;

struct DynamicEntry {
    is_authority: bool,
    name_bytes: usize,
    size: usize,
}

/// The dynamic table for the requests of one connection.
pub(super) struct DynamicTable {
    entries: VecDeque<DynamicEntry>,
    size: usize,
    limit: usize,
}

struct StringLiteral {
    range: Range<usize>,
    is_huffman: bool,
}

impl StringLiteral {
    fn decode(&self, block: &[u8]) -> Result<Vec<u8>, MalformedBlock> {
        let bytes = &block[self.range.clone()];
        match self.is_huffman {
            true => huffman::decode(bytes).ok_or(MalformedBlock),
            false => Ok(bytes.to_vec()),
        }
    }
}

impl DynamicTable {
    pub(super) fn new() -> DynamicTable {
        DynamicTable {
            entries: VecDeque::new(),
            size: 0,
            limit: DYNAMIC_TABLE_BYTES,
        }
    }

    /// Decodes a block and replaces the value of each literal `:authority` for which `replace` returns a value. The
    /// arguments of `replace` are the decoded value and whether it is Huffman-coded. The returned value must have the
    /// same length, coded and decoded.
    pub(super) fn replace_authority(
        &mut self,
        block: &mut [u8],
        replace: impl Fn(&[u8], bool) -> Option<Vec<u8>>,
    ) -> Result<(), MalformedBlock> {
        let mut offset = 0;
        while let Some(first) = block.get(offset).copied() {
            match first {
                0x80.. => {
                    read_integer(block, &mut offset, 7)?;
                }
                0x20..0x40 => {
                    self.limit = read_integer(block, &mut offset, 5)?;
                    self.evict();
                }
                _ => {
                    let is_indexed = first >= 0x40;
                    let index = read_integer(block, &mut offset, if is_indexed { 6 } else { 4 })?;
                    let (is_authority, name_bytes) = match index {
                        0 => {
                            let name = read_string(block, &mut offset)?.decode(block)?;
                            (name == AUTHORITY_HEADER.as_bytes(), name.len())
                        }
                        index => self.entry_name(index)?,
                    };
                    let value = read_string(block, &mut offset)?;
                    let decoded = value.decode(block)?;
                    if is_authority && let Some(replacement) = replace(&decoded, value.is_huffman) {
                        debug_assert_eq!(replacement.len(), decoded.len());
                        let encoded = &mut block[value.range.clone()];
                        match value.is_huffman {
                            true => huffman::encode_into(encoded, &replacement),
                            false => encoded.copy_from_slice(&replacement),
                        }
                    }
                    if is_indexed {
                        let size = name_bytes + decoded.len() + ENTRY_OVERHEAD_BYTES;
                        self.size += size;
                        self.entries.push_front(DynamicEntry {
                            is_authority,
                            name_bytes,
                            size,
                        });
                        self.evict();
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks up the name of an index. Returns whether it is `:authority`, and its length.
    fn entry_name(&self, index: usize) -> Result<(bool, usize), MalformedBlock> {
        if let Some(name) = STATIC_TABLE.get(index - 1) {
            return Ok((*name == AUTHORITY_HEADER, name.len()));
        }
        let entry = self.entries.get(index - 1 - STATIC_TABLE.len()).ok_or(MalformedBlock)?;
        Ok((entry.is_authority, entry.name_bytes))
    }

    fn evict(&mut self) {
        while self.size > self.limit
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// Reads an integer with a prefix of `prefix` bits in its first byte (RFC 7541, section 5.1).
fn read_integer(block: &[u8], offset: &mut usize, prefix: u32) -> Result<usize, MalformedBlock> {
    let mut next = || {
        let byte = block.get(*offset).copied().ok_or(MalformedBlock);
        *offset += 1;
        byte.map(usize::from)
    };
    let largest = (1 << prefix) - 1;
    let mut value = next()? & largest;
    if value < largest {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(MalformedBlock)
}

/// Reads a string literal (RFC 7541, section 5.2).
fn read_string(block: &[u8], offset: &mut usize) -> Result<StringLiteral, MalformedBlock> {
    let is_huffman = block.get(*offset).ok_or(MalformedBlock)? & 0x80 != 0;
    let length = read_integer(block, offset, 7)?;
    let range = *offset..offset.checked_add(length).ok_or(MalformedBlock)?;
    if range.end > block.len() {
        return Err(MalformedBlock);
    }
    *offset = range.end;
    Ok(StringLiteral { range, is_huffman })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces every byte of a raw string by `x`; does not change Huffman-coded strings.
    fn replace_with_x(value: &[u8], coded: bool) -> Option<Vec<u8>> {
        (!coded).then(|| vec![b'x'; value.len()])
    }

    fn literal_field(prefix: &[u8], value: &str) -> Vec<u8> {
        let mut block = prefix.to_vec();
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
        block
    }

    #[test]
    fn authority_is_found_by_index_and_by_name() {
        let mut table = DynamicTable::new();
        let mut named = vec![0x40, 10];
        named.extend_from_slice(b":authority");
        // With indexing: static index, literal name, newest entry of the dynamic table. Then never indexed, not indexed
        // (static index), and not indexed (dynamic index).
        for prefix in [
            vec![0x41],
            named.clone(),
            vec![0x40 | 62],
            vec![0x11],
            vec![0x01],
            vec![0x0f, 62 - 15],
        ] {
            let mut block = literal_field(&prefix, "a%b");
            table.replace_authority(&mut block, replace_with_x).unwrap();
            assert_eq!(block, literal_field(&prefix, "xxx"), "{prefix:?}");
        }
        // Another name, and an indexed field.
        let mut block = literal_field(&[0x44], "a%b");
        block.push(0x80 | 62);
        let before = block.clone();
        table.replace_authority(&mut block, replace_with_x).unwrap();
        assert_eq!(block, before);
    }

    #[test]
    fn eviction_follows_the_rfc_examples() {
        // RFC 7541, C.5: the responses evict entries from a table of 256 bytes.
        let mut table = DynamicTable::new();
        let mut block = vec![0x3f, 0xe1, 0x01];
        assert_eq!(table.replace_authority(&mut block, replace_with_x), Ok(()));
        assert_eq!(table.limit, 256);
        for value in [
            "302",
            "private",
            "Mon, 21 Oct 2013 20:13:21 GMT",
            "https://www.example.com",
        ] {
            let index = match value {
                "302" => 8,
                "private" => 24,
                "https://www.example.com" => 46,
                _ => 33,
            };
            table
                .replace_authority(&mut literal_field(&[0x40 | index], value), replace_with_x)
                .unwrap();
        }
        assert_eq!((table.entries.len(), table.size), (4, 222));
        table
            .replace_authority(&mut literal_field(&[0x48], "307"), replace_with_x)
            .unwrap();
        assert_eq!((table.entries.len(), table.size), (4, 222));
        let mut none = vec![0x20];
        table.replace_authority(&mut none, replace_with_x).unwrap();
        assert_eq!((table.entries.len(), table.size), (0, 0));
    }

    #[test]
    fn truncated_or_invalid_blocks_are_refused() {
        let complete = literal_field(&[0x41], "abc");
        for length in 1..complete.len() {
            let mut block = complete[..length].to_vec();
            assert_eq!(
                DynamicTable::new().replace_authority(&mut block, replace_with_x),
                Err(MalformedBlock),
                "{length}"
            );
        }
        for mut block in [
            literal_field(&[0x40 | 62], "abc"),
            vec![0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(
                DynamicTable::new().replace_authority(&mut block, replace_with_x),
                Err(MalformedBlock)
            );
        }
    }
}
