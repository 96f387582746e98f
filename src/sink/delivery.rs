//! Floor 3: the delivery thread. It takes what has come through the door every few milliseconds and lets one
//! [`Deliver`] work on it. Its priority is the lowest, and whatever a `Deliver` starts while it is made
//! (librdkafka's threads) inherits that, because on Linux a nice value belongs to a thread. A panic costs the pair
//! at hand, counted, and delivery goes on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::SinkError;
use super::queue::{Queue, Waiting};
use super::status::{ErrorKind, SinkStatus};
use crate::lifecycle::{self, Priority};
use crate::types::DropReason;

/// Something that stores pairs.
pub(super) trait Deliver {
    /// Works for about `pause`, or sleeps that long where there is nothing to do. Takes from the front of
    /// `waiting` what it stores, keeps what it may store later, and settles the tickets of what has ended.
    /// Returns whether anything moved.
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool;

    /// The pairs that are neither in `waiting` nor settled, with their bytes where a spool stands before this.
    fn under_way(&mut self) -> Box<dyn Iterator<Item = &mut Waiting> + '_> {
        Box::new(std::iter::empty())
    }

    /// Whether there are any that are worth waiting for.
    fn busy(&self) -> bool;

    /// Ends: settles what can still be settled at once.
    fn close(&mut self, waiting: &mut VecDeque<Waiting>);
}

/// What a turn may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// How long it may take.
    pub(super) pause: Duration,
    /// Whether the door is closed, so that gathering more makes no sense.
    pub(super) closing: bool,
}

/// A turn while pairs come: short, for a small delay.
const BUSY: Duration = Duration::from_millis(5);
/// A turn while nothing comes: longer, for an idle process that sleeps.
const IDLE: Duration = Duration::from_millis(25);

/// Starts the thread, waits until `make` has succeeded or failed on it, and returns what tells its end.
pub(super) fn spawn<M>(queue: Arc<Queue>, status: Arc<SinkStatus>, make: M) -> Result<mpsc::Receiver<()>, SinkError>
where
    M: FnOnce() -> Result<Box<dyn Deliver>, SinkError> + Send + 'static,
{
    let (made, ready) = mpsc::sync_channel(1);
    let (end, ended) = mpsc::sync_channel(1);
    let body = move || {
        let result = make();
        let (mut target, outcome) = match result {
            Ok(target) => (Some(target), Ok(())),
            Err(error) => (None, Err(error)),
        };
        if made.send(outcome).is_ok()
            && let Some(target) = target.as_mut()
        {
            run(&queue, &status, target.as_mut());
        }
        drop(target);
        // Whoever waits may have given up: then nobody needs to know.
        let _ = end.send(());
    };
    // A thread that hangs in a write must not hold the process's end up, so nobody joins it.
    drop(lifecycle::thread("shadowpair-delivery", Priority::Background, body).map_err(SinkError::Thread)?);
    let died = || SinkError::Thread(std::io::Error::other("it ended before it was ready"));
    ready.recv().map_err(|_| died())??;
    Ok(ended)
}

fn run(queue: &Queue, status: &SinkStatus, target: &mut dyn Deliver) {
    let mut waiting = VecDeque::new();
    let mut pause = BUSY;
    loop {
        let closed = queue.closed();
        queue.take(&mut waiting);
        if let Some(deadline) = closed
            && (Instant::now() >= deadline || (waiting.is_empty() && !target.busy()))
        {
            break;
        }
        let turn = Turn { pause, closing: closed.is_some() };
        let moved = guarded(status, &mut waiting, |waiting| target.turn(waiting, turn));
        pause = if moved.unwrap_or(false) || closed.is_some() { BUSY } else { IDLE };
        if moved.is_none() {
            thread::sleep(IDLE);
        }
    }
    guarded(status, &mut waiting, |waiting| target.close(waiting));
    for late in waiting {
        late.ticket.dropped(DropReason::Shutdown);
    }
}

