//! How a request crosses to its lane: when its body is complete, with everything that its copies and its pairs need.

use std::rc::Rc;
use std::sync::Arc;

use super::Story;
use crate::analysis::material::{Captured, RequestFacts};
use crate::shadow::Pick;
use crate::shadow::exchange::{Exchange, Sides};
use crate::upload::{Ended, OnEnd};
use crate::upstream::headers::Peer;

/// What happens when the body has ended.
pub(super) fn on_end(story: Rc<Story>, sides: Arc<Sides>, picks: Vec<Pick>, canary: bool) -> OnEnd {
    Box::new(move |ended| {
        let (worker, route) = (Rc::clone(&story.worker), Arc::clone(&story.route));
        worker.shadow.offer(&route, &picks, ended, |ended| exchange(&story, sides, canary, ended));
    })
}

fn exchange(story: &Story, sides: Arc<Sides>, canary: bool, ended: Ended) -> Exchange {
    let (body, charge) = match ended.copy {
        Ok(copied) => (Captured::Whole(copied.body), copied.charge),
        Err(_) => (Captured::NotCaptured, story.worker.budget.charge()),
    };
    let assigned = story.assigned.get();
    Exchange {
        trusted: story.is_trusted(),
        route: Arc::clone(&story.route),
        request: RequestFacts {
            id: story.checked.id.clone(),
            time: story.time,
            head: Arc::clone(&story.head),
            protocol: story.checked.protocol,
            bytes: ended.bytes,
            body,
        },
        arm: assigned.arm,
        bucket: assigned.bucket,
        arrived: story.arrived,
        host: story.checked.host.clone(),
        wants_trailers: story.checked.wants_trailers,
        peer: Peer::clone(&story.peer),
        framing: story.checked.framing,
        trailers: ended.trailers,
        prod_on_lane: canary,
        sides,
        charge,
    }
}
