//! Where the two legs of a pair meet. Whichever is over second completes the pair: the candidate's, when prod's already
//! stands in its slot; else prod's, which the lane looks for at each of its beats, so that the answer path need not cross
//! a second time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::analyst::AnalystDoor;
use super::beat::Pulse;
use super::exchange::{Exchange, HalfPair, Side, Verdict};
use crate::analysis::material::AnsweredFacts;
use crate::budget::Budget;
use crate::types::{AnsweredBy, Outcome, Role};
use crate::upstream::Target;
use crate::upstream::pool::Pool;
use crate::upstream::trace::{Ending, Trace};

/// What the calls of one lane share.
#[derive(Debug)]
pub(super) struct LaneContext {
    /// The lane's connections.
    pub(super) pool: Rc<Pool>,
    /// How late it runs.
    pub(super) pulse: Pulse,
    /// For the copies of answers.
    pub(super) budget: Arc<Budget>,
    /// Where legs meet.
    pub(super) meeting: Meeting,
    /// Calls that have begun and are not over.
    pub(super) legs: Cell<usize>,
}

impl LaneContext {
    /// Whether no call is under way, and no pair waits.
    pub(super) fn is_idle(&self) -> bool {
        self.legs.get() == 0 && self.meeting.waiting.borrow().is_empty()
    }
}

/// Pairs on their way to the analysis thread.
#[derive(Debug)]
pub(super) struct Meeting {
    analyst: AnalystDoor,
    /// Pairs that wait for a leg.
    waiting: RefCell<Vec<HalfPair>>,
    /// Rung at each look.
    looked: Notify,
}

impl Meeting {
    pub(super) fn new(analyst: AnalystDoor) -> Self {
        Self { analyst, waiting: RefCell::default(), looked: Notify::new() }
    }

    /// A leg is over: the pair goes on, or waits for the other.
    pub(super) fn half(&self, pair: HalfPair) {
        if pair.is_whole() {
            self.pass_on(pair);
        } else {
            self.waiting.borrow_mut().push(pair);
        }
    }

    /// A pair that is whole becomes a record, but where its leg was not asked.
    fn pass_on(&self, pair: HalfPair) {
        match pair.passed_by() {
            Some(reason) => pair.place.candidate().skip(reason),
            None => self.analyst.pair(pair),
        }
    }

    /// Looks which pairs are whole by now, and wakes whoever waits for a verdict.
    pub(super) fn look(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut index = 0;
        while index < waiting.len() {
            if waiting[index].is_whole() {
                self.pass_on(waiting.swap_remove(index));
            } else {
                index += 1;
            }
        }
        self.looked.notify_waiters();
    }

    /// Waits until it is known who asks prod.
    pub(super) async fn verdict(&self, exchange: &Exchange) -> Verdict {
        loop {
            let looked = self.looked.notified();
            if let Some(verdict) = exchange.sides.verdict() {
                return verdict;
            }
            looked.await;
        }
    }

    /// Workers are gone, so the legs are over: their guards have filled every slot, but for a thread that died.
    pub(super) fn close(&self) {
        for pair in self.waiting.take() {
            if !pair.is_whole() {
                lose(&pair.exchange);
            }
            self.pass_on(pair);
        }
    }
}

impl Drop for Meeting {
    /// A lane that dies leaves no pair uncounted.
    fn drop(&mut self) {
        self.close();
    }
}

/// Fills in what a thread that ended has left open.
fn lose(exchange: &Exchange) {
    let lost = |target: &Target, role| {
        let ending = Ending::without_answer(Outcome::Cancelled, std::time::Duration::ZERO);
        Side { leg: Trace::start(exchange.arrived).facts(&target.model, role, ending), charge: None }
    };
    let (route, sides) = (&exchange.route, &exchange.sides);
    sides.prod.fill(lost(&route.prod.target, Role::Prod));
    if let Some(canary) = &route.canary {
        sides.canary.fill(lost(&canary.target, Role::Canary));
    }
    let model = Some(Arc::clone(&route.prod.target.model));
    sides.answered(AnsweredFacts { model, by: AnsweredBy::Prod, status: 499 });
}
