//! Floor 1: a timer for limits that are moved far more often than they run out. It is told to look again only when it
//! fires too early, or would fire too late; setting a timer anew for each request or pause would cost more than what it
//! guards.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer, set when it is first polled.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready from that moment on.
    pub fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_ready_at_the_last_moment_that_was_named() {
        let (mut alarm, start) = (Alarm::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let look = |alarm: &mut Alarm, at| alarm.poll(at, &mut Context::from_waker(std::task::Waker::noop()));
        assert!(look(&mut alarm, at(1)).is_pending() || start.elapsed() >= Duration::from_millis(1));
        // Later: it fires too early, and is set anew.
        poll_fn(|cx| alarm.poll(at(20), cx)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        // Earlier: it would fire too late.
        assert!(look(&mut alarm, at(3_600_000)).is_pending());
        poll_fn(|cx| alarm.poll(at(30), cx)).await;
        assert!((Duration::from_millis(30)..Duration::from_secs(600)).contains(&start.elapsed()));
        assert!(look(&mut alarm, at(30)).is_ready());
    }
}
