//! Floor 3: the spool stands before a sink that can be away. A pair that the sink has not confirmed within most of
//! `commit` is appended to a log on disk, [`log`], and its memory is let go. Each turn tells the story: take over what an
//! earlier run has left; send the oldest from the log beside the new ones, while the sink takes pairs; let the sink work;
//! note what has become of pairs that stand in the log; store what has waited.
//!
//! A pair that is on its way when it is stored stays on its way: its ticket then says where it stands ([`Ticket::spooled`]),
//! and whatever becomes of the ticket, the log hears of it as a fate: ended, or back. So a pair is booked once, and is in
//! the log until that.
//!
//! What lies in the spool's folder, whose it is, and how much of it stays that is damaged: [`folder`]. All segments of
//! this process count to `max`, those included that are left to be taken over; what is put aside does not.
//!
//! A disk that refuses leaves pairs in memory, where the queue's bounds hold; those that have waited [`RETRY_FOR`] are
//! dropped, `disk`, and so are the oldest while they take half of what may wait in memory.
//!
//! [`Ticket::spooled`]: super::queue::Ticket::spooled

mod done;
mod folder;
mod format;
mod log;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod model_tests;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Adopted, Log, Stop};

use super::SinkError;
use super::delivery::{Deliver, Turn};
use super::pace::Backoff;
use super::queue::{Fate, Place, Queue, Waiting};
use super::status::{ErrorKind, SinkStatus};
use crate::budget::Charge;
use crate::config::process::{SpoolConfig, WhenFull};
use crate::ledger::{Held, Ledger};
use crate::types::DropReason;

/// The most files that a spool holds open.
pub(super) const OPEN_FILES: u64 = log::OPEN_FILES;
/// The most pairs on their way from the log, so that new ones find room beside them.
const RECALL_PAIRS: usize = 2000;
/// While the sink is away only a few: by them it is known when it is back.
const RECALL_AWAY: usize = 10;
/// And the most of their bytes, which are taken from the budget for good.
const RECALL_BYTES: usize = 4 << 20;
/// The most that are read back in one turn.
const RECALL_TURN: usize = 500;
/// Between two attempts at a disk that refuses.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a pair may wait in memory for a disk that refuses it and a sink that is away.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// What the spool needs of its process.
pub(super) struct Parts {
    pub(super) queue: Arc<Queue>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) status: Arc<SinkStatus>,
    pub(super) producer: Arc<str>,
    /// An empty charge on the budget.
    pub(super) reserve: Charge,
}

/// A spool before a sink.
pub(super) struct Spool<D> {
    sink: D,
    log: Log,
    config: SpoolConfig,
    parts: Parts,
    /// Pairs that were read back and are on their way, with their bytes, and the bytes of all.
    recalled: HashMap<Place, usize>,
    recalled_bytes: usize,
    /// Apart, so that a disk that refuses the one does not keep the spool from the other.
    reading: Backoff,
    writing: Backoff,
    noting: Backoff,
    /// When the log was last brought up to date.
    committed: Instant,
}

impl<D: Deliver> Spool<D> {
    /// Opens the folder. One that cannot be made or written is an error, a full disk is not.
    pub(super) fn new(sink: D, config: SpoolConfig, mut parts: Parts) -> Result<Self, SinkError> {
        let log = Log::open(&config, Arc::clone(&parts.producer))
            .map_err(|cause| SinkError::Spool { dir: config.dir.clone(), cause })?;
        // What a small budget has no room for is only not counted.
        let _ = parts.reserve.grow(RECALL_BYTES);
        parts.ledger.spool_size(log.bytes(), config.max);
        Ok(Self {
            sink,
            log,
            config,
            parts,
            recalled: HashMap::new(),
            recalled_bytes: 0,
            reading: Backoff::new(RETRY.0, RETRY.1),
            writing: Backoff::new(RETRY.0, RETRY.1),
            noting: Backoff::new(RETRY.0, RETRY.1),
            committed: Instant::now(),
        })
    }

    /// Takes over what earlier runs have left, one segment a turn.
    fn adopt(&mut self) -> bool {
        match self.log.adopt() {
            Ok(None) => false,
            Ok(Some(adopted)) => {
                self.book(&adopted);
                true
            }
            Err(error) => {
                self.trouble(&error, "cannot take over what an earlier run has left");
                false
            }
        }
    }

