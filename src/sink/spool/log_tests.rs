//! The spool's log against cut, damaged and shared files.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::folder::{done_path, id_of, name};
use super::tests::{config, files, numbers};
use super::*;
use crate::sink::Encoded;
use crate::sink::testing::encoded;

fn log(dir: &TempDir, producer: &str) -> Log {
    Log::open(&config(dir), producer.into()).unwrap()
}

fn pair(n: usize) -> Encoded {
    let budget = crate::budget::Budget::new(1 << 20);
    Encoded { id: format!("id-{n}"), ..encoded(&budget, &format!("{{\"n\":{n}}}")) }
}

fn large() -> Encoded {
    let budget = crate::budget::Budget::new(1 << 20);
    encoded(&budget, &"x".repeat(100_000))
}

pub(super) fn append(log: &mut Log, numbers: std::ops::Range<usize>) -> Vec<Place> {
    let pairs: Vec<Encoded> = numbers.map(pair).collect();
    let (places, stop) = log.append(pairs.iter().map(|pair| (pair, 7)));
    assert!(stop.is_none());
    places
}

/// Everything that the log still has to send, by number.
pub(super) fn drain(log: &mut Log) -> Vec<(usize, Place)> {
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

pub(super) fn adopt_all(log: &mut Log) -> Vec<Adopted> {
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
    // An empty one is one that was only begun.
    for length in 1..whole.len() {
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

#[test]
fn what_was_written_with_a_clock_far_ahead_is_taken_over_and_ids_go_on_from_there() {
    // 16 digits end in 2286, and the last number there is must not make the next one wrap before all others.
    for ahead in [9_999_999_999_999_999, u64::MAX] {
        let (dir, path, _) = left_behind(3);
        fs::rename(&path, path.with_file_name(name(ahead, "gone"))).unwrap();
        let mut first = log(&dir, "first");
        assert_eq!(adopt_all(&mut first).len(), 1);
        append(&mut first, 3..5);
        drop(first);
        let mut second = log(&dir, "second");
        assert_eq!(adopt_all(&mut second).len(), 2, "{ahead}");
        let mut numbers: Vec<usize> = drain(&mut second).iter().map(|(n, _)| *n).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }
}

#[test]
fn a_link_in_place_of_a_segment_or_of_its_notes_is_not_followed() {
    let (dir, path, bytes) = left_behind(3);
    let (notes, segment) = (dir.path().join("notes"), dir.path().join("segment"));
    let all_done = [0_u32.to_le_bytes(), 9_u32.to_le_bytes()].concat();
    let believed = [&all_done[..], &crc32fast::hash(&all_done).to_le_bytes(), b"tail"].concat();
    fs::write(&notes, &believed).unwrap();
    std::os::unix::fs::symlink(&notes, done_path(&path)).unwrap();
    // Torn, so that taking it over would cut it.
    fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    std::os::unix::fs::symlink(&segment, path.with_file_name(name(7, "link"))).unwrap();

    let mut log = log(&dir, "next");
    assert_eq!(adopt_all(&mut log), [Adopted { pairs: 3, ..Adopted::default() }]);
    for (_, place) in drain(&mut log) {
        log.strike(place);
    }
    assert!(log.note().is_err());
    log.sweep();
    assert_eq!(fs::read(&notes).unwrap(), believed);
    assert_eq!(fs::read(&segment).unwrap(), bytes[..bytes.len() - 1]);
    assert_eq!(
        files(&dir.path().join("spool")),
        [name(7, "link")],
        "the link that lay beside the segment goes with it"
    );
}

fn bytes_in(dir: &TempDir) -> u64 {
    let folder = dir.path().join("spool");
    files(&folder).iter().map(|name| fs::metadata(folder.join(name)).unwrap().len()).sum()
}

#[test]
fn what_is_not_taken_over_yet_counts_to_the_bound_from_the_start() {
    let dir = TempDir::new().unwrap();
    for n in 0..3 {
        let mut gone = log(&dir, "gone");
        let places = append(&mut gone, n..n + 3);
        gone.strike(places[0]);
        gone.note().unwrap();
    }
    let on_disk = bytes_in(&dir);
    let mut log = log(&dir, "next");
    assert_eq!(log.bytes(), on_disk, "notes included");
    for _ in 0..3 {
        assert!(log.adopt().unwrap().is_some());
        assert_eq!(log.bytes(), on_disk);
    }
    assert_eq!(log.adopt().unwrap(), None);

    // What another process holds is not ours to count.
    let other = Log::open(&config(&dir), "other".into()).unwrap();
    assert_eq!(other.bytes(), 0);

    // And what cannot be taken over is still there.
    drop(log);
    let small = SpoolConfig { max: on_disk + 1, ..config(&dir) };
    let mut log = Log::open(&small, "next".into()).unwrap();
    let blocked = files(&small.dir).into_iter().find(|name| name.ends_with(".done")).unwrap();
    fs::remove_file(small.dir.join(&blocked)).unwrap();
    fs::create_dir(small.dir.join(&blocked)).unwrap();
    assert!(log.adopt().is_err());
    assert_eq!(adopt_all(&mut log).len(), 2);
    assert_eq!(log.bytes(), on_disk);
    assert!(matches!(log.append([(&pair(9), 7)].into_iter()), (_, Some(Stop::Full))));
}

#[test]
fn without_locks_a_process_still_keeps_and_recovers_its_pairs() {
    let dir = TempDir::new().unwrap();
    let open = |producer: &str| {
        let no_locks = |_: &fs::File| {
            Err(fs::TryLockError::Error(io::Error::from_raw_os_error(rustix::io::Errno::NOLCK.raw_os_error())))
        };
        Log::open_with(&config(&dir), producer.into(), no_locks).unwrap()
    };
    let mut first = open("first");
    append(&mut first, 0..3);
    first.close();
    drop(first);
    let mut second = open("second");
    assert_eq!(adopt_all(&mut second), [Adopted { pairs: 3, ..Adopted::default() }]);
    append(&mut second, 3..5);
    assert_eq!(drain(&mut second).len(), 3);
}

/// How many files below a folder this process has open, deleted ones included.
fn open_below(dir: &TempDir) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    links.filter(|path| path.starts_with(dir.path())).count()
}

#[test]
fn what_is_given_up_for_its_room_is_closed_so_that_there_is_room() {
    let dir = TempDir::new().unwrap();
    let mut log = log(&dir, "p");
    let places = append(&mut log, 0..3);
    log.strike(places[0]);
    log.note().unwrap();
    assert_eq!(open_below(&dir), 2);
    assert_eq!(log.drop_oldest(), Some(0), "they are on their way");
    assert_eq!((open_below(&dir), log.bytes()), (0, 0));
    assert!(log.take_back(places[1]), "it has nowhere to wait");
    log.strike(places[2]);
    log.note().unwrap();
    log.sweep();
    assert_eq!((open_below(&dir), files(&dir.path().join("spool")).len(), log.next().0.is_none()), (0, 0, true));
}

#[test]
fn no_more_files_are_open_than_are_counted_however_many_runs_have_left_some() {
    let dir = TempDir::new().unwrap();
    for n in 0..200 {
        let mut short = log(&dir, "short");
        let places = append(&mut short, 2 * n..2 * n + 2);
        short.strike(places[0]);
        short.note().unwrap();
    }
    let max = bytes_in(&dir) + (8 << 20);
    let mut log = Log::open(&SpoolConfig { max, ..config(&dir) }, "next".into()).unwrap();
    let (mut sent, mut most) = (BTreeSet::new(), 0);
    while sent.len() < 200 {
        adopt_all(&mut log);
        let found = drain(&mut log);
        assert!(!found.is_empty(), "what has ended makes way for the next");
        // As many more as fit, large ones, while those are held.
        while let (places, None) = log.append([(&large(), 7)].into_iter()) {
            places.into_iter().for_each(|place| log.strike(place));
        }
        log.note().unwrap();
        most = most.max(open_below(&dir));
        for (number, place) in found {
            log.strike(place);
            assert!(sent.insert(number), "{number} twice");
        }
        log.sweep();
    }
    assert!(most > 100 && most as u64 <= log::OPEN_FILES - 4, "{most}");
}
