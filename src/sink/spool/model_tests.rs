//! The spool's log against a plain list: whatever is done to both, they hold the same pairs.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use tempfile::TempDir;

use super::log_tests::{adopt_all, append, drain};
use super::tests::config;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Recall(usize),
    Strike(usize),
    Return(usize),
    Note,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..40_usize).prop_map(Step::Append),
        3 => (1..40_usize).prop_map(Step::Recall),
        4 => any::<usize>().prop_map(Step::Strike),
        2 => any::<usize>().prop_map(Step::Return),
        1 => Just(Step::Note),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a plain list: what has not ended is sent once in a run, and after a crash again, and nothing else.
    #[test]
    fn whatever_happens_every_pair_that_has_not_ended_is_sent(steps in steps()) {
        let dir = TempDir::new().unwrap();
        // Small segments, so that there are many.
        let small = SpoolConfig { max: 4 << 20, ..config(&dir) };
        let open = || Log::open(&small, "p".into()).unwrap();
        let mut log = open();
        let (mut next, mut away): (usize, Vec<(usize, Place)>) = (0, Vec::new());
        let (mut waits, mut unnoted) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Append(count) => {
                    let places = append(&mut log, next..next + count);
                    away.extend((next..).zip(places));
                    next += count;
                }
                Step::Recall(count) => for _ in 0..count {
                    let (Some(recalled), _) = log.next() else { break };
                    let place = recalled.place;
                    let stored = format::parse(recalled.body, crate::budget::Budget::new(1).charge()).unwrap();
                    let number: usize = stored.pair.id["id-".len()..].parse().unwrap();
                    prop_assert!(waits.remove(&number), "{} is sent twice in one run", number);
                    away.push((number, place));
                },
                Step::Strike(which) if !away.is_empty() => {
                    let (number, place) = away.swap_remove(which % away.len());
                    log.strike(place);
                    unnoted.insert(number);
                }
                Step::Return(which) if !away.is_empty() => {
                    let (number, place) = away.swap_remove(which % away.len());
                    prop_assert!(!log.take_back(place));
                    waits.insert(number);
                }
                Step::Note => {
                    log.sweep();
                    log.note().unwrap();
                    unnoted.clear();
                }
                Step::Reopen => {
                    drop(log);
                    log = open();
                    let adopted = adopt_all(&mut log);
                    prop_assert!(adopted.iter().all(|adopted| adopted.lost == 0 && adopted.torn == 0));
                    waits.extend(away.drain(..).map(|(number, _)| number));
                    // Ended, but nothing on disk says so.
                    waits.append(&mut unnoted);
                }
                Step::Strike(_) | Step::Return(_) => {}
            }
        }
        drop(log);
        let mut log = open();
        adopt_all(&mut log);
        waits.extend(away.drain(..).map(|(number, _)| number));
        waits.append(&mut unnoted);
        let sent: BTreeSet<usize> = drain(&mut log).into_iter().map(|(number, _)| number).collect();
        prop_assert_eq!(sent, waits);
    }
}