/// Runs one piece of delivery; none is a panic. The pair at hand is given up then, so that one that brings the
/// code down each time cannot stop all others.
fn guarded<T>(
    status: &SinkStatus,
    waiting: &mut VecDeque<Waiting>,
    work: impl FnOnce(&mut VecDeque<Waiting>) -> T,
) -> Option<T> {
    let before = waiting.len();
    let result = catch_unwind(AssertUnwindSafe(|| work(waiting)));
    if result.is_err() {
        status.trouble(ErrorKind::Panic, "the delivery thread panicked and goes on");
        if waiting.len() == before {
            // Not to be found in the spool again either.
            waiting.pop_front().into_iter().for_each(|pair| pair.ticket.lost());
        }
    }
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Sink;
    use crate::sink::queue::Door;
    use crate::sink::testing::{Books, ROOMY, metrics};

    /// Stores what it gets, except that a poison pill brings it down, in one of two ways.
    struct Frail;

    impl Deliver for Frail {
        fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
            thread::sleep(turn.pause);
            if waiting.front().is_some_and(|first| first.pair.json == b"poison") {
                panic!("as a test wants");
            }
            let Some(first) = waiting.pop_front() else { return false };
            assert_ne!(first.pair.json, b"poison in hand", "as a test wants");
            first.ticket.delivered();
            true
        }

        fn busy(&self) -> bool {
            false
        }

        fn close(&mut self, _: &mut VecDeque<Waiting>) {}
    }

    /// Never ends a turn before its tests let it.
    struct Hangs(mpsc::Receiver<()>);

    impl Deliver for Hangs {
        fn turn(&mut self, _: &mut VecDeque<Waiting>, _: Turn) -> bool {
            let _ = self.0.recv();
            true
        }

        fn busy(&self) -> bool {
            true
        }

        fn close(&mut self, _: &mut VecDeque<Waiting>) {}
    }

    fn sink<D: Deliver + 'static>(books: &Books, make: impl FnOnce() -> D + Send + 'static) -> Sink {
        let queue = Queue::new(Arc::clone(&books.ledger), ROOMY, DropReason::Disk);
        let status = Arc::new(SinkStatus::new("file", metrics("file"), Arc::clone(&queue)));
        let ended = spawn(Arc::clone(&queue), Arc::clone(&status), move || Ok(Box::new(make()) as _)).unwrap();
        Sink { queue, ledger: Arc::clone(&books.ledger), status, ended }
    }

    #[test]
    fn a_panic_costs_the_pair_at_hand_and_delivery_goes_on() {
        let books = Books::default();
        let sink = sink(&books, || Frail);
        let door: Door = sink.door();
        for json in ["1", "poison", "2", "poison in hand", "3"] {
            door.offer(books.make(json));
        }
        let account = books.until("all end", |account| account.queued == 0);
        assert_eq!((account.delivered, account.dropped[DropReason::Disk as usize]), (3, 2));
        assert_eq!(sink.status().errors(ErrorKind::Panic), 2);
        assert_eq!(books.budget.used(), 0);
    }

    #[test]
    fn delivery_that_hangs_does_not_hold_up_the_end() {
        let books = Books::default();
        let (release, hold) = mpsc::channel();
        let sink = sink(&books, move || Hangs(hold));
        sink.door().offer(books.make("1"));
        let finished = sink.finish(Instant::now());
        assert_eq!((finished.delivered, finished.dropped_at_shutdown), (0, 1));
        assert_eq!(books.account().queued, 0);
        drop(release);
    }

    #[test]
    fn the_thread_has_the_lowest_priority() {
        let books = Books::default();
        let (say, heard) = mpsc::channel();
        let sink = sink(&books, move || {
            let _ = say.send(rustix::process::getpriority_process(None));
            Frail
        });
        assert_eq!(heard.recv().unwrap().unwrap(), 19);
        sink.finish(Instant::now());
        assert!(rustix::process::getpriority_process(None).unwrap() < 19);
    }
}
