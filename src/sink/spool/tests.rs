//! The spool against a sink that is up, away or frozen at a word.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

use super::*;
use crate::sink::testing::{Books, ROOMY, metrics, soon};
use crate::sink::{Finished, Sink, delivery};

const UP: u8 = 0;
const AWAY: u8 = 1;
const FROZEN: u8 = 2;

/// A record, and the producer that it says it is from.
type Got = (String, Option<Arc<str>>);

/// What a stand-in for the brokers does, and what it got.
#[derive(Clone, Default)]
struct Broker {
    mode: Arc<AtomicU8>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Broker {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().unwrap().iter().map(|(json, _)| json.clone()).collect()
    }
}

struct Stub {
    broker: Broker,
    status: Arc<SinkStatus>,
    in_flight: VecDeque<(Waiting, String)>,
}

impl Deliver for Stub {
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
        std::thread::sleep(turn.pause.min(Duration::from_millis(2)));
        let mode = self.broker.mode.load(Ordering::SeqCst);
        if mode == AWAY {
            self.status.set_down(ErrorKind::Transport, "away");
            return false;
        }
        // So many at a time, so that a backlog takes several turns.
        for pair in waiting.drain(..waiting.len().min(20)) {
            let json = String::from_utf8(pair.pair.json.clone()).unwrap();
            assert!(!json.is_empty(), "a pair goes out with its bytes");
            self.in_flight.push_back((pair, json));
        }
        if mode == FROZEN {
            return false;
        }
        self.status.set_up();
        let any = !self.in_flight.is_empty();
        for (pair, json) in self.in_flight.drain(..) {
            self.broker.got.lock().unwrap().push((json, pair.pair.source.clone()));
            pair.ticket.delivered();
        }
        any
    }

    fn under_way(&mut self) -> Box<dyn Iterator<Item = &mut Waiting> + '_> {
        Box::new(self.in_flight.iter_mut().map(|(pair, _)| pair))
    }

    fn busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    fn close(&mut self, waiting: &mut VecDeque<Waiting>) {
        waiting.extend(self.in_flight.drain(..).map(|(pair, _)| pair).filter(|pair| !pair.pair.json.is_empty()));
    }
}

pub(super) fn config(dir: &TempDir) -> SpoolConfig {
    SpoolConfig { dir: dir.path().join("spool"), commit: Duration::from_millis(20), ..SpoolConfig::default() }
}

fn start(books: &Books, broker: &Broker, config: &SpoolConfig, producer: &str) -> Sink {
    let queue = Queue::new(Arc::clone(&books.ledger), ROOMY, DropReason::Rejected);
    let status = Arc::new(SinkStatus::new("kafka", metrics("kafka"), Arc::clone(&queue)));
    let parts = Parts {
        queue: Arc::clone(&queue),
        ledger: Arc::clone(&books.ledger),
        status: Arc::clone(&status),
        producer: producer.into(),
        reserve: books.budget.charge(),
    };
    let stub = Stub { broker: broker.clone(), status: Arc::clone(&status), in_flight: VecDeque::new() };
    let spool = Spool::new(stub, config.clone(), parts).unwrap();
    let ended = delivery::spawn(Arc::clone(&queue), Arc::clone(&status), move || Ok(Box::new(spool) as _)).unwrap();
    Sink { queue, ledger: Arc::clone(&books.ledger), status, ended }
}

fn offer(sink: &Sink, books: &Books, numbers: std::ops::Range<usize>) {
    numbers.for_each(|n| sink.door().offer(books.make(&format!("{{\"n\":{n}}}"))));
}

pub(super) fn numbers(jsons: &[String]) -> Vec<usize> {
    jsons.iter().map(|json| json.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()).collect()
}

