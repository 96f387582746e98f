//! The answer's copy: bounded, charged to the budget, and made beside the answer without holding it up.

use crate::analysis::material::Captured;
use crate::budget::Charge;
use crate::upload::pieces::Pieces;

/// What a byte of an answer takes of the budget: itself, what it is read into when it is compared (places of a document,
/// the record's text), and what the allocator keeps beside both. Measured with a candidate that answers everything with
/// 512 KB under a budget of 16 MiB: 2 left 30 MB more resident than at rest, 3 left 29, 4 leaves 25.
const WEIGHT: usize = 4;

/// A copy in the making.
#[derive(Debug)]
pub struct Capture {
    pieces: Pieces,
    bytes: usize,
    limit: usize,
    charge: Charge,
    refused: Option<Captured>,
}

impl Capture {
    /// An empty copy of at most so many bytes.
    pub fn new(limit: usize, charge: Charge) -> Self {
        Self { pieces: Pieces::default(), bytes: 0, limit, charge, refused: None }
    }

    /// Copies a piece.
    pub fn push(&mut self, data: &[u8]) {
        if self.refused.is_some() || data.is_empty() {
            return;
        }
        self.bytes += data.len();
        let refused = if self.bytes > self.limit {
            Captured::TooLarge
        } else if !self.charge.grow(data.len().saturating_mul(WEIGHT)) {
            Captured::NotCaptured
        } else {
            self.pieces.push(data);
            return;
        };
        self.pieces = Pieces::default();
        self.charge.shrink_to(0);
        self.refused = Some(refused);
    }

    /// The copy, and what it takes of the budget.
    pub fn finish(mut self, whole: bool) -> (Captured, Charge) {
        if let Some(refused) = self.refused {
            return (refused, self.charge);
        }
        let captured = match whole {
            true if self.pieces.is_one() => Captured::Whole(self.pieces.whole()),
            true => Captured::Pieces(self.pieces.into_pieces()),
            false => Captured::Partial(self.pieces.whole()),
        };
        (captured, self.charge)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn a_copy_that_does_not_fit_gives_its_bytes_back() {
        let budget = Budget::new(8 * WEIGHT);
        let mut small = Capture::new(4, budget.charge());
        small.push(b"abc");
        small.push(b"de");
        assert_eq!(budget.used(), 0);
        assert_eq!(small.finish(true).0, Captured::TooLarge);
        let mut poor = Capture::new(100, budget.charge());
        poor.push(b"abcdefghi");
        assert_eq!(poor.finish(true).0, Captured::NotCaptured);
        let mut whole = Capture::new(100, budget.charge());
        whole.push(b"ab");
        whole.push(b"cd");
        let (captured, charge) = whole.finish(true);
        assert_eq!((captured, charge.bytes()), (Captured::Whole(Bytes::from_static(b"abcd")), 4 * WEIGHT));
    }
}
