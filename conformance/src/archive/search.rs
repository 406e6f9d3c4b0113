//! Finding bytes in a stream that is seen piece by piece.

use memchr::memmem::Finder;

/// Where bytes were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The member.
    pub member: String,
    /// Bytes from the member's beginning.
    pub offset: u64,
}

/// Looks for one needle in many members, one after the other. Memory: twice the needle.
#[derive(Debug)]
pub(crate) struct Search {
    finder: Finder<'static>,
    /// The end of what was seen, as long as a match can begin in it.
    tail: Vec<u8>,
    /// Bytes of the current member that were seen.
    seen: u64,
    first: Option<Found>,
    members: usize,
    hit: bool,
}

impl Search {
    /// An empty needle is found nowhere.
    pub(crate) fn new(needle: &[u8]) -> Self {
        let finder = Finder::new(needle).into_owned();
        Self {
            finder,
            tail: Vec::new(),
            seen: 0,
            first: None,
            members: 0,
            hit: false,
        }
    }

    /// A new member begins: nothing is found across two of them.
    pub(crate) fn begin(&mut self) {
        self.tail.clear();
        self.seen = 0;
        self.hit = false;
    }

    /// Looks at the next bytes of `member`.
    pub(crate) fn feed(&mut self, member: &str, bytes: &[u8]) {
        let length = self.finder.needle().len();
        if length == 0 || self.hit {
            return;
        }
        let keep = length - 1;
        // A match that begins in what was seen before ends in the first bytes of what is new.
        let before = self.tail.len();
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend_from_slice(&bytes[..bytes.len().min(keep)]);
        let found = self.finder.find(&seam).map(|at| self.seen - before as u64 + at as u64);
        let found = found.or_else(|| self.finder.find(bytes).map(|at| self.seen + at as u64));
        if let Some(offset) = found {
            self.hit = true;
            self.members += 1;
            self.first.get_or_insert_with(|| Found {
                member: member.to_owned(),
                offset,
            });
            return;
        }
        if bytes.len() >= keep {
            seam.clear();
            seam.extend_from_slice(&bytes[bytes.len() - keep..]);
        } else {
            let drop = seam.len().saturating_sub(keep);
            seam.drain(..drop);
        }
        self.tail = seam;
        self.seen += bytes.len() as u64;
    }

    /// Where it was found first.
    pub(crate) fn first(&self) -> Option<&Found> {
        self.first.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_find_what_the_whole_holds(
            hay in proptest::collection::vec(0..3_u8, 0..80),
            needle in proptest::collection::vec(0..3_u8, 1..6),
            cuts in proptest::collection::vec(1..9_usize, 1..40),
        ) {
            let mut search = Search::new(&needle);
            search.begin();
            let mut rest = hay.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                search.feed("pages-1.img", piece);
                rest = left;
            }
            let expected = hay.windows(needle.len()).position(|window| window == needle).map(|at| at as u64);
            prop_assert_eq!(search.first().map(|found| found.offset), expected);
        }
    }

    #[test]
    fn nothing_is_found_across_members_and_nothing_is_nowhere() {
        let mut search = Search::new(b"ab");
        search.feed("one", b"xa");
        search.begin();
        search.feed("two", b"bx");
        assert_eq!(search.first(), None);
        let mut empty = Search::new(b"");
        empty.feed("one", b"abc");
        assert_eq!(empty.first(), None);
    }
}
