//! The analysis thread: it makes the record of each whole pair, books it in the ledger, and offers it to the sink. It
//! has a thread of its own because milliseconds of comparing must not falsify another leg's clock.

use std::borrow::Cow;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use super::exchange::HalfPair;
use crate::analysis::material::{PairContext, PairFacts};
use crate::analysis::pair;
use crate::budget::Charge;
use crate::ledger::{Held, Ledger};
use crate::lifecycle::{self, Priority};
use crate::metrics::versions::Versions;
use crate::record::Pair;
use crate::sink::{Door, Encoded};
use crate::types::{DropReason, PairResult, SkipReason, uuid_v7};

/// How long pairs gather before the thread looks again: being woken for each of them costs as much as making its record.
const GATHER: Duration = Duration::from_millis(3);

/// What the analysis thread needs.
#[derive(Debug)]
pub struct Analyst {
    /// What all pairs have in common.
    pub context: PairContext,
    /// The versions that answers say.
    pub versions: Versions,
    /// The account.
    pub ledger: Arc<Ledger>,
    /// Where records go.
    pub sink: Door,
    /// The name under `capture.keys` whose value is the message key.
    pub message_key: Option<String>,
}

/// A lane's way to the analysis thread. Its queue has no bound of its own: `MAX_UNDER_WAY` is one.
#[derive(Debug, Clone)]
pub struct AnalystDoor(Sender<HalfPair>);

impl AnalystDoor {
    pub(super) fn pair(&self, pair: HalfPair) {
        if let Err(refused) = self.0.send(pair) {
            refused.0.place.candidate().skip(SkipReason::Draining);
        }
    }
}

/// Starts the analysis thread.
pub fn start(mut analyst: Analyst) -> io::Result<(AnalystDoor, JoinHandle<()>)> {
    let (door, pairs) = channel();
    let thread = lifecycle::thread("shadowpair-analysis", Priority::Background, move || analyst.run(&pairs))?;
    Ok((AnalystDoor(door), thread))
}

impl Analyst {
    fn run(&mut self, pairs: &Receiver<HalfPair>) {
        while let Ok(first) = pairs.recv() {
            self.take(first);
            pairs.try_iter().for_each(|pair| self.take(pair));
            std::thread::sleep(GATHER);
        }
    }

    fn take(&mut self, mut pair: HalfPair) {
        let mut booked = false;
        if catch_unwind(AssertUnwindSafe(|| self.complete(&mut pair, &mut booked))).is_err() {
            let route = &pair.exchange.route.rule.name;
            tracing::error!(%route, "a pair could not be made: a fault of shadowpair");
            if !booked {
                self.ledger.made(&pair.place.candidate().pair_key(route, PairResult::Unmeasured));
            }
            self.ledger.dropped(DropReason::Corrupt, 1, Held::Queue(0));
        }
    }

    fn complete(&mut self, half: &mut HalfPair, booked: &mut bool) {
        let answer = half.side.as_mut().and_then(|side| side.charge.take());
        let exchange = &half.exchange;
        let sides = &exchange.sides;
        let candidate = half.side.as_ref().or_else(|| sides.canary.get());
        // A pair comes here only once it is whole.
        let (Some(prod), Some(candidate), Some(answered)) = (sides.prod.get(), candidate, sides.answer()) else {
            return;
        };
        let pick = &half.place.pick;
        let facts = PairFacts {
            route: &exchange.route.rule,
            request: &exchange.request,
            arm: exchange.arm,
            bucket: exchange.bucket.map(u32::from),
            answered,
            sample_percent: pick.percent,
            tally: pick.tally,
            prod: &prod.leg,
            candidate: &candidate.leg,
        };
        let since_epoch = exchange.request.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = uuid_v7(u64::try_from(since_epoch.as_millis()).unwrap_or(0));
        let contents = pair::Contents::of(&facts);
        let (mut pair, result) = pair::build(&self.context, &facts, &contents, &exchange.route.hash, id, 0);
        pair.seq = self.ledger.made(&half.place.candidate().pair_key(&exchange.route.rule.name, result));
        *booked = true;
        for leg in [&pair.prod, &pair.candidate] {
            if let Some(version) = &leg.version {
                self.versions.saw(&leg.model, version);
            }
        }
        let sibling = half.place.reserve.sibling();
        let mut reserve = std::mem::replace(&mut half.place.reserve, sibling);
        if let Some(answer) = answer {
            reserve.absorb(answer);
        }
        self.deliver(pair, reserve);
    }

    fn deliver(&self, pair: Pair<Cow<str>>, mut charge: Charge) {
        let json = match pair.encode() {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(route = &*pair.route, %error, "a pair cannot be written as JSON: a fault of shadowpair");
                return self.ledger.dropped(DropReason::Corrupt, 1, Held::Queue(0));
            }
        };
        let more = json.len().saturating_sub(charge.bytes());
        if !charge.grow(more) {
            return self.ledger.dropped(DropReason::QueueFull, 1, Held::Queue(0));
        }
        charge.shrink_to(json.len());
        let key = pair::message_key(&pair, self.message_key.as_deref());
        self.sink.offer(Encoded {
            json,
            key,
            id: pair.id.into_owned(),
            time: pair.time.into_owned(),
            route: pair.route.into_owned(),
            source: None,
            charge,
        });
    }
}
