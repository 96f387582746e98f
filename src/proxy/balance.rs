//! Balance between workers. A connection stays on the worker that it was handed to, so a few busy long-lived clients can
//! sit on one core while another is idle. A worker that stays far above the mean asks one of them to connect anew
//! (GOAWAY over HTTP/2, `connection: close` over HTTP/1.1), and the acceptor hands it to another one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::listener::accept::Load;
use crate::listener::io::ConnState;

/// What a look is about.
const WINDOW: Duration = Duration::from_secs(2);
/// Looks in a row that a worker has to be above the mean.
const LOOKS: u32 = 2;
/// How far above.
const FAR: f64 = 1.5;
/// Below this share of a core nobody waits for anybody.
const BUSY: f64 = 0.3;

/// One worker's part of the balance.
#[derive(Debug)]
pub(super) struct Balance {
    own: Arc<Load>,
    all: Vec<Arc<Load>>,
    since: Instant,
    clock: Duration,
    above: u32,
}

impl Balance {
    /// For the worker with this load among all of them.
    pub(super) fn new(own: Arc<Load>, all: Vec<Arc<Load>>) -> Self {
        Self { own, all, since: Instant::now(), clock: thread_clock(), above: 0 }
    }

    /// Whether a window has ended.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.all.len() > 1 && now.saturating_duration_since(self.since) >= WINDOW
    }

    /// Looks, at the end of a window, whether one of these clients had better be elsewhere, and asks it. `clock` is the
    /// processor time that the thread has taken so far.
    pub(super) fn look(&mut self, now: Instant, clock: Duration, connections: impl Iterator<Item = Rc<ConnState>>) {
        let elapsed = now.saturating_duration_since(self.since);
        let busy = clock.saturating_sub(self.clock).as_secs_f64() / elapsed.as_secs_f64();
        (self.since, self.clock) = (now, clock);
        self.own.set_busy(busy);
        let requests: Vec<(Rc<ConnState>, u64)> =
            connections.map(|client| (Rc::clone(&client), client.take_requests())).collect();
        let mean = self.all.iter().map(|load| load.busy()).sum::<f64>() / self.all.len() as f64;
        self.above = if is_far(busy, mean) { self.above + 1 } else { 0 };
        self.own.set_hot(self.above > 0);
        if self.above < LOOKS {
            return;
        }
        let counts: Vec<u64> = requests.iter().map(|(_, count)| *count).collect();
        if let Some((client, _)) = choose(&counts, busy, mean).map(|at| &requests[at]) {
            tracing::info!(
                busy,
                mean,
                "a worker stays far above the mean: its busiest client is asked to connect anew"
            );
            client.ask_to_leave();
            self.above = 0;
        }
    }
}

fn is_far(busy: f64, mean: f64) -> bool {
    busy > BUSY && busy > mean * FAR
}

/// The busiest client whose going brings the worker nearer to the mean; one that is nearly all of its load would only
/// move the trouble.
fn choose(requests: &[u64], busy: f64, mean: f64) -> Option<usize> {
    let all = requests.iter().sum::<u64>() as f64;
    let fits = |count: u64| count > 0 && busy * count as f64 / all <= 2.0 * (busy - mean);
    let others = requests.iter().filter(|count| **count > 0).count() > 1;
    let candidates = requests.iter().enumerate().filter(|(_, count)| others && fits(**count));
    candidates.max_by_key(|(_, count)| **count).map(|(at, _)| at)
}

/// Processor time that this thread has taken so far.
pub(super) fn thread_clock() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_worker_far_above_the_mean_acts() {
        assert!(is_far(0.9, 0.5));
        assert!(!is_far(0.6, 0.5), "not far");
        assert!(!is_far(0.2, 0.1), "not busy");
    }

    #[test]
    fn the_busiest_client_whose_going_helps_is_chosen() {
        // 0.9 against a mean of 0.45: what goes may be all but a little.
        assert_eq!(choose(&[10, 50, 40], 0.9, 0.45), Some(1));
        // 0.9 against 0.55: a client of 0.81 would make the other worker the busy one.
        assert_eq!(choose(&[90, 10], 0.9, 0.55), Some(1));
        assert_eq!(choose(&[100], 0.9, 0.45), None, "it would be alone there too");
        assert_eq!(choose(&[100, 0], 0.9, 0.45), None);
        assert_eq!(choose(&[], 0.9, 0.45), None);
    }

    #[test]
    fn a_worker_that_stays_above_marks_itself_and_asks_its_busiest_client() {
        let (own, other) = (Arc::new(Load::default()), Arc::new(Load::default()));
        let mut balance = Balance::new(Arc::clone(&own), vec![Arc::clone(&own), other]);
        let clients = [ConnState::new(), ConnState::new()];
        for look in 0..LOOKS {
            for (requests, client) in [3, 2].into_iter().zip(&clients) {
                (0..requests).for_each(|_| drop(client.begin()));
            }
            assert!(!clients[0].leaves(), "not at look {look}");
            // A window in which the thread did nothing but work.
            let (now, clock) = (balance.since + WINDOW, balance.clock + WINDOW);
            assert!(balance.is_due(now) && !balance.is_due(now - Duration::from_millis(1)));
            balance.look(now, clock, clients.iter().map(Rc::clone));
            assert!(own.is_hot());
        }
        assert!(!clients[0].leaves(), "with its next answer, not before");
        let under_way = [clients[0].begin(), clients[1].begin()];
        assert!(clients[0].leaves() && !clients[1].leaves());
        clients[0].head_goes_out();
        assert!(!clients[0].leaves(), "too late for this answer");
        drop(under_way);
    }
}
