//! Floor 4: what a request sees, built from a routing file: routes with their models, endpoints, bounds and metric
//! children. A request takes one snapshot and uses nothing else of the live state. [`table`] finds its route,
//! [`retire`] takes down what a newer file has not named again.

pub mod candidate;
pub mod retire;
pub mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::routing::{CallBounds, EndpointUrl, Model, PathMatch, Protocol, Route, Version};
use crate::config::{Config, effective};
use crate::ledger::{Ledger, PairKey};
use crate::metrics::{LegMetrics, Metrics};
use crate::snapshot::candidate::Candidate;
use crate::snapshot::table::Table;
use crate::types::{AnsweredBy, ModelName, PairResult, Role};
use crate::upstream::Target;
use crate::upstream::endpoint::Endpoint;

/// One state of the routing.
#[derive(Debug)]
pub struct Snapshot {
    /// All routes.
    pub routes: Vec<Arc<RouteState>>,
    /// Finds one of them.
    pub table: Table,
    /// Every model once.
    pub targets: Vec<Arc<Target>>,
    /// The effective file, its secrets masked, for the API.
    pub masked: serde_json::Value,
    /// The file's hash.
    pub hash: Arc<str>,
}

/// One route and all that its requests need.
#[derive(Debug)]
pub struct RouteState {
    /// The rule.
    pub rule: Arc<Route>,
    /// Prod.
    pub prod: Leg,
    /// The canary's candidate.
    pub canary: Option<Leg>,
    /// Who is asked when prod fails.
    pub fallback: Option<Leg>,
    /// The shadows in file order, then the control, then the canary for its pairs.
    pub candidates: Vec<Candidate>,
    /// Requests that matched.
    pub seen: Arc<AtomicU64>,
    /// The file's hash.
    pub hash: Arc<str>,
}

/// A model that may answer the client.
#[derive(Debug)]
pub struct Leg {
    /// The model.
    pub target: Arc<Target>,
    /// Its calls' metric children.
    pub metrics: LegMetrics,
}

impl RouteState {
    /// The model that is asked in this role on the answer path.
    pub fn leg(&self, role: Role) -> Option<&Leg> {
        match role {
            Role::Prod => Some(&self.prod),
            Role::Canary => self.canary.as_ref(),
            Role::Fallback => self.fallback.as_ref(),
            Role::Shadow | Role::Control => None,
        }
    }

    /// The prefix by which it was matched.
    pub fn prefix(&self) -> Option<&str> {
        match &self.rule.matcher.path {
            PathMatch::Prefix(prefix) => Some(prefix),
            PathMatch::Any | PathMatch::Exact(_) => None,
        }
    }
}

impl Snapshot {
    /// Builds the state that a file describes, opens its counters at 0, and goes on with the run-time state of what an
    /// earlier file named alike.
    pub fn build(config: &Config, metrics: &Arc<Metrics>, ledger: &Ledger, earlier: Option<&Snapshot>) -> Arc<Self> {
        let build = Build { metrics, earlier, hash: config.hash.as_str().into() };
        let models = config.routing.models.iter();
        let targets: Targets = models.map(|model| (model.name.clone(), build.target(model))).collect();
        let rules = config.routing.routes.iter();
        let routes: Vec<Arc<RouteState>> = rules.filter_map(|rule| build.route(rule, &targets)).collect();
        ledger.open(routes.iter().flat_map(|route| pair_keys(route)));
        metrics.config_info.reset();
        metrics.config_info.with_label_values(&[config.hash.as_str()]).set(1);
        Arc::new(Self {
            table: Table::new(routes.iter().map(|route| &route.rule.matcher)),
            routes,
            targets: targets.into_values().collect(),
            masked: effective::masked(config),
            hash: build.hash,
        })
    }

    /// Every endpoint once, with its model.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<Model>, &Arc<Endpoint>)> {
        self.targets.iter().flat_map(|target| target.endpoints.iter().map(|endpoint| (&target.model, endpoint)))
    }
}

type Targets = HashMap<ModelName, Arc<Target>>;

/// A snapshot in the making.
struct Build<'a> {
    metrics: &'a Arc<Metrics>,
    earlier: Option<&'a Snapshot>,
    hash: Arc<str>,
}