    fn book(&self, adopted: &Adopted) {
        let (pairs, lost, torn) = (adopted.pairs, adopted.lost, adopted.torn);
        self.parts.ledger.recovered(u64::from(pairs + lost));
        self.parts.ledger.dropped(DropReason::Corrupt, u64::from(lost), Held::Spool);
        if let Some(aside) = &adopted.aside {
            self.parts.status.count(ErrorKind::Corrupt);
            let aside = aside.display();
            tracing::error!(pairs, lost, %aside, "a damaged segment of the spool is put aside; what can be read of it is recovered");
        } else if pairs > 0 {
            tracing::info!(pairs, torn_bytes = torn, "recovered pairs that an earlier run left in the spool");
        }
    }

    /// Puts the oldest pairs of the log before the new ones, as many as may be on their way.
    fn recall(&mut self, waiting: &mut VecDeque<Waiting>, closing: bool) -> bool {
        let up = self.parts.status.up();
        if self.reading.waits(Instant::now()) || (closing && !up) {
            return false;
        }
        let most = if up { RECALL_PAIRS } else { RECALL_AWAY };
        let mut batch = Vec::new();
        while batch.len() < RECALL_TURN && self.recalled.len() < most && self.recalled_bytes < RECALL_BYTES {
            let (found, fault) = self.log.next();
            let Some(found) = found else {
                if let Some(error) = fault {
                    self.reading.failed(Instant::now());
                    self.trouble(&error, "cannot read pairs back from the spool");
                }
                break;
            };
            self.reading.succeeded();
            let place = found.place;
            let Some(mut stored) = format::parse(found.body, self.parts.reserve.sibling()) else {
                // Its checksum is right and its content is not: another version wrote it.
                self.parts.ledger.dropped(DropReason::Corrupt, 1, Held::Spool);
                self.log.strike(place);
                continue;
            };
            stored.pair.source = Some(Arc::clone(found.producer));
            self.recalled.insert(place, stored.pair.json.len());
            self.recalled_bytes += stored.pair.json.len();
            let ticket = self.parts.queue.recall(place, since(stored.made_ms));
            batch.push(Waiting { pair: stored.pair, ticket });
        }
        self.parts.ledger.dropped(DropReason::Corrupt, u64::from(self.log.take_lost()), Held::Spool);
        let any = !batch.is_empty();
        batch.into_iter().rev().for_each(|pair| waiting.push_front(pair));
        any
    }

    /// Notes what has become of pairs that stand in the log.
    fn note_fates(&mut self) {
        for (place, fate) in self.parts.queue.fates() {
            self.recalled_bytes -= self.recalled.remove(&place).unwrap_or(0);
            match fate {
                Fate::Ended => self.log.strike(place),
                Fate::Back if self.log.take_back(place) => {
                    self.parts.ledger.dropped(DropReason::SpoolFull, 1, Held::Spool);
                }
                Fate::Back => {}
            }
        }
    }

    /// Brings the log up to date, four times within `commit`: a pair is then on disk, or confirmed, `commit` after it came.
    fn commit(&mut self, waiting: &mut VecDeque<Waiting>, closing: bool) {
        let quarter = self.config.commit / 4;
        if self.committed.elapsed() < quarter && !closing {
            return;
        }
        self.committed = Instant::now();
        let away = closing && !self.parts.status.up();
        if !self.writing.waits(Instant::now()) {
            self.store(waiting, if away { Duration::ZERO } else { quarter * 3 });
        }
        if away {
            // What was read back for nothing: it waits in the log, and nothing here is worth waiting for.
            waiting.retain(|pair| !pair.ticket.is_spooled());
        }
        self.note_fates();
        self.log.sweep();
        if !self.noting.waits(Instant::now()) {
            self.note();
        }
        self.parts.ledger.spool_size(self.log.bytes(), self.config.max);
        self.parts.queue.spooled_since(self.log.oldest().map(since));
    }

