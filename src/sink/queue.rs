//! Floor 3: the bounded queue between whoever makes pairs and the delivery thread. The door returns at once and
//! books what it refuses. What passes it carries a `Ticket` until its end: whatever path a pair takes, panics
//! included, it is booked exactly once, because a ticket that nobody settles books its own loss when dropped.
//! The bounds and the age count from the door to that end, unacknowledged pairs included, or until the pair is stored in
//! the spool: from then on a ticket without an end only means that the pair waits there.
//!
//! Nobody is woken: the thread comes by every few milliseconds, so that an offer costs two short locks and never
//! a system call. Only background threads take these locks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Encoded;
use crate::ledger::{Held, Ledger};
use crate::types::DropReason;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most pairs.
    pub pairs: usize,
    /// The most bytes of them.
    pub bytes: usize,
}

/// The queue, and the account of what has left it but not ended yet.
#[derive(Debug)]
pub(super) struct Queue {
    ledger: Arc<Ledger>,
    bounds: Bounds,
    /// What a pair is booked as that is lost without a word (its holder panicked).
    lost_as: DropReason,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Every pair from the door to its end, by ticket number: the first is the oldest.
    open: BTreeMap<usize, Instant>,
    open_bytes: usize,
    last: usize,
    /// Until when delivery may go on once the door is closed.
    closed: Option<Instant>,
    /// Set when the thread did not end in time: all that was open is booked, and nothing is booked again.
    abandoned: bool,
    /// What has become of pairs of the spool, for the spool to note.
    fates: Vec<(Place, Fate)>,
    /// When the oldest pair in the spool was made.
    oldest_spooled: Option<Instant>,
}

/// Where a pair stands in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The segment's id.
    pub(super) segment: u64,
    /// Which of the segment's pairs it is.
    pub(super) ordinal: u32,
}

/// What has become of a pair that stands in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has ended, and is booked.
    Ended,
    /// It is not on its way any more, and waits.
    Back,
}

impl Queue {
    pub(super) fn new(ledger: Arc<Ledger>, bounds: Bounds, lost_as: DropReason) -> Arc<Self> {
        Arc::new(Self { ledger, bounds, lost_as, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between two of its changes can panic, so what a panic leaves behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(self: &Arc<Self>, pair: Encoded) {
        let bytes = pair.json.len();
        let mut state = self.lock();
        let refused = if state.closed.is_some() {
            Some(DropReason::Shutdown)
        } else if state.open.len() >= self.bounds.pairs || state.open_bytes.saturating_add(bytes) > self.bounds.bytes {
            Some(DropReason::QueueFull)
        } else {
            None
        };
        if let Some(reason) = refused {
            drop(state);
            return self.ledger.dropped(reason, 1, Held::Queue(0));
        }
        // Booked while the lock is held: the thread must not confirm the pair before its bytes are booked.
        self.ledger.queued(bytes);
        state.last += 1;
        let (number, since) = (state.last, Instant::now());
        state.open.insert(number, since);
        state.open_bytes += bytes;
        let ticket = Ticket { queue: Arc::clone(self), number, since, bytes, place: None, ended: false };
        state.waiting.push_back(Waiting { pair, ticket });
    }

    /// Moves all that has arrived to the end of `into`.
    pub(super) fn take(&self, into: &mut VecDeque<Waiting>) {
        into.append(&mut self.lock().waiting);
    }

    /// A ticket for a pair that comes back from the spool, where it was made at `since`.
    pub(super) fn recall(self: &Arc<Self>, place: Place, since: Instant) -> Ticket {
        let mut state = self.lock();
        state.last += 1;
        Ticket { queue: Arc::clone(self), number: state.last, since, bytes: 0, place: Some(place), ended: false }
    }

    /// What has become of pairs of the spool since this was last asked.
    pub(super) fn fates(&self) -> Vec<(Place, Fate)> {
        std::mem::take(&mut self.lock().fates)
    }

    /// By how many bytes what waits in memory is more than half of what may.
    pub(super) fn surplus(&self) -> usize {
        self.lock().open_bytes.saturating_sub(self.bounds.bytes / 2)
    }

    /// Says when the oldest pair in the spool was made.
    pub(super) fn spooled_since(&self, oldest: Option<Instant>) {
        self.lock().oldest_spooled = oldest;
    }

    /// When the oldest pair that has not ended was made.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let state = self.lock();
        state.open.first_key_value().map(|(_, since)| *since).into_iter().chain(state.oldest_spooled).min()
    }

    /// Closes the door; delivery may go on until `deadline`.
    pub(super) fn close(&self, deadline: Instant) {
        self.lock().closed = Some(deadline);
    }

    /// Until when delivery may go on, once the door is closed.
    pub(super) fn closed(&self) -> Option<Instant> {
        self.lock().closed
    }

    /// Books all that is still open as lost to the shutdown; whatever becomes of it now is not booked again.
    pub(super) fn abandon(&self) {
        let (pairs, bytes) = {
            let mut state = self.lock();
            state.abandoned = true;
            (std::mem::take(&mut state.open).len(), std::mem::take(&mut state.open_bytes))
        };
        self.ledger.dropped(DropReason::Shutdown, pairs as u64, Held::Queue(bytes));
    }

    fn end(&self, ticket: &Ticket, lost: Option<DropReason>) {
        {
            let mut state = self.lock();
            if state.abandoned {
                return;
            }
            match ticket.place {
                Some(place) => state.fates.push((place, Fate::Ended)),
                None => state.forget(ticket),
            }
        }
        let held = ticket.place.map_or(Held::Queue(ticket.bytes), |_| Held::Spool);
        match lost {
            None => self.ledger.delivered(1, held),
            Some(reason) => self.ledger.dropped(reason, 1, held),
        }
    }

    fn spooled(&self, ticket: &Ticket) {
        let mut state = self.lock();
        if !state.abandoned {
            state.forget(ticket);
            // At once, so that no scrape finds it in neither place.
            state.oldest_spooled = state.oldest_spooled.into_iter().chain([ticket.since]).min();
            self.ledger.spooled(1, ticket.bytes);
        }
    }
}

impl State {
    fn forget(&mut self, ticket: &Ticket) {
        self.open.remove(&ticket.number);
        self.open_bytes = self.open_bytes.saturating_sub(ticket.bytes);
    }
}

/// Where pairs are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door(Arc<Queue>);

impl Door {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// Hands a pair in that the ledger has booked as made. Returns at once: a pair that does not fit is booked as
    /// dropped, `queue_full`, or `shutdown` once the sink is finishing.
    pub fn offer(&self, pair: Encoded) {
        self.0.offer(pair);
    }
}

/// A pair on its way, with the ticket that books its end.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The pair.
    pub(super) pair: Encoded,
    /// Its ticket.
    pub(super) ticket: Ticket,
}

/// The one booking that a pair still has to come.
#[derive(Debug)]
pub(super) struct Ticket {
    queue: Arc<Queue>,
    /// In the order of offers; unique in a process.
    pub(super) number: usize,
    /// When the pair was offered.
    pub(super) since: Instant,
    bytes: usize,
    /// Where the pair stands in the spool.
    place: Option<Place>,
    ended: bool,
}

impl Ticket {
    /// Whether the pair stands in the spool.
    pub(super) fn is_spooled(&self) -> bool {
        self.place.is_some()
    }

