//! Floor 4: what a request sees, built from a routing file: routes with their models, endpoints, bounds and metric
//! children. A request takes one snapshot and uses nothing else of the live state. [`table`] finds its route.

pub mod candidate;
pub mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::Config;
use crate::config::routing::{Model, Route, Version};
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
    /// Every endpoint once.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The file's hash.
    pub hash: Arc<str>,
}

/// One route and all that its requests need.
#[derive(Debug)]
pub struct RouteState {
    /// The rule.
    pub rule: Arc<Route>,
    /// Prod.
    pub prod: Arc<Target>,
    /// Prod's metric children.
    pub prod_leg: LegMetrics,
    /// The shadows in file order, then the control.
    pub candidates: Vec<Candidate>,
    /// Requests that matched.
    pub seen: AtomicU64,
    /// The file's hash.
    pub hash: Arc<str>,
}

impl Snapshot {
    /// Builds the state that a file describes, and opens its counters at 0.
    pub fn build(config: &Config, metrics: &Arc<Metrics>, ledger: &Ledger) -> Arc<Self> {
        let targets: HashMap<ModelName, Arc<Target>> =
            config.routing.models.iter().map(|model| (model.name.clone(), target(model, metrics))).collect();
        let hash: Arc<str> = config.hash.as_str().into();
        let routes: Vec<Arc<RouteState>> =
            config.routing.routes.iter().filter_map(|rule| route(rule, &targets, metrics, &hash)).collect();
        ledger.open(routes.iter().flat_map(|route| pair_keys(route)));
        metrics.config_info.reset();
        metrics.config_info.with_label_values(&[config.hash.as_str()]).set(1);
        let endpoints = targets.values().flat_map(|target| target.endpoints.iter().cloned()).collect();
        Arc::new(Self { table: Table::new(routes.iter().map(|route| &route.rule.matcher)), routes, endpoints, hash })
    }
}

fn target(model: &Arc<Model>, metrics: &Metrics) -> Arc<Target> {
    let version = match &model.version {
        Version::Label(version) => version.as_str(),
        Version::Unknown | Version::Json(_) | Version::Header(_) => "",
    };
    metrics.model_info.with_label_values(&[model.name.as_str(), version]).set(1);
    let endpoints: Vec<_> = model.endpoints.iter().map(|url| Endpoint::new(url, model, metrics)).collect();
    Endpoint::introduce(&endpoints);
    Arc::new(Target { model: Arc::clone(model), endpoints })
}

fn route(
    rule: &Arc<Route>,
    targets: &HashMap<ModelName, Arc<Target>>,
    metrics: &Arc<Metrics>,
    hash: &Arc<str>,
) -> Option<Arc<RouteState>> {
    let name = rule.name.as_str();
    // The routing file is valid, so every model that a route names is there.
    let prod = Arc::clone(targets.get(&rule.prod.name)?);
    let shadows = rule.shadow.iter().filter_map(|shadow| {
        let target = targets.get(&shadow.model.name)?;
        Some(Candidate::new(name, Role::Shadow, target, shadow.percent, shadow.bounds, metrics))
    });
    let control = rule
        .control
        .iter()
        .map(|control| Candidate::new(name, Role::Control, &prod, control.percent, control.bounds, metrics));
    let candidates = shadows.chain(control).collect();
    for (by, code) in [(AnsweredBy::Prod, "200"), (AnsweredBy::Proxy, "502"), (AnsweredBy::Proxy, "504")] {
        metrics.requests.with_label_values(&[name, by.as_str(), code]);
    }
    Some(Arc::new(RouteState {
        prod_leg: metrics.leg(name, prod.model.name.as_str(), Role::Prod),
        rule: Arc::clone(rule),
        prod,
        candidates,
        seen: AtomicU64::new(0),
        hash: Arc::clone(hash),
    }))
}

fn pair_keys(route: &RouteState) -> Vec<PairKey> {
    let key = |candidate: &Candidate, result: PairResult| candidate.pair_key(&route.rule.name, result);
    let results = |candidate| PairResult::ALL.iter().map(move |result| key(candidate, *result));
    route.candidates.iter().flat_map(results).collect()
}
