//! What a thread counts by itself: children found by index instead of by label, and histograms that add up in the
//! thread and reach the shared family when [`Local::flush`] is called (prometheus 0.14 adds a histogram's sum in a
//! compare-and-swap loop on one cache line, which all workers would fight over).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use prometheus::IntCounter;
use prometheus::local::LocalHistogram;

use super::{LazyHistogram, Metrics};
use crate::types::AnsweredBy;

/// A thread's own view of one histogram's child.
#[derive(Debug, Default)]
pub struct LocalChild(RefCell<Option<LocalHistogram>>);

impl LocalChild {
    /// Adds one observation, in seconds.
    pub fn observe(&self, shared: &LazyHistogram, seconds: f64) {
        self.0.borrow_mut().get_or_insert_with(|| shared.get().local()).observe(seconds);
    }

    /// Adds what was observed here to the shared child.
    pub fn flush(&self) {
        if let Some(histogram) = self.0.borrow().as_ref() {
            histogram.flush();
        }
    }
}

/// A worker's view of one route's request metrics.
#[derive(Debug)]
pub struct LocalRoute {
    metrics: Arc<Metrics>,
    route: String,
    requests: RefCell<Vec<(AnsweredBy, u16, IntCounter)>>,
    duration: [LocalChild; AnsweredBy::ALL.len()],
    shared_duration: Vec<LazyHistogram>,
    overhead: LocalChild,
    shared_overhead: LazyHistogram,
    /// The prod leg's.
    pub leg_duration: LocalChild,
    /// The prod leg's.
    pub leg_first_byte: LocalChild,
    /// Whether it stands in the list of those to flush.
    dirty: Cell<bool>,
    to_flush: ToFlush,
    this: Weak<LocalRoute>,
}

/// Routes of which something was observed since the last flush.
type ToFlush = Rc<RefCell<Vec<Weak<LocalRoute>>>>;

impl LocalRoute {
    fn new(metrics: &Arc<Metrics>, route: &str, to_flush: ToFlush, this: Weak<Self>) -> Self {
        let duration = |by: &AnsweredBy| LazyHistogram::new(&metrics.request_duration, &[route, by.as_str()]);
        Self {
            route: route.to_owned(),
            requests: RefCell::default(),
            duration: Default::default(),
            shared_duration: AnsweredBy::ALL.iter().map(duration).collect(),
            overhead: LocalChild::default(),
            shared_overhead: LazyHistogram::new(&metrics.overhead, &[route]),
            leg_duration: LocalChild::default(),
            leg_first_byte: LocalChild::default(),
            dirty: Cell::new(false),
            to_flush,
            this,
            metrics: Arc::clone(metrics),
        }
    }

    /// Counts one answer. A status outside 100–599 is a stranger's choice, so all of them are one value.
    pub fn answered(&self, by: AnsweredBy, status: u16, seconds: f64, overhead: Option<f64>) {
        if !self.dirty.replace(true) {
            self.to_flush.borrow_mut().push(self.this.clone());
        }
        let code = if (100..600).contains(&status) { status } else { 0 };
        self.count(by, code);
        self.duration[by as usize].observe(&self.shared_duration[by as usize], seconds);
        if let Some(overhead) = overhead {
            self.overhead.observe(&self.shared_overhead, overhead);
        }
    }

    fn count(&self, by: AnsweredBy, code: u16) {
        let mut known = self.requests.borrow_mut();
        if let Some((_, _, counter)) = known.iter().find(|(b, c, _)| *b == by && *c == code) {
            counter.inc();
            return;
        }
        let text = if code == 0 { "other".to_owned() } else { code.to_string() };
        let counter = self.metrics.requests.with_label_values(&[self.route.as_str(), by.as_str(), text.as_str()]);
        counter.inc();
        known.push((by, code, counter));
    }

    fn flush(&self) {
        self.dirty.set(false);
        let legs = [&self.overhead, &self.leg_duration, &self.leg_first_byte];
        self.duration.iter().chain(legs).for_each(LocalChild::flush);
    }
}

/// A worker's view of all routes, made as they are asked for.
#[derive(Debug)]
pub struct Local {
    metrics: Arc<Metrics>,
    routes: RefCell<HashMap<Arc<str>, Rc<LocalRoute>>>,
    unmatched: RefCell<Option<Rc<LocalRoute>>>,
    to_flush: ToFlush,
}

thread_local! {
    /// This thread's view, for [`flush_this_thread`].
    static THIS_THREAD: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// Adds what was observed on this thread to the shared families: called when its event loop goes to sleep, so that a
/// scrape after an answer counts it.
pub fn flush_this_thread() {
    THIS_THREAD.with_borrow(|local| {
        if let Some(local) = local {
            local.flush();
        }
    });
}

impl Local {
    /// An empty view, which becomes this thread's.
    pub fn new(metrics: Arc<Metrics>) -> Rc<Self> {
        let local = Rc::new(Self {
            metrics,
            routes: RefCell::default(),
            unmatched: RefCell::default(),
            to_flush: Rc::default(),
        });
        THIS_THREAD.set(Some(Rc::clone(&local)));
        local
    }

    /// The view of this route.
    pub fn route(&self, name: &str) -> Rc<LocalRoute> {
        if let Some(route) = self.routes.borrow().get(name) {
            return Rc::clone(route);
        }
        let route = self.child(name);
        self.routes.borrow_mut().insert(name.into(), Rc::clone(&route));
        route
    }

    /// The view of all requests that no route matched, which is what each of them is at first.
    pub fn unmatched(&self) -> Rc<LocalRoute> {
        Rc::clone(self.unmatched.borrow_mut().get_or_insert_with(|| self.child("")))
    }

    fn child(&self, name: &str) -> Rc<LocalRoute> {
        let to_flush = Rc::clone(&self.to_flush);
        Rc::new_cyclic(|this| LocalRoute::new(&self.metrics, name, to_flush, this.clone()))
    }

    /// Lets go of all routes; those still asked for are made anew.
    pub fn forget(&self) {
        self.flush();
        self.routes.borrow_mut().clear();
        self.unmatched.take();
    }

    /// Adds what was observed here to the shared families.
    pub fn flush(&self) {
        let routes = self.to_flush.take();
        routes.iter().filter_map(Weak::upgrade).for_each(|route| route.flush());
    }
}
