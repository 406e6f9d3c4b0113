//! Header blocks of HPACK (RFC 7541), as far as it takes to replace the value of `:authority` in place.
//!
//! Nothing changes its length: a value keeps its number of bytes, coded and decoded. So the frames around a block stay as they
//! are, and the dynamic tables of both sides stay in step: an entry's size counts decoded bytes. Followed here are only which
//! entries of the table are named `:authority`, and the sizes that make entries leave it.

use std::{collections::VecDeque, ops::Range};

use super::huffman;

const AUTHORITY: &str = ":authority";

/// The names of the static table, in their order from 1 (RFC 7541, Appendix A).
const STATIC: [&str; 61] = [
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

/// What an entry of the dynamic table takes beside its name and value (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The size of a dynamic table that no settings changed, in bytes (RFC 9113, SETTINGS_HEADER_TABLE_SIZE).
const TABLE_BYTES: usize = 4096;

/// A block that is not one. The decoder behind will say why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// An entry of the dynamic table.
struct Entry {
    is_authority: bool,
    name_bytes: usize,
    size: usize,
}

/// The dynamic table of one direction of a connection.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

/// A string literal in a block.
struct Text {
    range: Range<usize>,
    coded: bool,
}

impl Text {
    /// Its bytes, decoded.
    fn decode(&self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let bytes = &block[self.range.clone()];
        match self.coded {
            true => huffman::decode(bytes).ok_or(Malformed),
            false => Ok(bytes.to_vec()),
        }
    }
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            entries: VecDeque::new(),
            size: 0,
            limit: TABLE_BYTES,
        }
    }

    /// Goes through a block, and puts what `replace` gives for the value of a literal `:authority` in its place. It is told the
    /// value and whether it is Huffman-coded; what it gives must take the same room.
    pub(super) fn replace_authority(
        &mut self,
        block: &mut [u8],
        replace: impl Fn(&[u8], bool) -> Option<Vec<u8>>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(first) = block.get(at).copied() {
            match first {
                0x80.. => {
                    integer(block, &mut at, 7)?;
                }
                0x20..0x40 => {
                    self.limit = integer(block, &mut at, 5)?;
                    self.evict();
                }
                _ => {
                    let kept = first >= 0x40;
                    let index = integer(block, &mut at, if kept { 6 } else { 4 })?;
                    let (is_authority, name_bytes) = match index {
                        0 => {
                            let name = text(block, &mut at)?.decode(block)?;
                            (name == AUTHORITY.as_bytes(), name.len())
                        }
                        index => self.name(index)?,
                    };
                    let value = text(block, &mut at)?;
                    let decoded = value.decode(block)?;
                    if is_authority && let Some(other) = replace(&decoded, value.coded) {
                        debug_assert_eq!(other.len(), decoded.len());
                        let place = &mut block[value.range.clone()];
                        match value.coded {
                            true => huffman::encode_over(place, &other),
                            false => place.copy_from_slice(&other),
                        }
                    }
                    if kept {
                        let size = name_bytes + decoded.len() + ENTRY_OVERHEAD;
                        self.size += size;
                        self.entries.push_front(Entry {
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

    /// The name of an index: whether it is `:authority`, and its length.
    fn name(&self, index: usize) -> Result<(bool, usize), Malformed> {
        if let Some(name) = STATIC.get(index - 1) {
            return Ok((*name == AUTHORITY, name.len()));
        }
        let entry = self.entries.get(index - 1 - STATIC.len()).ok_or(Malformed)?;
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

/// An integer whose first byte has a prefix of so many bits (RFC 7541, section 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Result<usize, Malformed> {
    let mut next = || {
        let byte = block.get(*at).copied().ok_or(Malformed);
        *at += 1;
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
    Err(Malformed)
}

/// A string literal (RFC 7541, section 5.2).
fn text(block: &[u8], at: &mut usize) -> Result<Text, Malformed> {
    let coded = block.get(*at).ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let range = *at..at.checked_add(length).ok_or(Malformed)?;
    if range.end > block.len() {
        return Err(Malformed);
    }
    *at = range.end;
    Ok(Text { range, coded })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces with as many `x` as there are bytes, in raw strings only.
    fn x(value: &[u8], coded: bool) -> Option<Vec<u8>> {
        (!coded).then(|| vec![b'x'; value.len()])
    }

    fn literal(prefix: &[u8], value: &str) -> Vec<u8> {
        let mut block = prefix.to_vec();
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
        block
    }

    #[test]
    fn the_name_is_found_in_the_static_table_in_words_and_in_the_dynamic_table() {
        let mut table = Table::new();
        let mut named = vec![0x40, 10];
        named.extend_from_slice(b":authority");
        // With indexing by the static table; in words; by the newest entry of the dynamic table; never and not indexed.
        for prefix in [
            vec![0x41],
            named.clone(),
            vec![0x40 | 62],
            vec![0x11],
            vec![0x01],
            vec![0x0f, 62 - 15],
        ] {
            let mut block = literal(&prefix, "a%b");
            table.replace_authority(&mut block, x).unwrap();
            assert_eq!(block, literal(&prefix, "xxx"), "{prefix:?}");
        }
        // Another name, and a reference to a whole entry.
        let mut block = literal(&[0x44], "a%b");
        block.push(0x80 | 62);
        let before = block.clone();
        table.replace_authority(&mut block, x).unwrap();
        assert_eq!(block, before);
    }

    #[test]
    fn entries_leave_the_table_as_in_the_decoders() {
        // RFC 7541, C.5: a table of 256 bytes, of which the answers evict.
        let mut table = Table::new();
        let mut block = vec![0x3f, 0xe1, 0x01];
        assert_eq!(table.replace_authority(&mut block, x), Ok(()));
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
                .replace_authority(&mut literal(&[0x40 | index], value), x)
                .unwrap();
        }
        assert_eq!((table.entries.len(), table.size), (4, 222));
        table.replace_authority(&mut literal(&[0x48], "307"), x).unwrap();
        assert_eq!((table.entries.len(), table.size), (4, 222));
        let mut none = vec![0x20];
        table.replace_authority(&mut none, x).unwrap();
        assert_eq!((table.entries.len(), table.size), (0, 0));
    }

    #[test]
    fn blocks_that_are_cut_or_name_nothing_are_malformed() {
        let whole = literal(&[0x41], "abc");
        for length in 1..whole.len() {
            let mut block = whole[..length].to_vec();
            assert_eq!(
                Table::new().replace_authority(&mut block, x),
                Err(Malformed),
                "{length}"
            );
        }
        for mut block in [
            literal(&[0x40 | 62], "abc"),
            vec![0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Table::new().replace_authority(&mut block, x), Err(Malformed));
        }
    }
}
