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
    /// Pairs in the spool, those on their way from it included.
    pub spooled: u64,
    /// Its bytes on disk.
    pub spool_bytes: u64,
    /// The most bytes that it may have; 0 without a spool.
    pub spool_limit: u64,
}

/// Where a pair waited until its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// In memory, with so many queued bytes, or those of all the pairs together.
    Queue(usize),
    /// In the spool.
    Spool,
}

impl Account {
    fn leave(&mut self, pairs: u64, held: Held) {
        match held {
            Held::Queue(bytes) => {
                self.queued = self.queued.saturating_sub(pairs);
                self.queued_bytes = self.queued_bytes.saturating_sub(bytes as u64);
            }
            Held::Spool => self.spooled = self.spooled.saturating_sub(pairs),
        }
    }
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

    /// So many waiting pairs are confirmed by the sink.
    pub fn delivered(&self, pairs: u64, held: Held) {
        let mut account = self.lock();
        account.delivered += pairs;
        account.leave(pairs, held);
    }

    /// So many waiting pairs are given up.
    pub fn dropped(&self, reason: DropReason, pairs: u64, held: Held) {
        let mut account = self.lock();
        account.dropped[reason as usize] += pairs;
        account.leave(pairs, held);
    }

    /// So many queued pairs, of so many bytes together, stand in the spool from now on.
    pub fn spooled(&self, pairs: u64, bytes: usize) {
        let mut account = self.lock();
        account.leave(pairs, Held::Queue(bytes));
        account.spooled += pairs;
    }

    /// So many pairs were found in the spool.
    pub fn recovered(&self, pairs: u64) {
        let mut account = self.lock();
        account.recovered += pairs;
        account.spooled += pairs;
    }

    /// How large the spool is, and may be, in bytes.
    pub fn spool_size(&self, bytes: u64, limit: u64) {
        let mut account = self.lock();
        (account.spool_bytes, account.spool_limit) = (bytes, limit);
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
        ledger.delivered(1, Held::Queue(10));
        ledger.dropped(DropReason::Disk, 1, Held::Queue(0));
        ledger.recovered(4);
        ledger.spooled(1, 0);
        ledger.delivered(2, Held::Spool);
        ledger.dropped(DropReason::Corrupt, 1, Held::Spool);
        let account = ledger.read();
        let ended = account.delivered + account.dropped.iter().sum::<u64>();
        assert_eq!(account.last_seq + account.recovered, ended + account.queued + account.spooled);
        assert_eq!((account.queued, account.queued_bytes, account.spooled), (0, 0, 2));
    }
}
