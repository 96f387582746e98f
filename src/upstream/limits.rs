//! What bounds a call in time: the model's limits, the leg's, and what each counts from.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::trace::Trace;
use crate::alarm::Alarm;
use crate::config::routing::Timeouts;

/// One call's limits; zero is none.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The model's own.
    pub model: Timeouts,
    /// For the whole leg.
    pub leg: Duration,
}

impl Limits {
    pub(super) fn until(&self, trace: &Trace) -> Option<Instant> {
        let whole = [self.model.total, self.leg].into_iter().filter(|limit| !limit.is_zero()).min()?;
        Some(Instant::from_std(trace.started() + whole))
    }

    /// When the call is too late, as things stand: uploads are bounded by pauses, then the answer's head is due. A pause
    /// of the client's is not the model's: `limits.idle_timeout` bounds it.
    fn due(&self, trace: &Trace) -> Option<Instant> {
        let (from, limit) = match trace.sent() {
            Some(sent) => (sent, self.model.first_byte),
            None if trace.is_starved() => (trace.progress(), Duration::ZERO),
            None => (trace.progress(), self.model.idle),
        };
        let step = (!limit.is_zero()).then(|| Instant::from_std(from + limit));
        step.into_iter().chain(self.until(trace)).min()
    }

    /// When to look again. Nothing wakes the call when its upload goes on or ends, and from then on another limit counts,
    /// which may be due before the present one: but no earlier than its own length from now.
    fn next_look(&self, trace: &Trace) -> Option<Instant> {
        let limits = [self.model.first_byte, self.model.idle].into_iter().filter(|limit| !limit.is_zero());
        let ahead = limits.min().filter(|_| trace.sent().is_none()).map(|limit| Instant::now() + limit);
        ahead.into_iter().chain(self.due(trace)).min()
    }
}

/// Waits for the head within the call's limits; none where they ran out.
pub(super) async fn in_time<T>(
    mut sending: Pin<&mut impl Future<Output = T>>,
    trace: &Trace,
    limits: &Limits,
    alarm: &mut Alarm,
) -> Option<T> {
    let mut look = limits.next_look(trace);
    let sent = poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(Some(sent));
        }
        while let Some(at) = look {
            ready!(alarm.poll(at, cx));
            if limits.due(trace).is_some_and(|due| due <= Instant::now()) {
                return Poll::Ready(None);
            }
            look = limits.next_look(trace);
        }
        Poll::Pending
    });
    match sent.await {
        Some(sent) => Some(sent),
        None => last_look(sending).await,
    }
}

/// A thread that ran late finds the timer expired although the answer lies in the socket: so the event loop looks once
/// more before the call is given up.
async fn last_look<T>(mut sending: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..2 {
        tokio::task::yield_now().await;
        let look = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
        if let Poll::Ready(sent) = look {
            return Some(sent);
        }
    }
    None
}
