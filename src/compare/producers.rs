//! Floor 5: what the numbering of each producer proves. A number missing between the first and the last is a pair
//! that was made and is not here. One before the first may have been deleted since, so it is told apart; one after
//! the last leaves no trace at all.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::report::{Producer, Read};
use super::seqs::{Inserted, Seqs};

/// The most stretches of sequence numbers, at half a KiB each while they have holes.
const STRETCHES: usize = 100_000;
/// How many producers, and missing ranges of each, a report names.
const PRODUCERS: usize = 100;
const RANGES: usize = 20;

/// All producers.
#[derive(Debug, Default)]
pub(super) struct Producers {
    by_name: BTreeMap<String, Numbering>,
    stretches: usize,
    /// Pairs for whose number there was no room.
    untracked: u64,
}

/// One producer.
#[derive(Debug, Default)]
struct Numbering {
    seqs: Seqs,
    duplicates: u64,
    reused: u64,
}

impl Producers {
    /// Keeps a number, whatever its pair's route: a gap is one whoever's pair it was.
    pub(super) fn track(&mut self, producer: &str, seq: u64) -> Inserted {
        self.track_within(producer, seq, STRETCHES)
    }

    fn track_within(&mut self, producer: &str, seq: u64, most: usize) -> Inserted {
        let room = self.stretches < most;
        if !self.by_name.contains_key(producer) {
            if !room {
                self.untracked += 1;
                return Inserted::NoRoom;
            }
            self.by_name.insert(producer.into(), Numbering::default());
        }
        let Some(numbering) = self.by_name.get_mut(producer) else { return Inserted::NoRoom };
        let before = numbering.seqs.stretches();
        let inserted = numbering.seqs.insert(seq, room);
        self.stretches += numbering.seqs.stretches() - before;
        self.untracked += u64::from(inserted == Inserted::NoRoom);
        inserted
    }

    /// A record of this producer came before.
    pub(super) fn duplicate(&mut self, producer: &str) {
        if let Some(numbering) = self.by_name.get_mut(producer) {
            numbering.duplicates += 1;
        }
    }

    /// A number of this producer came before, on another pair.
    pub(super) fn reused(&mut self, producer: &str) {
        if let Some(numbering) = self.by_name.get_mut(producer) {
            numbering.reused += 1;
        }
    }

    /// Writes down what they say.
    pub(super) fn tell(&self, read: &mut Read) {
        let mut all: Vec<Producer> = self.by_name.iter().map(|(name, numbering)| numbering.report(name)).collect();
        let sum = |of: fn(&Producer) -> u64| all.iter().fold(0, |sum: u64, one| sum.saturating_add(of(one)));
        read.missing = sum(|producer| producer.missing);
        read.before_first = sum(|producer| producer.before_first);
        read.seq_reused = sum(|producer| producer.seq_reused);
        read.untracked = self.untracked;
        all.sort_by_key(|one| Reverse((one.missing, one.seq_reused, one.before_first, one.duplicates)));
        read.producers_left_out = all.len().saturating_sub(PRODUCERS) as u64;
        all.truncate(PRODUCERS);
        read.producers = all;
    }
}

impl Numbering {
    fn report(&self, name: &str) -> Producer {
        let seqs = &self.seqs;
        let (ranges, missing_ranges_truncated) = seqs.missing_ranges(RANGES);
        let range = |(from, to): (u64, u64)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        Producer {
            producer: name.into(),
            pairs: seqs.seen(),
            first_seq: seqs.first(),
            last_seq: seqs.last(),
            before_first: seqs.first().saturating_sub(1),
            missing: seqs.missing(),
            missing_ranges: ranges.into_iter().map(range).collect(),
            missing_ranges_truncated,
            duplicates: self.duplicates,
            seq_reused: self.reused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(producers: &Producers) -> Read {
        let mut read = Read::default();
        producers.tell(&mut read);
        read
    }

    #[test]
    fn a_beginning_that_is_not_here_is_no_gap() {
        let mut producers = Producers::default();
        for seq in [501, 502, 505] {
            producers.track("late", seq);
        }
        producers.track("whole", 1);
        let read = told(&producers);
        assert_eq!((read.missing, read.before_first, read.untracked), (2, 500, 0));
        let [late, whole] = read.producers.as_slice() else { return assert_eq!(read.producers.len(), 2) };
        assert_eq!((late.first_seq, late.last_seq, late.pairs, late.before_first), (501, 505, 3, 500));
        assert_eq!((late.missing_ranges.as_slice(), whole.before_first), (&["503-504".to_owned()][..], 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_also_of_a_known_producer() {
        let mut producers = Producers::default();
        let mut track = |name: &str, seq| producers.track_within(name, seq, 2);
        assert_eq!((track("a", 1), track("a", 9_000)), (Inserted::New, Inserted::New));
        assert_eq!((track("a", 5_000), track("b", 1)), (Inserted::NoRoom, Inserted::NoRoom));
        assert_eq!((track("a", 2), track("a", 2)), (Inserted::New, Inserted::Known));
        let read = told(&producers);
        assert_eq!((read.untracked, read.producers.len()), (2, 1));
    }

    #[test]
    fn those_with_losses_come_first_and_the_list_ends() {
        let mut producers = Producers::default();
        for at in 0..150 {
            producers.track(&format!("host-{at:03}"), 1);
        }
        producers.track("host-120", 9);
        let read = told(&producers);
        assert_eq!((read.producers.len(), read.producers_left_out), (100, 50));
        assert_eq!(read.producers.first().map(|one| one.producer.as_str()), Some("host-120"));
    }
}
