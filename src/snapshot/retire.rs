//! What a newer file has not named again: its series go, and the counts of routes that are gone move to `route=""`, so
//! that sums never fall. It waits until no request and no pair of the older state is left, or they would count in vain.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{RouteState, Snapshot, version_label};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::types::{ModelName, Role, RouteName};

/// The names under which a state counts.
#[derive(Debug, Default)]
struct Names {
    routes: BTreeSet<RouteName>,
    legs: BTreeSet<(RouteName, ModelName, Role)>,
    candidates: BTreeSet<(RouteName, ModelName, Role)>,
    endpoints: BTreeSet<(ModelName, Arc<str>)>,
    models: BTreeSet<ModelName>,
    versions: BTreeSet<(ModelName, String)>,
}

impl Names {
    fn of(snapshot: &Snapshot) -> Self {
        let mut names = Self::default();
        for route in &snapshot.routes {
            let name = &route.rule.name;
            names.routes.insert(name.clone());
            for role in [Role::Prod, Role::Canary, Role::Fallback] {
                names.legs.extend(route.leg(role).map(|leg| (name.clone(), leg.target.model.name.clone(), role)));
            }
            for candidate in &route.candidates {
                let key = (name.clone(), candidate.model().clone(), candidate.role);
                names.legs.insert(key.clone());
                names.candidates.insert(key);
            }
        }
        for target in &snapshot.targets {
            let version = version_label(&target.model).to_owned();
            names.models.insert(target.model.name.clone());
            names.versions.insert((target.model.name.clone(), version));
            let labels = target.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.url.label));
            names.endpoints.extend(labels.map(|label| (target.model.name.clone(), label)));
        }
        names
    }
}

fn words((route, model, role): &(RouteName, ModelName, Role)) -> (&str, &str, &str) {
    (route.as_str(), model.as_str(), role.as_str())
}

/// An older state on its way out.
#[derive(Debug)]
pub struct Retired {
    names: Names,
    routes: Vec<Arc<RouteState>>,
}

impl Retired {
    /// A state that was just replaced.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self { names: Names::of(snapshot), routes: snapshot.routes.clone() }
    }

    /// Whether nothing of it is in use any more.
    pub fn is_over(&self) -> bool {
        self.routes.iter().all(|route| Arc::strong_count(route) == 1)
    }

    /// Takes down what the state in force does not name.
    pub fn take_down(self, now: &Snapshot, metrics: &Metrics, ledger: &Ledger) {
        let kept = Names::of(now);
        metrics.retire_legs(&self.names.legs.difference(&kept.legs).map(words).collect());
        metrics.retire_candidates(&self.names.candidates.difference(&kept.candidates).map(words).collect());
        for (route, model, role) in self.names.candidates.difference(&kept.candidates) {
            ledger.retire(route, model, *role);
        }
        metrics.retire_routes(&self.names.routes.difference(&kept.routes).map(RouteName::as_str).collect());
        for (model, address) in self.names.endpoints.difference(&kept.endpoints) {
            metrics.retire_endpoint(model.as_str(), address);
        }
        metrics.retire_models(&self.names.models.difference(&kept.models).map(ModelName::as_str).collect());
        for (model, version) in self.names.versions.difference(&kept.versions) {
            // A series that is not there is as good as removed.
            let _ = metrics.model_info.remove_label_values(&[model.as_str(), version.as_str()]);
        }
    }
}
