//! Searches for bytes in a stream that arrives in chunks.

use memchr::memmem::Finder;

/// The position of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchPosition {
    /// The name of the member.
    pub member: String,
    /// The offset in the member, in bytes.
    pub offset: u64,
}

/// Searches for one needle in one member after the other. Uses twice the memory of the needle.
#[derive(Debug)]
pub(crate) struct NeedleSearch {
    finder: Finder<'static>,
    /// The last bytes of the previous chunks in which a match could begin.
    carry: Vec<u8>,
    consumed: u64,
    first_match: Option<MatchPosition>,
    member_count: usize,
    found_in_member: bool,
}

impl NeedleSearch {
    /// An empty needle never matches.
    pub(crate) fn new(needle: &[u8]) -> Self {
        let finder = Finder::new(needle).into_owned();
        Self {
            finder,
            carry: Vec::new(),
            consumed: 0,
            first_match: None,
            member_count: 0,
            found_in_member: false,
        }
    }

    /// Starts a new member. There are no matches across members.
    pub(crate) fn begin_member(&mut self) {
        self.carry.clear();
        self.consumed = 0;
        self.found_in_member = false;
    }

    pub(crate) fn feed(&mut self, member: &str, bytes: &[u8]) {
        let length = self.finder.needle().len();
        if length == 0 || self.found_in_member {
            return;
        }
        let carry_len = length - 1;
        // A match that begins in a previous chunk ends in the first bytes of this chunk.
        let carried = self.carry.len();
        let mut overlap = std::mem::take(&mut self.carry);
        overlap.extend_from_slice(&bytes[..bytes.len().min(carry_len)]);
        let position = self
            .finder
            .find(&overlap)
            .map(|at| self.consumed - carried as u64 + at as u64);
        let position = position.or_else(|| self.finder.find(bytes).map(|at| self.consumed + at as u64));
        if let Some(offset) = position {
            self.found_in_member = true;
            self.member_count += 1;
            self.first_match.get_or_insert_with(|| MatchPosition {
                member: member.to_owned(),
                offset,
            });
            return;
        }
        if bytes.len() >= carry_len {
            overlap.clear();
            overlap.extend_from_slice(&bytes[bytes.len() - carry_len..]);
        } else {
            let excess = overlap.len().saturating_sub(carry_len);
            overlap.drain(..excess);
        }
        self.carry = overlap;
        self.consumed += bytes.len() as u64;
    }

    pub(crate) fn first_match(&self) -> Option<&MatchPosition> {
        self.first_match.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunked_search_equals_whole_search(
            hay in proptest::collection::vec(0..3_u8, 0..80),
            needle in proptest::collection::vec(0..3_u8, 1..6),
            cuts in proptest::collection::vec(1..9_usize, 1..40),
        ) {
            let mut search = NeedleSearch::new(&needle);
            search.begin_member();
            let mut rest = hay.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, left) = rest.split_at((*cut).min(rest.len()));
                search.feed("pages-1.img", chunk);
                rest = left;
            }
            let expected = hay.windows(needle.len()).position(|window| window == needle).map(|at| at as u64);
            prop_assert_eq!(search.first_match().map(|found| found.offset), expected);
        }
    }

    #[test]
    fn never_matches_across_members_or_an_empty_needle() {
        let mut search = NeedleSearch::new(b"ab");
        search.feed("one", b"xa");
        search.begin_member();
        search.feed("two", b"bx");
        assert_eq!(search.first_match(), None);
        let mut empty = NeedleSearch::new(b"");
        empty.feed("one", b"abc");
        assert_eq!(empty.first_match(), None);
    }
}
