//! The spool against a sink that is up, away or frozen at a word, and its log against cut, damaged and shared files.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::segment::id_of;
use super::*;
use crate::sink::testing::{Books, ROOMY, encoded, metrics, soon};
use crate::sink::{Encoded, Finished, Sink, delivery};

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

fn config(dir: &TempDir) -> SpoolConfig {
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

fn numbers(jsons: &[String]) -> Vec<usize> {
    jsons.iter().map(|json| json.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()).collect()
}

fn files(dir: &std::path::Path) -> Vec<String> {
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

// ---- the log alone

fn log(dir: &TempDir, producer: &str) -> Log {
    Log::open(&config(dir), producer.into()).unwrap()
}

fn pair(n: usize) -> Encoded {
    let budget = crate::budget::Budget::new(1 << 20);
    Encoded { id: format!("id-{n}"), ..encoded(&budget, &format!("{{\"n\":{n}}}")) }
}

fn append(log: &mut Log, numbers: std::ops::Range<usize>) -> Vec<Place> {
    let pairs: Vec<Encoded> = numbers.map(pair).collect();
    let (places, stop) = log.append(pairs.iter().map(|pair| (pair, 7)));
    assert!(stop.is_none());
    places
}

/// Everything that the log still has to send, by number.
fn drain(log: &mut Log) -> Vec<(usize, Place)> {
    let mut found = Vec::new();
    loop {
        let (Some(recalled), fault) = log.next() else { return found };
        assert!(fault.is_none());
        let place = recalled.place;
        let charge = crate::budget::Budget::new(1).charge();
        let stored = format::parse(recalled.body, charge).unwrap();
        assert_eq!((stored.made_ms, stored.pair.key.as_str()), (7, "key"));
        let number = numbers(&[String::from_utf8(stored.pair.json).unwrap()])[0];
        assert_eq!(stored.pair.id, format!("id-{number}"));
        found.push((number, place));
    }
}

fn adopt_all(log: &mut Log) -> Vec<Adopted> {
    std::iter::from_fn(|| log.adopt().unwrap()).collect()
}

fn only_segment(dir: &TempDir) -> PathBuf {
    let folder = dir.path().join("spool");
    let mut paths = files(&folder).into_iter().map(|name| folder.join(name)).filter(|path| id_of(path).is_some());
    let path = paths.next().unwrap();
    assert_eq!(paths.next(), None);
    path
}

/// A log of one segment, as a process leaves it that is killed.
fn left_behind(pairs: usize) -> (TempDir, PathBuf, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    append(&mut log(&dir, "gone"), 0..pairs);
    let path = only_segment(&dir);
    let bytes = fs::read(&path).unwrap();
    (dir, path, bytes)
}

#[test]
fn a_torn_end_is_cut_wherever_it_was_torn() {
    let (dir, path, whole) = left_behind(4);
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let mut log = log(&dir, "next");
        let adopted = adopt_all(&mut log);
        let found = drain(&mut log);
        let numbers: Vec<usize> = found.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "cut to {length}");
        assert!(numbers.len() < 4);
        assert_eq!((adopted.len(), adopted[0].pairs as usize, adopted[0].lost), (1, numbers.len(), 0), "{length}");
        for name in files(&dir.path().join("spool")) {
            fs::remove_file(dir.path().join("spool").join(name)).unwrap();
        }
    }
}

#[test]
fn one_damaged_byte_costs_one_pair_at_most_which_is_counted_and_the_segment_is_put_aside() {
    let (dir, path, whole) = left_behind(4);
    let head = 20 + "gone".len();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&path, &damaged).unwrap();
        let mut log = log(&dir, "next");
        let adopted = adopt_all(&mut log);
        let numbers: Vec<usize> = drain(&mut log).into_iter().map(|(n, _)| n).collect();
        let names = files(&dir.path().join("spool"));
        let aside = names.iter().any(|name| name.ends_with(".corrupt"));
        assert_eq!(adopted.len(), 1, "byte {at}");
        if at < head {
            assert!(aside && numbers.is_empty(), "byte {at}: {names:?}");
        } else if aside {
            assert_eq!((numbers.len(), adopted[0].pairs, adopted[0].lost), (3, 3, 1), "byte {at}");
        } else {
            // The last one, damaged so that it looks as if it had been torn off.
            assert_eq!((numbers.as_slice(), adopted[0].lost), (&[0, 1, 2][..], 0), "byte {at}");
            assert!(adopted[0].torn > 0);
        }
        for name in names {
            fs::remove_file(dir.path().join("spool").join(name)).unwrap();
        }
    }
}

#[test]
fn a_text_that_looks_like_a_seal_is_not_believed() {
    let (dir, path, whole) = left_behind(2);
    // As a client's key could be, in the middle of a write that was torn.
    let mut torn = whole.clone();
    torn.extend_from_slice(b"PAIRxxxx");
    torn.extend_from_slice(&format::seal(0x7f7f_7f7f));
    torn.extend_from_slice(b"tail");
    fs::write(&path, &torn).unwrap();
    let mut log = log(&dir, "next");
    let adopted = adopt_all(&mut log);
    assert_eq!((adopted[0].pairs, adopted[0].lost), (2, 0));
    assert_eq!(drain(&mut log).len(), 2);
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

#[test]
fn what_others_still_write_is_left_alone_and_what_is_no_segment_too() {
    let dir = TempDir::new().unwrap();
    let mut first = log(&dir, "first");
    append(&mut first, 0..3);
    fs::write(dir.path().join("spool/notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("spool/spool-1-p.seg"), "no id of ours").unwrap();
    let mut second = log(&dir, "second");
    assert_eq!(adopt_all(&mut second), []);
    drop(first);
    let mut third = log(&dir, "third");
    assert_eq!(adopt_all(&mut third), [Adopted { pairs: 3, ..Adopted::default() }]);
    assert_eq!(drain(&mut third).len(), 3);
    assert!(files(&dir.path().join("spool")).contains(&"notes.txt".to_owned()));
}

#[test]
fn a_segment_that_somebody_deletes_is_read_to_its_end_and_written_no_more() {
    let dir = TempDir::new().unwrap();
    let mut log = log(&dir, "p");
    let places = append(&mut log, 0..3);
    fs::remove_dir_all(dir.path().join("spool")).unwrap();
    let more = append(&mut log, 3..5);
    assert_eq!(files(&dir.path().join("spool")).len(), 1, "a new segment in a new folder");
    places.into_iter().chain(more).for_each(|place| assert!(!log.take_back(place)));
    assert_eq!(drain(&mut log).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

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