    /// Appends what has waited so long, and lets its memory go.
    fn store(&mut self, waiting: &mut VecDeque<Waiting>, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = |pair: &Waiting| u64::try_from(now.saturating_sub(pair.ticket.since.elapsed()).as_millis());
        // What is larger than half of the spool waits in memory: it would push out all others.
        let most = usize::try_from(self.config.max / 2).unwrap_or(usize::MAX);
        let is_due = |pair: &&mut Waiting| {
            !pair.ticket.is_spooled() && pair.ticket.since.elapsed() >= age && pair.pair.json.len() < most
        };
        let mut due: Vec<&mut Waiting> = self.sink.under_way().chain(waiting.iter_mut()).filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let stop = loop {
            let pairs = due.iter().map(|pair| (&pair.pair, made(pair).unwrap_or(0)));
            let (places, stop) = self.log.append(pairs);
            for (pair, place) in due.drain(..places.len()).zip(&places) {
                pair.ticket.spooled(*place);
                pair.pair.json = Vec::new();
            }
            let full = matches!(stop, Some(Stop::Full));
            let room = full && self.config.when_full == WhenFull::DropOldest && !due.is_empty();
            match room.then(|| self.log.drop_oldest()).flatten() {
                Some(lost) => self.parts.ledger.dropped(DropReason::SpoolFull, u64::from(lost), Held::Spool),
                None => break stop,
            }
        };
        let left: HashSet<usize> = due.iter().map(|pair| pair.ticket.number).collect();
        // What only waited now waits on disk; what is on its way stays there.
        waiting.retain(|pair| !pair.ticket.is_spooled() || !pair.pair.json.is_empty());
        self.stopped(stop, &left, waiting);
    }

    /// What becomes of pairs that could not be stored.
    fn stopped(&mut self, stop: Option<Stop>, left: &HashSet<usize>, waiting: &mut VecDeque<Waiting>) {
        match stop {
            None => self.writing.succeeded(),
            Some(Stop::Full) => {
                let cause = "the spool is full; what it cannot hold is dropped while the sink is away";
                self.parts.status.trouble(ErrorKind::SpoolFull, cause);
                if !self.parts.status.up() {
                    give_up(waiting, DropReason::SpoolFull, |pair| left.contains(&pair.ticket.number));
                }
            }
            Some(Stop::Disk(error)) => {
                self.writing.failed(Instant::now());
                self.trouble(&error, "cannot write pairs to the spool; they wait in memory");
                if !self.parts.status.up() {
                    let mut surplus = self.parts.queue.surplus();
                    give_up(waiting, DropReason::Disk, |pair| {
                        let goes = surplus > 0 || pair.ticket.since.elapsed() >= RETRY_FOR;
                        surplus = surplus.saturating_sub(pair.pair.json.len());
                        goes
                    });
                }
            }
        }
    }

    /// Notes on disk what has been delivered.
    fn note(&mut self) {
        match self.log.note() {
            Ok(()) => self.noting.succeeded(),
            Err(error) => {
                self.noting.failed(Instant::now());
                self.trouble(&error, "cannot note in the spool what has been delivered; it may be sent twice");
            }
        }
    }

    fn trouble(&self, error: &io::Error, what: &str) {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let kind = if full { ErrorKind::DiskFull } else { ErrorKind::Io };
        let dir = self.config.dir.display();
        self.parts.status.trouble(kind, format_args!("{what}: `{dir}`: {error}"));
    }
}

impl<D: Deliver> Deliver for Spool<D> {
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
        let adopted = self.adopt();
        let recalled = self.recall(waiting, turn.closing);
        let moved = self.sink.turn(waiting, turn);
        self.note_fates();
        self.commit(waiting, turn.closing);
        adopted || recalled || moved
    }

    fn under_way(&mut self) -> Box<dyn Iterator<Item = &mut Waiting> + '_> {
        self.sink.under_way()
    }

    /// While the sink is away nothing is worth waiting for: [`Deliver::close`] stores what is left.
    fn busy(&self) -> bool {
        self.parts.status.up() && (self.sink.busy() || self.log.has_more())
    }

    fn close(&mut self, waiting: &mut VecDeque<Waiting>) {
        self.sink.close(waiting);
        self.store(waiting, Duration::ZERO);
        waiting.retain(|pair| !pair.ticket.is_spooled());
        self.note_fates();
        self.log.sweep();
        self.note();
        self.log.close();
        self.parts.ledger.spool_size(self.log.bytes(), self.config.max);
    }
}

/// Drops those that wait in memory alone and are to go.
fn give_up(waiting: &mut VecDeque<Waiting>, reason: DropReason, mut goes: impl FnMut(&Waiting) -> bool) {
    for pair in std::mem::take(waiting) {
        if !pair.ticket.is_spooled() && goes(&pair) {
            pair.ticket.dropped(reason);
        } else {
            waiting.push_back(pair);
        }
    }
}

/// When something happened that happened so many milliseconds after 1970, as far back as this machine's clock goes.
fn since(made_ms: u64) -> Instant {
    let now = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    now.0.checked_sub(now.1.saturating_sub(Duration::from_millis(made_ms))).unwrap_or(now.0)
}