pub(super) fn files(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn ends(sink: Sink) -> Finished {
    sink.finish(Instant::now() + Duration::from_millis(300))
}

#[test]
fn while_the_brokers_are_away_pairs_wait_on_disk_and_their_memory_is_let_go() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    broker.set(AWAY);
    let sink = start(&books, &broker, &config(&dir), "p");
    let idle = books.budget.used();
    offer(&sink, &books, 0..500);
    let account = books.until("all are spooled", |account| account.spooled == 500);
    assert_eq!((account.queued, account.queued_bytes), (0, 0));
    books.until("their memory is let go", |_| books.budget.used() == idle);
    assert!(sink.status().oldest().is_some());
    let account = books.until("its size is told", |account| account.spool_bytes > 500 * 100);
    assert_eq!(account.spool_limit, 8 << 30);
    let names = files(&dir.path().join("spool"));
    let mode = fs::metadata(dir.path().join("spool").join(&names[0])).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Back: the oldest first, and new ones are not kept waiting for all of them.
    broker.set(UP);
    offer(&sink, &books, 500..501);
    books.until("all are delivered", |account| account.delivered == 501);
    let got = numbers(&broker.got());
    let old: Vec<usize> = got.iter().copied().filter(|n| *n < 500).collect();
    assert_eq!(old, (0..500).collect::<Vec<_>>());
    assert_ne!(got.last(), Some(&500), "a new one does not wait for the whole backlog");
    let empty = || files(&dir.path().join("spool")).is_empty();
    let deadline = soon();
    while !empty() {
        assert!(Instant::now() < deadline, "what is delivered leaves no files: {:?}", files(&dir.path().join("spool")));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sink.status().oldest(), None);
    ends(sink);
}

#[test]
fn pairs_that_are_confirmed_in_time_never_see_the_disk() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    let config = SpoolConfig { commit: Duration::from_secs(30), ..config(&dir) };
    let sink = start(&books, &broker, &config, "p");
    offer(&sink, &books, 0..200);
    books.until("all are delivered", |account| account.delivered == 200);
    assert_eq!(files(&config.dir), [""; 0]);
    assert_eq!(ends(sink), Finished { delivered: 0, dropped_at_shutdown: 0, spooled: 0 });
}

#[test]
fn what_is_left_is_recovered_by_the_next_run_under_its_old_producer() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    broker.set(FROZEN);
    let sink = start(&books, &broker, &config(&dir), "first");
    offer(&sink, &books, 0..300);
    let finished = ends(sink);
    assert_eq!((finished.delivered, finished.dropped_at_shutdown, finished.spooled), (0, 0, 300));

    let (books, broker) = (Books::default(), Broker::default());
    let sink = start(&books, &broker, &config(&dir), "second");
    assert!(books.account().spool_bytes > 300 * 100, "its bytes count before its pairs are taken over");
    offer(&sink, &books, 300..310);
    let account = books.until("all are delivered", |account| account.delivered == 310);
    assert_eq!((account.recovered, account.last_seq), (300, 10));
    let mut got = numbers(&broker.got());
    got.sort_unstable();
    assert_eq!(got, (0..310).collect::<Vec<_>>());
    let source = |got: &Got| got.1.as_deref().unwrap_or("second").to_owned();
    let sources: BTreeSet<String> = broker.got.lock().unwrap().iter().map(source).collect();
    assert_eq!(sources, BTreeSet::from(["first".to_owned(), "second".to_owned()]));
    ends(sink);
    assert_eq!(files(&dir.path().join("spool")), [""; 0]);
}

#[test]
fn a_pair_that_is_confirmed_after_it_was_stored_is_struck_off_for_good() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    broker.set(FROZEN);
    let sink = start(&books, &broker, &config(&dir), "p");
    offer(&sink, &books, 0..10);
    books.until("stored while they are under way", |account| account.spooled == 10);
    broker.set(UP);
    books.until("confirmed", |account| account.delivered == 10);
    broker.set(AWAY);
    offer(&sink, &books, 10..15);
    books.until("stored", |account| account.spooled == 5);
    assert_eq!(ends(sink).spooled, 5);

    let (books, again) = (Books::default(), Broker::default());
    let sink = start(&books, &again, &config(&dir), "q");
    books.until("the rest is delivered", |account| account.delivered == 5);
    assert_eq!(books.account().recovered, 5);
    assert_eq!(numbers(&again.got()), (10..15).collect::<Vec<_>>());
    ends(sink);
}

