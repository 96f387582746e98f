//! Floor 1: the one account of pairs. A pair gets its `seq` here when it is made; each thing that becomes of it is
//! booked once, under one lock that only background threads and the scrape take, so that in every scrape
//! made + recovered = delivered + dropped + waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::types::{DropReason, ModelName, PairResult, Role, RouteName};

/// What a made pair is counted under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairKey {
    /// The route; none once a reload has removed it.
    pub route: Option<RouteName>,
    /// The candidate; none once a reload has removed its route.
    pub model: Option<ModelName>,
    /// The candidate leg's role.
    pub role: Role,
    /// How the legs compare.
    pub result: PairResult,
}

/// The account as it stands at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Pairs made, by what they say; the sum of it is the last `seq`.
    pub made: BTreeMap<PairKey, u64>,
    /// The last `seq` given.
    pub last_seq: u64,
    /// Pairs found in the spool at start.
    pub recovered: u64,
    /// Pairs the sink has confirmed.
    pub delivered: u64,
    /// Pairs given up, by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Pairs made and neither delivered, dropped nor spooled yet.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Pairs in the spool.
    pub spooled: u64,
}

/// The shared account.
#[derive(Debug, Default)]
pub struct Ledger {
    account: Mutex<Account>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Account> {
        // A panic while it was held leaves whole numbers behind, so the account stays usable.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a line at 0, so that a counter stands there before its first event.
    pub fn open(&self, keys: impl IntoIterator<Item = PairKey>) {
        let mut account = self.lock();
        for key in keys {
            account.made.entry(key).or_insert(0);
        }
    }

    /// A candidate that is gone: its counts move to the line without names.
    pub fn retire(&self, route: &RouteName, model: &ModelName, role: Role) {
        let mut account = self.lock();
        for result in PairResult::ALL {
            let line = |named: bool| PairKey {
                route: named.then(|| route.clone()),
                model: named.then(|| model.clone()),
                role,
                result: *result,
            };
            if let Some(count) = account.made.remove(&line(true)).filter(|count| *count > 0) {
                *account.made.entry(line(false)).or_insert(0) += count;
            }
        }
    }

    /// A pair is made: it waits from now on. Returns its `seq`.
    pub fn made(&self, key: &PairKey) -> u64 {
        let mut account = self.lock();
        match account.made.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(account.made.insert(key.clone(), 1)),
        }
        account.last_seq += 1;
        account.queued += 1;
        account.last_seq
    }

    /// A made pair stands in the sink's queue with so many bytes.
    pub fn queued(&self, bytes: usize) {
        self.lock().queued_bytes += bytes as u64;
    }

    /// So many queued pairs, of so many bytes together, are confirmed by the sink.
    pub fn delivered(&self, pairs: u64, bytes: usize) {
        let mut account = self.lock();
        account.delivered += pairs;
        account.queued = account.queued.saturating_sub(pairs);
        account.queued_bytes = account.queued_bytes.saturating_sub(bytes as u64);
    }

    /// So many waiting pairs, of so many queued bytes together, are given up.
    pub fn dropped(&self, reason: DropReason, pairs: u64, bytes: usize) {
        let mut account = self.lock();
        account.dropped[reason as usize] += pairs;
        account.queued = account.queued.saturating_sub(pairs);
        account.queued_bytes = account.queued_bytes.saturating_sub(bytes as u64);
    }

    /// The whole account at one moment.
    pub fn read(&self) -> Account {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_holds_and_seq_is_gapless() {
        let ledger = Ledger::default();
        let key = PairKey {
            route: Some(RouteName::new("r")),
            model: Some(ModelName::new("c")),
            role: Role::Shadow,
            result: PairResult::Equal,
        };
        ledger.open([key.clone()]);
        assert_eq!(ledger.read().made[&key], 0);
        assert_eq!((1..=3).map(|_| ledger.made(&key)).collect::<Vec<_>>(), [1, 2, 3]);
        ledger.queued(10);
        ledger.delivered(1, 10);
        ledger.dropped(DropReason::Disk, 1, 0);
        let account = ledger.read();
        let ended = account.delivered + account.dropped.iter().sum::<u64>() + account.queued;
        assert_eq!(account.made.values().sum::<u64>(), ended);
        assert_eq!(account.queued_bytes, 0);
    }
}