    /// The pair now stands in the spool too: whatever becomes of this ticket, it is not lost.
    pub(super) fn spooled(&mut self, place: Place) {
        self.queue.spooled(self);
        self.place = Some(place);
    }

    /// The sink has confirmed the pair.
    pub(super) fn delivered(mut self) {
        self.ended = true;
        self.queue.end(&self, None);
    }

    /// The pair is lost to a fault of ours.
    pub(super) fn lost(self) {
        let reason = self.queue.lost_as;
        self.dropped(reason);
    }

    /// The pair is given up.
    pub(super) fn dropped(mut self, reason: DropReason) {
        self.ended = true;
        self.queue.end(&self, Some(reason));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.place {
            _ if self.ended => {}
            Some(place) => self.queue.lock().fates.push((place, Fate::Back)),
            None => self.queue.end(self, Some(self.queue.lost_as)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::testing::Books;

    fn queue(books: &Books, pairs: usize, bytes: usize) -> Arc<Queue> {
        Queue::new(Arc::clone(&books.ledger), Bounds { pairs, bytes }, DropReason::Disk)
    }

    #[test]
    fn what_does_not_fit_by_count_or_by_bytes_is_refused_and_booked() {
        let books = Books::default();
        let queue = queue(&books, 3, 10);
        let door = Door::new(Arc::clone(&queue));
        for text in ["1234", "12345678", "12", "1", "1"] {
            door.offer(books.make(text));
        }
        let account = books.account();
        assert_eq!(account.dropped[DropReason::QueueFull as usize], 2);
        assert_eq!((account.queued, account.queued_bytes), (3, 7));

        // What the thread holds still counts, until its end.
        let mut taken = VecDeque::new();
        queue.take(&mut taken);
        door.offer(books.make("1"));
        assert_eq!(books.account().dropped[DropReason::QueueFull as usize], 3);
        taken.pop_front().unwrap().ticket.delivered();
        door.offer(books.make("1"));
        assert_eq!(books.account().queued, 3);
    }

    #[test]
    fn a_pair_that_nobody_settles_books_its_own_loss() {
        let books = Books::default();
        let queue = queue(&books, 9, 99);
        Door::new(Arc::clone(&queue)).offer(books.make("1"));
        let mut taken = VecDeque::new();
        queue.take(&mut taken);
        assert!(queue.oldest().is_some());
        drop(taken);
        assert_eq!(books.account().dropped[DropReason::Disk as usize], 1);
        assert!(queue.oldest().is_none());
        assert_eq!(books.budget.used(), 0);
    }

    #[test]
    fn a_closed_door_books_as_shutdown_and_an_abandoned_queue_books_once() {
        let books = Books::default();
        let queue = queue(&books, 9, 99);
        let door = Door::new(Arc::clone(&queue));
        door.offer(books.make("1"));
        queue.close(Instant::now());
        door.offer(books.make("2"));
        assert_eq!(books.account().dropped[DropReason::Shutdown as usize], 1);
        queue.abandon();
        let mut late = VecDeque::new();
        queue.take(&mut late);
        late.pop_front().unwrap().ticket.delivered();
        let account = books.account();
        assert_eq!((account.delivered, account.dropped[DropReason::Shutdown as usize]), (0, 2));
    }

    #[test]
    fn an_offer_from_many_threads_loses_nothing() {
        let books = Books::default();
        let queue = queue(&books, 50, 1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let door = Door::new(Arc::clone(&queue));
                let books = &books;
                scope.spawn(move || (0..100).for_each(|_| door.offer(books.make("{}"))));
            }
        });
        let account = books.account();
        assert_eq!((account.queued, account.dropped[DropReason::QueueFull as usize]), (50, 350));
    }
}