#[test]
fn at_its_bound_the_newest_or_the_oldest_go_and_are_counted() {
    for (when_full, kept) in [(WhenFull::DropNewest, 0), (WhenFull::DropOldest, 1)] {
        let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
        broker.set(AWAY);
        let config = SpoolConfig { max: 1 << 20, when_full, ..config(&dir) };
        let sink = start(&books, &broker, &config, "p");
        for n in 0..60 {
            sink.door().offer(books.make(&format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(40_000))));
            books.until("it waits on disk or is dropped", |account| account.queued == 0);
        }
        let account = books.account();
        let lost = account.dropped[DropReason::SpoolFull as usize];
        assert!(lost >= 20 && account.spooled > 15, "{account:?}");
        assert!(sink.status().errors(ErrorKind::SpoolFull) > 0 || when_full == WhenFull::DropOldest);
        let size: u64 = files(&config.dir).iter().map(|name| fs::metadata(config.dir.join(name)).unwrap().len()).sum();
        assert!(size <= 1 << 20, "{size}");
        broker.set(UP);
        books.until("what is kept is delivered", |account| account.spooled == 0);
        // The very first few are on their way all the time.
        let first = broker.got().iter().filter(|json| json.starts_with("{\"n\":12,")).count();
        let last = broker.got().iter().filter(|json| json.starts_with("{\"n\":59,")).count();
        assert_eq!((first, last), (1 - kept, kept), "{when_full:?}");
        ends(sink);
    }
}

#[test]
fn a_disk_that_refuses_leaves_pairs_in_memory_and_is_tried_again() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    let config = config(&dir);
    broker.set(AWAY);
    let sink = start(&books, &broker, &config, "p");
    fs::remove_dir(&config.dir).unwrap();
    fs::write(&config.dir, "in the way").unwrap();
    offer(&sink, &books, 0..10);
    let status = sink.status();
    let deadline = soon();
    while status.errors(ErrorKind::Io) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(books.account().queued, 10);
    fs::remove_file(&config.dir).unwrap();
    books.until("stored", |account| account.spooled == 10);
    broker.set(UP);
    books.until("delivered", |account| account.delivered == 10);
    assert_eq!(numbers(&broker.got()), (0..10).collect::<Vec<_>>());
    ends(sink);
}

#[test]
fn a_pair_that_is_larger_than_half_of_the_spool_pushes_nothing_out() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    broker.set(AWAY);
    let config = SpoolConfig { max: 1 << 20, when_full: WhenFull::DropOldest, ..config(&dir) };
    let sink = start(&books, &broker, &config, "p");
    offer(&sink, &books, 0..10);
    books.until("stored", |account| account.spooled == 10);
    sink.door().offer(books.make(&format!("{{\"n\":10,\"x\":\"{}\"}}", "x".repeat(2 << 20))));
    offer(&sink, &books, 11..20);
    let account = books.until("stored", |account| account.spooled == 19);
    assert_eq!((account.queued, account.dropped), (1, [0; DropReason::ALL.len()]));
    broker.set(UP);
    books.until("all are delivered", |account| account.delivered == 20);
    ends(sink);
}

#[test]
fn a_note_that_cannot_be_written_keeps_nothing_from_the_spool_or_out_of_it() {
    let (books, broker, dir) = (Books::default(), Broker::default(), TempDir::new().unwrap());
    let config = config(&dir);
    broker.set(AWAY);
    let sink = start(&books, &broker, &config, "p");
    offer(&sink, &books, 0..3000);
    books.until("stored", |account| account.spooled == 3000);
    // A folder stands where the notes are to be written.
    for name in files(&config.dir) {
        fs::create_dir(config.dir.join(name).with_extension("done")).unwrap();
    }
    broker.set(UP);
    books.until("all are delivered", |account| account.delivered == 3000);
    broker.set(AWAY);
    offer(&sink, &books, 3000..3010);
    books.until("and more is stored", |account| account.spooled == 10);
    ends(sink);
}
