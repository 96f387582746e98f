//! A body that is kept in memory while it comes. Small pieces are put together: hundreds of thousands of single bytes,
//! each with an allocation of its own, would take far more than is charged for them.

use bytes::{Bytes, BytesMut};

/// Pieces grow to this size before the next one begins.
const PIECE: usize = 16 << 10;

/// A kept body.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Each with its place in the body.
    pieces: Vec<(usize, Bytes)>,
    /// The end of what `pieces` hold.
    end: usize,
    tail: BytesMut,
}

impl Pieces {
    /// Copies a piece. Frames are slices of a read buffer, which they would pin.
    pub fn push(&mut self, data: &[u8]) {
        if self.tail.len() + data.len() > PIECE {
            self.close_tail();
        }
        if data.len() > PIECE {
            self.add(Bytes::copy_from_slice(data));
        } else {
            self.tail.extend_from_slice(data);
        }
    }

    fn close_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        self.add(tail.freeze());
    }

    fn add(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            let start = self.end;
            self.end += piece.len();
            self.pieces.push((start, piece));
        }
    }

    /// Bytes that are kept.
    pub fn len(&self) -> usize {
        self.end + self.tail.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of what is kept from there on; none at the end.
    pub fn from(&self, at: usize) -> Option<Bytes> {
        if let Some(tail) = at.checked_sub(self.end) {
            return self.tail.get(tail..).filter(|rest| !rest.is_empty()).map(Bytes::copy_from_slice);
        }
        let next = self.pieces.partition_point(|(start, _)| *start <= at);
        let (start, piece) = self.pieces.get(next.checked_sub(1)?)?;
        Some(piece.slice(at - start..))
    }

    /// Whether all of it is in one piece, or nothing is kept.
    pub fn is_one(&self) -> bool {
        self.pieces.len() + usize::from(!self.tail.is_empty()) <= 1
    }

    /// The pieces, in order.
    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.close_tail();
        self.pieces.into_iter().map(|(_, piece)| piece).collect()
    }

    /// The whole, as one piece from now on, so that nothing is held twice.
    pub fn whole(&mut self) -> Bytes {
        self.close_tail();
        if self.pieces.len() > 1 {
            let mut whole = BytesMut::with_capacity(self.end);
            self.pieces.drain(..).for_each(|(_, piece)| whole.extend_from_slice(&piece));
            self.pieces.push((0, whole.freeze()));
        }
        self.pieces.first().map(|(_, whole)| whole.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read_from_anywhere_before_and_after_it_is_made_whole() {
        let mut pieces = Pieces::default();
        let body: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        for piece in body[..30_000].chunks(7).chain(body[30_000..].chunks(35_000)) {
            pieces.push(piece);
        }
        assert!(pieces.pieces.len() < 8);
        for turn in 0..2 {
            for at in [0, 1, 6, 7, 29_999, 30_000, 64_999, 65_000, 99_999] {
                let rest = pieces.from(at).expect("a piece");
                assert_eq!(rest, body[at..at + rest.len()], "turn {turn}");
            }
            assert_eq!(pieces.from(100_000), None);
            assert_eq!(pieces.whole(), body);
            assert_eq!(pieces.pieces.len(), 1);
        }
        assert_eq!(Pieces::default().whole(), Bytes::new());
    }
}
