//! Floor 5: from bytes to totals. Here it is decided what counts: one record of each `id`, of the schema that we
//! know, of the routes and candidates asked for. What does not count is counted, and damage is named, never fatal.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64;

use crate::record::{NumberView, PairView, SCHEMA, SchemaView};
use crate::types::Role;

use super::found::{At, Found};
use super::producers::Producers;
use super::report::{Read, Unreadable};
use super::seqs::Inserted;
use super::totals::{Key, Totals, Words};
use super::words::cut;

/// How many unreadable records are named.
const NAMED: usize = 5;
/// How many routes and candidates a message names.
const NAMES: usize = 20;
/// The most groups; a routing file makes a handful.
const GROUPS: usize = 200;
/// The most ids that are remembered, at 9 to 18 bytes each. Beyond, a repeated record is known by its producer
/// and number alone.
const IDS: usize = 1 << 24;
/// How often progress is told.
const TELL_EVERY: u64 = 1_000;

/// Takes records, keeps totals.
pub(super) struct Intake<'a> {
    route: Option<&'a str>,
    candidate: Option<&'a str>,
    progress: &'a mut dyn FnMut(u64),
    ids: HashSet<u64, BuildHasherDefault<Plain>>,
    producers: Producers,
    read: Read,
    groups: BTreeMap<Key, Totals>,
    /// Pairs of groups beyond [`GROUPS`].
    ungrouped: u64,
    routes: BTreeSet<String>,
    candidates: BTreeSet<String>,
}

/// Everything that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) read: Read,
    pub(super) groups: BTreeMap<Key, Totals>,
    pub(super) ungrouped: u64,
    pub(super) routes: BTreeSet<String>,
    pub(super) candidates: BTreeSet<String>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(route: Option<&'a str>, candidate: Option<&'a str>, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            route,
            candidate,
            progress,
            ids: HashSet::default(),
            producers: Producers::default(),
            read: Read::default(),
            groups: BTreeMap::new(),
            ungrouped: 0,
            routes: BTreeSet::new(),
            candidates: BTreeSet::new(),
        }
    }

    /// Takes what a source found.
    pub(super) fn take(&mut self, found: Found<'_>) -> anyhow::Result<()> {
        match found {
            Found::Part => self.read.parts += 1,
            Found::OpenFrame => self.read.unfinished += 1,
            Found::Broken(at, why) => self.unreadable(at, why),
            Found::Record(at, bytes) => return self.record(at, bytes),
            Found::Tail(at, bytes) => {
                // Without its line's end a record may be whole, as the last one of a file made elsewhere.
                if serde_json::from_slice::<SchemaView>(bytes).is_ok() {
                    return self.record(at, bytes);
                }
                self.read.unfinished += 1;
            }
        }
        Ok(())
    }

    fn record(&mut self, at: At<'_>, bytes: &[u8]) -> anyhow::Result<()> {
        self.read.records += 1;
        if self.read.records.is_multiple_of(TELL_EVERY) {
            (self.progress)(self.read.records);
        }
        match parse(bytes) {
            Ok(Some((pair, words))) => self.pair(&pair, &words),
            Ok(None) => {
                self.read.other_schema += 1;
                Ok(())
            }
            Err(why) => {
                self.keep_number(bytes);
                self.unreadable(at, why);
                Ok(())
            }
        }
    }

    fn unreadable(&mut self, at: At<'_>, why: String) {
        self.read.unreadable += 1;
        if self.read.unreadable_first.len() < NAMED {
            self.read.unreadable_first.push(Unreadable { at: at.to_string(), why });
        }
    }

    fn pair(&mut self, pair: &PairView, words: &Words) -> anyhow::Result<()> {
        if !self.is_new(pair) {
            self.read.duplicates += 1;
            return Ok(());
        }
        let key = words.key(pair);
        self.note(&key);
        let of_route = self.route.is_none_or(|route| route == key.route);
        let asked = of_route && self.candidate.is_none_or(|candidate| candidate == key.candidate);
        // A control says how noisy prod is, whichever candidate was asked for.
        let yardstick = of_route && key.role == Role::Control;
        if !asked && !yardstick {
            self.read.filtered += 1;
            return Ok(());
        }
        if self.groups.len() >= GROUPS && !self.groups.contains_key(&key) {
            self.ungrouped += 1;
            return Ok(());
        }
        self.read.pairs += u64::from(asked);
        self.read.filtered += u64::from(!asked);
        widen(&mut self.read, &pair.time);
        match self.groups.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Totals::new()?),
        }
        .add(pair, words)
    }

    /// Keeps the first names, for a message that says what there is.
    fn note(&mut self, key: &Key) {
        for (known, name) in [(&mut self.routes, &key.route), (&mut self.candidates, &key.candidate)] {
            if known.len() < NAMES && !known.contains(name) {
                known.insert(cut(name));
            }
        }
    }

    /// Whether the pair did not come before. Its number is kept whatever becomes of it.
    fn is_new(&mut self, pair: &PairView) -> bool {
        let number = self.producers.track(&pair.producer, pair.seq);
        let id = xxh3_64(pair.id.as_bytes());
        let roomy = self.ids.len() < IDS;
        let new = if roomy { self.ids.insert(id) } else { number != Inserted::Known && !self.ids.contains(&id) };
        if !new {
            self.producers.duplicate(&pair.producer);
        } else if number == Inserted::Known {
            self.producers.reused(&pair.producer);
        }
        new
    }

    /// A record of ours that cannot be used has arrived all the same: its number is not missing.
    fn keep_number(&mut self, bytes: &[u8]) {
        if let Some(view) = serde_json::from_slice::<NumberView>(bytes).ok().filter(|view| view.schema == SCHEMA) {
            self.producers.track(&view.producer, view.seq);
        }
    }

    /// Ends the intake.
    pub(super) fn finish(mut self) -> Taken {
        (self.progress)(self.read.records);
        self.producers.tell(&mut self.read);
        Taken {
            read: self.read,
            groups: self.groups,
            ungrouped: self.ungrouped,
            routes: self.routes,
            candidates: self.candidates,
        }
    }
}

/// A record of our schema; `None` for one of another.
fn parse(bytes: &[u8]) -> Result<Option<(PairView, Words)>, String> {
    let pair: PairView = match serde_json::from_slice(bytes) {
        Ok(pair) => pair,
        Err(error) => {
            return match serde_json::from_slice::<SchemaView>(bytes) {
                Ok(view) if view.schema != SCHEMA => Ok(None),
                _ => Err(error.to_string()),
            };
        }
    };
    if pair.schema != SCHEMA {
        return Ok(None);
    }
    let words = Words::of(&pair)?;
    Ok(Some((pair, words)))
}

/// RFC 3339 in UTC with a fixed number of digits sorts as text.
fn widen(read: &mut Read, time: &str) {
    if read.from.as_deref().is_none_or(|from| time < from) {
        read.from = Some(time.into());
    }
    if read.to.as_deref().is_none_or(|to| time > to) {
        read.to = Some(time.into());
    }
}

/// Passes a number on that is a hash already.
#[derive(Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
