//! A small world that makes pairs from a fixed seed, with odds that the tests know.

use std::collections::BTreeMap;

use crate::record::{self, AnsweredBy, Body, Comparison, Leg, Pair, Request, Tally};
use crate::types::{Outcome, PairResult};

/// A world that makes pairs.
pub(super) struct World {
    pub(super) chance: fastrand::Rng,
    pub(super) producer: &'static str,
    pub(super) seq: u64,
}

/// How often things happen in it.
#[derive(Clone, Copy)]
pub(super) struct Odds {
    pub(super) role: &'static str,
    pub(super) candidate: &'static str,
    pub(super) disagrees: f64,
    pub(super) prod_fails: f64,
    pub(super) candidate_fails: f64,
    pub(super) slower_us: i64,
}

pub(super) const SHADOW: Odds = Odds {
    role: "shadow",
    candidate: "fraud-v2",
    disagrees: 0.03,
    prod_fails: 0.002,
    candidate_fails: 0.01,
    slower_us: 3_000,
};

pub(super) const CONTROL: Odds =
    Odds { role: "control", candidate: "fraud-v1", disagrees: 0.004, candidate_fails: 0.002, slower_us: 0, ..SHADOW };

impl World {
    pub(super) fn new() -> Self {
        Self { chance: fastrand::Rng::with_seed(42), producer: "edge-1-0192f7a1", seq: 0 }
    }

    /// One request of which both sides were asked.
    pub(super) fn pair(&mut self, odds: Odds) -> Pair {
        self.seq += 1;
        let seq = self.seq;
        let prod = self.leg("fraud-v1", "prod", odds.prod_fails, 0);
        let candidate = self.leg(odds.candidate, odds.role, odds.candidate_fails, odds.slower_us);
        let ok = (prod.outcome == "ok", candidate.outcome == "ok");
        let (result, comparison) = match ok {
            (true, true) => self.compare(odds),
            (true, false) => (PairResult::CandidateFailed, None),
            (false, true) => (PairResult::ProdFailed, None),
            (false, false) => (PairResult::BothFailed, None),
        };
        let country = *self.chance.choice(&[Some("de"), Some("de"), Some("fr"), Some("it"), None]).expect("some");
        Pair {
            schema: record::SCHEMA.into(),
            id: format!("0192f7a1-{:04x}-7000-8000-{seq:012x}", self.chance.u16(..)),
            producer: self.producer.into(),
            seq,
            labels: BTreeMap::from([("cluster".into(), "eu1".into())]),
            request_id: format!("req-{seq}"),
            traceparent: None,
            time: format!("2024-11-03T10:{:02}:{:02}.{:06}Z", seq / 60 % 60, seq % 60, seq * 7919 % 1_000_000),
            route: "fraud".into(),
            config: "4f1c09ab".into(),
            arm: "prod".into(),
            answered_by: AnsweredBy {
                model: Some("fraud-v1".into()),
                version: Some("2024-11-03".into()),
                role: "prod".into(),
                status: prod.status.unwrap_or(504),
            },
            bucket: None,
            keys: BTreeMap::new(),
            slices: BTreeMap::from([("country".into(), country.map(str::to_owned))]),
            sample_percent: 10.0,
            tally: Tally { seen: seq * 10, sampled: seq, skipped: seq / 100 },
            protocol: "http/1.1".into(),
            request: Request {
                method: "POST".into(),
                path: "/v2/models/fraud/infer".into(),
                query: None,
                headers: BTreeMap::from([("content-type".into(), "application/json".into())]),
                content_type: Some("application/json".into()),
                bytes: 64,
                body: body("{\"inputs\":[{\"name\":\"x\",\"data\":[1.5,2]}]}"),
            },
            prod,
            candidate,
            result: result.as_str().into(),
            comparison_error: comparison.is_none().then(|| "a leg failed".into()),
            comparison,
        }
    }

    fn leg(&mut self, model: &str, role: &str, fails: f64, slower_us: i64) -> Leg {
        let failed = self.chance.f64() < fails;
        let outcome = if failed { Outcome::Timeout } else { Outcome::Ok };
        // Skewed, as latencies are.
        let us = 8_000 + (-(1.0 - self.chance.f64()).ln() * 4_000.0) as i64 + slower_us;
        Leg {
            model: model.into(),
            version: Some(if model == "fraud-v1" { "2024-11-03" } else { "2024-12-01" }.into()),
            role: role.into(),
            endpoint: Some("http://10.0.0.11:8080".into()),
            reused: Some(true),
            outcome: outcome.as_str().into(),
            status: (!failed).then_some(200),
            grpc_status: None,
            start_us: Some(120),
            sent_us: Some(40),
            first_byte_us: (!failed).then_some(us),
            total_us: (!failed).then_some(us + 250),
            lag_us: 3,
            content_type: Some("application/json".into()),
            headers: BTreeMap::new(),
            bytes: 43,
            body: body("{\"outputs\":[{\"data\":[0.5]},{\"data\":[\"ok\"]}]}"),
        }
    }

    fn compare(&mut self, odds: Odds) -> (PairResult, Option<Comparison>) {
        let score = (self.chance.f64() * 1000.0).round() / 1000.0;
        let differs = self.chance.f64() < odds.disagrees;
        let near = self.chance.f64() < 0.05;
        let delta = if differs {
            0.25
        } else if near {
            0.0005
        } else {
            0.0
        };
        let (prod, candidate) = if differs { ("ok", "fraud") } else { ("ok", "ok") };
        let result = match (differs, near) {
            (true, _) => PairResult::Differs,
            (false, true) => PairResult::WithinTolerance,
            (false, false) => PairResult::Equal,
        };
        let number = record::Value {
            name: "score".into(),
            kind: "number".into(),
            result: result.as_str().into(),
            prod: Some(vec![Some(score)]),
            candidate: Some(vec![Some(score + delta)]),
            delta: Some(vec![Some(delta)]),
            prod_text: None,
            candidate_text: None,
        };
        let class = record::Value {
            name: "label".into(),
            kind: "class".into(),
            result: if differs { "differs" } else { "equal" }.into(),
            prod: None,
            candidate: None,
            delta: None,
            prod_text: Some(prod.into()),
            candidate_text: Some(candidate.into()),
        };
        let places = ["/outputs/0/data/0", "/outputs/1/data/0"].map(String::from);
        let comparison = Comparison {
            equal: result == PairResult::Equal,
            within_tolerance: !differs,
            values: vec![number, class],
            differs_at: if differs { places.to_vec() } else { Vec::new() },
            differs_at_truncated: false,
        };
        (result, Some(comparison))
    }

    pub(super) fn many(&mut self, n: usize, odds: Odds) -> Vec<Pair> {
        (0..n).map(|_| self.pair(odds)).collect()
    }
}

fn body(text: &str) -> Body {
    Body { encoding: "json".into(), data: Some(text.into()), truncated: false, reason: None }
}

pub(super) fn lines(pairs: &[Pair]) -> String {
    pairs.iter().map(|pair| serde_json::to_string(pair).expect("json") + "\n").collect()
}
