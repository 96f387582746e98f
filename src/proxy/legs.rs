//! The calls of the answer path, one after another until one answers: the canary where the client is on its arm, prod
//! where it is not or where the canary failed, prod once more where the route's `retry` allows it, and the fallback
//! where prod has failed before its first byte.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, Version};
use tower::retry::budget::Budget;

use super::Story;
use super::answering::Answering;
use super::error::Refusal;
use super::respond::{own, pass_on, refuse};
use super::stream::Stream;
use crate::analysis::json;
use crate::config::routing::OnError;
use crate::shadow::exchange::Verdict;
use crate::snapshot::Leg;
use crate::types::{Outcome, Role, SkipReason};
use crate::upload::{Upload, UploadError};
use crate::upstream::answer::Answer;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::capture::Capture;
use crate::upstream::endpoint::Share;
use crate::upstream::error::CallError;
use crate::upstream::trace::Trace;
use crate::upstream::{Call, Calling, Limits, headers};

/// One request's way through the models.
struct Legs<'a> {
    story: &'a Rc<Story>,
    answering: Box<Answering>,
    upload: &'a Upload,
}

/// Asks the models, and answers.
pub(super) async fn ask(
    story: &Rc<Story>,
    answering: Box<Answering>,
    upload: &Upload,
    canary: bool,
) -> Response<Stream> {
    let mut legs = Legs { story, answering, upload };
    if canary && let Some(answered) = legs.canary().await {
        return match answered {
            Ok(answer) => legs.pass_on(answer),
            Err(refusal) => legs.refuse(refusal),
        };
    }
    legs.decide(Verdict::Worker);
    match legs.prod().await {
        Ok(answer) => legs.pass_on(answer),
        Err(refusal) => match legs.fallback(&refusal).await {
            Some(answer) => legs.pass_on(answer),
            None => legs.refuse(refusal),
        },
    }
}

