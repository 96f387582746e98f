//! Floor 5: what a source finds, one record at a time, in a buffer that is used again. A source says what there is
//! and judges nothing: whether a record can be used is the intake's to say.

use std::fmt;

/// The most bytes of one record. Bodies are recorded up to `capture.max_body`; a line longer than this is not a
/// record but a file of another kind.
pub(super) const RECORD_MAX: usize = 64 << 20;

/// Where a record stands: `FILE:LINE`, or `TOPIC[PARTITION]:OFFSET`.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) part: &'a str,
    pub(super) number: i64,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.part, self.number)
    }
}

/// What a source finds.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A file or a partition begins.
    Part,
    /// The bytes of one record.
    Record(At<'a>, &'a [u8]),
    /// The beginning of a record that is still being written; it may be whole all the same.
    Tail(At<'a>, &'a [u8]),
    /// The last compressed frame is still being written.
    OpenFrame,
    /// Something that is no record at all, and why.
    Broken(At<'a>, String),
}

/// What takes what is found.
pub(super) type Take<'a> = dyn FnMut(Found<'_>) -> anyhow::Result<()> + 'a;