impl Build<'_> {
    fn target(&self, model: &Arc<Model>) -> Arc<Target> {
        let version = version_label(model);
        self.metrics.model_info.with_label_values(&[model.name.as_str(), version]).set(1);
        let h2 = model.protocol == Protocol::H2;
        let endpoint = |url: &EndpointUrl| {
            let same = |(other, endpoint): &(&Arc<Model>, &Arc<Endpoint>)| {
                other.name == model.name && endpoint.url == *url && endpoint.h2 == h2
            };
            let earlier = self.earlier.and_then(|earlier| earlier.endpoints().find(same));
            let endpoint = earlier.map(|(_, endpoint)| Arc::clone(endpoint));
            let endpoint = endpoint.unwrap_or_else(|| Endpoint::new(url, model, self.metrics));
            endpoint.configure(model);
            endpoint
        };
        let endpoints: Vec<_> = model.endpoints.iter().map(endpoint).collect();
        Endpoint::introduce(&endpoints);
        Arc::new(Target { model: Arc::clone(model), endpoints })
    }

    fn route(&self, rule: &Arc<Route>, targets: &Targets) -> Option<Arc<RouteState>> {
        let name = rule.name.as_str();
        let earlier = self.earlier.and_then(|earlier| earlier.routes.iter().find(|route| route.rule.name == rule.name));
        let candidate = |role, target: &Arc<Target>, percent, bounds| {
            let same = |other: &&Candidate| other.role == role && *other.model() == target.model.name;
            let earlier = earlier.and_then(|earlier| earlier.candidates.iter().find(same));
            Candidate::new(name, role, target, percent, bounds, self.metrics).succeed(earlier)
        };
        let leg = |target: &Arc<Target>, role| {
            let metrics = self.metrics.leg(name, target.model.name.as_str(), role);
            Leg { target: Arc::clone(target), metrics }
        };
        // The routing file is valid, so every model that a route names is there.
        let prod = Arc::clone(targets.get(&rule.prod.name)?);
        let shadows = rule.shadow.iter().filter_map(|shadow| {
            let target = targets.get(&shadow.model.name)?;
            Some(candidate(Role::Shadow, target, shadow.percent, shadow.bounds))
        });
        let control = rule.control.iter().map(|rule| candidate(Role::Control, &prod, rule.percent, rule.bounds));
        let canary_rule = rule.canary.as_ref().and_then(|rule| Some((rule, targets.get(&rule.model.name)?)));
        let canary = canary_rule.map(|(rule, target)| {
            let bounds = CallBounds { timeout: None, max_in_flight: usize::MAX, max_rps: 0 };
            let pairs = candidate(Role::Canary, target, rule.pair_percent, bounds);
            let labels = [name, target.model.name.as_str(), Role::Canary.as_str()];
            self.metrics.share.with_label_values(&labels).set(rule.percent.ratio());
            pairs
        });
        let candidates = shadows.chain(control).chain(canary).collect();
        let always = [(AnsweredBy::Prod, "200"), (AnsweredBy::Proxy, "502"), (AnsweredBy::Proxy, "504")];
        let canary = rule.canary.iter().map(|_| (AnsweredBy::Canary, "200"));
        let fallback = rule.fallback.iter().map(|_| (AnsweredBy::Fallback, "200"));
        for (by, code) in always.into_iter().chain(canary).chain(fallback) {
            self.metrics.requests.with_label_values(&[name, by.as_str(), code]);
        }
        Some(Arc::new(RouteState {
            prod: leg(&prod, Role::Prod),
            canary: canary_rule.map(|(_, target)| leg(target, Role::Canary)),
            fallback: rule.fallback.as_ref().and_then(|model| targets.get(&model.name)).map(|t| leg(t, Role::Fallback)),
            rule: Arc::clone(rule),
            candidates,
            seen: earlier.map_or_else(Arc::default, |earlier| Arc::clone(&earlier.seen)),
            hash: Arc::clone(&self.hash),
        }))
    }
}

/// A model's version where the file says it.
pub(crate) fn version_label(model: &Model) -> &str {
    match &model.version {
        Version::Label(version) => version.as_str(),
        Version::Unknown | Version::Json(_) | Version::Header(_) => "",
    }
}

fn pair_keys(route: &RouteState) -> Vec<PairKey> {
    let key = |candidate: &Candidate, result: PairResult| candidate.pair_key(&route.rule.name, result);
    let results = |candidate| PairResult::ALL.iter().map(move |result| key(candidate, *result));
    route.candidates.iter().flat_map(results).collect()
}