impl Legs<'_> {
    /// Asks the canary. None where prod is asked in its place.
    async fn canary(&mut self) -> Option<Result<Answer, Refusal>> {
        let rule = self.story.route.rule.canary.as_ref()?;
        let answered = self.call(Role::Canary, rule.timeout, None).await;
        if answered.as_ref().err() == Some(&Refusal::RewriteFailed(Role::Canary)) {
            // No failure of the canary, which would not have been asked what its client asked.
            self.answering.sides.iter().for_each(|sides| sides.pass_canary_by(SkipReason::RewriteFailed));
            return None;
        }
        let failed = match &answered {
            Ok(answer) => answer.head.status.is_server_error(),
            Err(refusal) => matches!(refusal, Refusal::Model(..)),
        };
        // A failure of the client's own upload is nobody else's to mend.
        let in_place = rule.on_error == OnError::Prod && self.upload.can_be_replayed();
        match answered {
            Ok(answer) if failed && in_place => self.answering.call_replaced(answer, false),
            Err(refusal) if failed && in_place => self.answering.call_failed(outcome(&refusal), false),
            answered => {
                self.decide(Verdict::Lane);
                return Some(answered);
            }
        }
        None
    }

    /// Asks prod, and once more where that is allowed.
    async fn prod(&mut self) -> Result<Answer, Refusal> {
        let first = self.call(Role::Prod, None, None).await;
        if !self.may_retry(&first) {
            return first;
        }
        let avoid = self.answering.endpoint();
        match first {
            Ok(answer) => self.answering.call_replaced(answer, true),
            Err(refusal) => self.answering.call_failed(outcome(&refusal), true),
        }
        self.call(Role::Prod, None, avoid).await
    }

    /// The contract's rule: only before the first byte of an answer, only what may be sent twice, only with a body that
    /// is still held from its first byte, and within a budget of the recent requests.
    fn may_retry(&self, first: &Result<Answer, Refusal>) -> bool {
        let (rule, budget) = (&self.story.route.rule.retry, &self.story.worker.retries);
        if rule.attempts == 0 {
            return false;
        }
        let asked_for = match first {
            Ok(answer) => rule.statuses.contains(&answer.head.status.as_u16()),
            Err(Refusal::Model(_, CallError::Connect | CallError::ConnectTimeout)) => rule.connect,
            // Over HTTP/2 a call can end so for what another said on its connection.
            Err(Refusal::Model(_, CallError::Reset | CallError::Protocol)) => rule.reset,
            Err(Refusal::Model(_, CallError::Timeout)) => rule.timeout,
            Err(_) => false,
        };
        budget.deposit();
        asked_for
            && (rule.idempotent || is_idempotent(&self.story.head.method))
            && self.upload.can_be_replayed()
            && budget.withdraw()
    }

    /// Asks the fallback, where there is one and prod itself has failed.
    async fn fallback(&mut self, refusal: &Refusal) -> Option<Answer> {
        self.story.route.fallback.as_ref()?;
        if !matches!(refusal, Refusal::Model(..)) || !self.upload.can_be_replayed() {
            return None;
        }
        self.answering.call_failed(outcome(refusal), false);
        match self.call(Role::Fallback, None, None).await {
            Ok(answer) => Some(answer),
            Err(failed) => {
                self.answering.call_failed(outcome(&failed), false);
                None
            }
        }
    }

    /// One call; its failure is told, and counted by whoever decides what comes next.
    async fn call(
        &mut self,
        role: Role,
        first_byte: Option<Duration>,
        avoid: Option<Arc<str>>,
    ) -> Result<Answer, Refusal> {
        let story = Rc::clone(self.story);
        let failed = Refusal::Model(role, CallError::Unhealthy);
        let Some(leg) = story.route.leg(role) else { return Err(failed) };
        let trace = Trace::start(story.arrived);
        self.answering.calls(role, &trace);
        let body = match self.body(leg, role, &trace).await {
            Ok(body) => body,
            Err(refusal) => {
                // Where the client failed, the call is told as cancelled.
                if !matches!(refusal, Refusal::Upload(_)) {
                    self.answering.call_taken_back();
                }
                return Err(refusal);
            }
        };
        let mut model = leg.target.model.timeout;
        model.first_byte = first_byte.unwrap_or(model.first_byte);
        let asked = Call {
            head: self.model_head(leg, role, &body),
            body,
            limits: Limits { model, leg: Duration::ZERO },
            last_resort: role != Role::Canary || story.passes_failures_on(),
            share: Share::Whole,
            waits: true,
            avoid,
            api: story.route.rule.api,
        };
        Calling::new(&story.worker.pool, &leg.target, asked).answer().await.map_err(|error| {
            match (self.upload.failure(), error) {
                (Some(error), _) | (None, CallError::Upload(error)) => Refusal::Upload(error),
                (None, error) => Refusal::Model(role, error),
            }
        })
    }

    fn model_head(&self, leg: &Leg, role: Role, body: &LegBody) -> headers::Head {
        let (checked, story) = (&self.story.checked, self.story);
        let inbound = headers::Inbound {
            method: &story.head.method,
            uri: &story.head.uri,
            headers: &story.head.headers,
            host: &checked.host,
            wants_trailers: checked.wants_trailers,
            peer: &story.peer,
            trusted: story.is_trusted(),
            id: &checked.id,
            framing: body.framing(),
            http2: story.head.version == Version::HTTP_2,
        };
        let model = &leg.target.model;
        headers::request(&inbound, model, role, story.route.prefix(), body.is_rewritten())
    }

    /// The body as it comes, or gathered and rewritten where the model wants that. A body that cannot be rewritten (it
    /// is not JSON, say) goes out as it came: prod saw such bodies before, too. The canary is
    /// not asked then, as no shadow would be.
    async fn body(&self, leg: &Leg, role: Role, trace: &Rc<Trace>) -> Result<LegBody, Refusal> {
        let (edits, framing) = (&leg.target.model.rewrite.json, self.story.checked.framing);
        if edits.is_empty() || framing == Framing::None {
            return Ok(LegBody::streamed(self.upload.cursor(), framing, Rc::clone(trace)));
        }
        self.upload.clone().keep_reading().await;
        if let Some(error) = self.upload.failure() {
            return Err(Refusal::Upload(error));
        }
        let Some((body, trailers)) = self.upload.whole() else { return Err(Refusal::RewriteTooLarge(role)) };
        match json::rewrite(&body, edits) {
            Ok(new) => Ok(LegBody::rewritten(new, trailers, framing, Rc::clone(trace))),
            Err(_) if role == Role::Canary => Err(Refusal::RewriteFailed(role)),
            Err(_) => Ok(LegBody::whole(body, trailers, framing, Rc::clone(trace))),
        }
    }

    fn decide(&self, verdict: Verdict) {
        if let Some(sides) = &self.answering.sides {
            sides.decide(verdict);
        }
    }

    fn pass_on(self, answer: Answer) -> Response<Stream> {
        let copies = self.answering.sides.is_some();
        let worker = &self.story.worker;
        let capture = copies.then(|| Capture::new(self.story.route.rule.copy_body, worker.budget.charge()));
        pass_on(self.answering, answer, capture, &self.story.checked.id)
    }

    fn refuse(mut self, refusal: Refusal) -> Response<Stream> {
        if refusal == Refusal::Upload(UploadError::Broken) {
            // Nobody is there to read the answer: the guard counts a client that left.
            return own(self.answering, &refusal);
        }
        self.answering.call_failed(outcome(&refusal), false);
        refuse(self.answering, &refusal)
    }
}

/// How a call that was refused is counted.
fn outcome(refusal: &Refusal) -> Outcome {
    match refusal {
        Refusal::Model(_, error) => error.outcome(),
        _ => Outcome::Cancelled,
    }
}

/// RFC 9110 §9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}
