//! Where the two legs of a pair meet. Whichever is over second completes the pair: the candidate's, when prod's already
//! stands in its slot; else prod's, which the lane looks for at each of its beats, so that the answer path need not cross
//! a second time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;

use super::analyst::AnalystDoor;
use super::beat::Pulse;
use super::exchange::{Exchange, HalfPair, ProdSide};
use crate::analysis::material::{AnsweredFacts, Captured};
use crate::budget::Budget;
use crate::types::{AnsweredBy, Outcome, Role};
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
}

/// Pairs on their way to the analysis thread.
#[derive(Debug)]
pub(super) struct Meeting {
    analyst: AnalystDoor,
    /// Pairs whose prod leg is not over yet.
    waiting: RefCell<Vec<HalfPair>>,
}

impl Meeting {
    pub(super) fn new(analyst: AnalystDoor) -> Self {
        Self { analyst, waiting: RefCell::default() }
    }

    /// The candidate's leg is over: the pair goes on, or waits for prod's.
    pub(super) fn half(&self, pair: HalfPair) {
        if pair.exchange.prod.get().is_some() {
            self.analyst.pair(pair);
        } else {
            self.waiting.borrow_mut().push(pair);
        }
    }

    /// Looks which pairs are whole by now.
    pub(super) fn look(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut index = 0;
        while index < waiting.len() {
            if waiting[index].exchange.prod.get().is_some() {
                self.analyst.pair(waiting.swap_remove(index));
            } else {
                index += 1;
            }
        }
    }

    /// Workers are gone, so prod's legs are over: their guards have filled every slot, but for a thread that died.
    pub(super) fn close(&self) {
        for pair in self.waiting.take() {
            if pair.exchange.prod.get().is_none() {
                pair.exchange.prod.fill(lost_prod(&pair.exchange));
            }
            self.analyst.pair(pair);
        }
    }
}

/// Prod's side where its thread ended without leaving one.
fn lost_prod(exchange: &Exchange) -> ProdSide {
    let ending = Ending {
        outcome: Outcome::Cancelled,
        status: None,
        grpc_status: None,
        headers: HeaderMap::new(),
        bytes: 0,
        body: Captured::NotCaptured,
        lag: std::time::Duration::ZERO,
    };
    let model = &exchange.route.prod.model;
    ProdSide {
        leg: Trace::start(exchange.arrived).facts(model, Role::Prod, ending),
        answered: AnsweredFacts { model: Some(Arc::clone(model)), by: AnsweredBy::Prod, status: 499 },
        charge: None,
    }
}
