//! Series of what a reload has removed go; counts move to the series without a name, so that sums never fall.

use std::collections::HashSet;

use prometheus::IntCounterVec;
use prometheus::core::Collector;

use super::Metrics;
use crate::types::{AnsweredBy, Role};

/// A route, a model and a role.
type Leg<'a> = (&'a str, &'a str, &'a str);

impl Metrics {
    /// Routes that are gone.
    pub fn retire_routes(&self, gone: &HashSet<&str>) {
        let is_gone = |labels: &[String]| gone.contains(labels[0].as_str());
        move_counts(&self.requests, &["route", "answered_by", "code"], is_gone, &["route"]);
        for route in gone {
            for by in AnsweredBy::ALL {
                forget(self.request_duration.remove_label_values(&[route, by.as_str()]));
            }
            forget(self.overhead.remove_label_values(&[route]));
            for role in Role::ALL {
                forget(self.in_flight.remove_label_values(&[route, role.as_str()]));
            }
        }
    }

    /// Calls of routes that are gone.
    pub fn retire_legs(&self, gone: &HashSet<(&str, &str, &str)>) {
        move_counts(&self.legs, &["route", "model", "role", "outcome"], is_leg(gone), &["route", "model"]);
        for (route, model, role) in gone {
            forget(self.leg_duration.remove_label_values(&[route, model, role]));
            forget(self.leg_first_byte.remove_label_values(&[route, model, role]));
        }
    }

    /// Candidates of routes that are gone.
    pub fn retire_candidates(&self, gone: &HashSet<(&str, &str, &str)>) {
        move_counts(&self.skipped, &["route", "model", "role", "reason"], is_leg(gone), &["route", "model"]);
        for (route, model, role) in gone {
            forget(self.share.remove_label_values(&[route, model, role]));
        }
    }

    /// Versions of models that are gone, learned ones included.
    pub fn retire_models(&self, gone: &HashSet<&str>) {
        let families = self.model_info.collect();
        for metric in families.iter().flat_map(|family| family.get_metric()) {
            let value = |name: &str| metric.get_label().iter().find(|label| label.name() == name).map(|l| l.value());
            if let (Some(model), Some(version)) = (value("model"), value("version"))
                && gone.contains(model)
            {
                forget(self.model_info.remove_label_values(&[model, version]));
            }
        }
    }

    /// An endpoint that is gone.
    pub fn retire_endpoint(&self, model: &str, address: &str) {
        forget(self.endpoint_up.remove_label_values(&[model, address]));
        forget(self.endpoint_ejected.remove_label_values(&[model, address]));
        forget(self.upstream_connections.remove_label_values(&[model, address]));
    }
}

fn is_leg<'a>(gone: &'a HashSet<Leg<'a>>) -> impl Fn(&[String]) -> bool {
    move |labels| gone.contains(&(labels[0].as_str(), labels[1].as_str(), labels[2].as_str()))
}

/// A series that is not there is as good as removed.
fn forget<T>(_: prometheus::Result<T>) {}

/// Adds the counts of some children to those whose `emptied` labels are empty, and removes them.
fn move_counts(family: &IntCounterVec, labels: &[&str], gone: impl Fn(&[String]) -> bool, emptied: &[&str]) {
    let children: Vec<(Vec<String>, u64)> = family
        .collect()
        .iter()
        .flat_map(|family| family.get_metric())
        .map(|metric| {
            let value = |name: &&str| {
                let label = metric.get_label().iter().find(|label| label.name() == *name);
                label.map(|label| label.value().to_owned()).unwrap_or_default()
            };
            (labels.iter().map(value).collect(), metric.get_counter().get_value() as u64)
        })
        .collect();
    for (values, count) in children.into_iter().filter(|(values, _)| gone(values)) {
        let kept: Vec<&str> = labels
            .iter()
            .zip(&values)
            .map(|(label, value)| if emptied.contains(label) { "" } else { value.as_str() })
            .collect();
        if count > 0 {
            family.with_label_values(&kept).inc_by(count);
        }
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        forget(family.remove_label_values(&values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_route_that_is_gone_move_and_its_series_go() {
        let metrics = Metrics::new(crate::logging::dropped_lines().expect("counter")).expect("families");
        metrics.requests.with_label_values(&["old", "prod", "200"]).inc_by(3);
        metrics.requests.with_label_values(&["new", "prod", "200"]).inc();
        metrics.leg("old", "m", Role::Prod).total[0].inc_by(2);
        metrics.retire_routes(&HashSet::from(["old"]));
        metrics.retire_legs(&HashSet::from([("old", "m", "prod")]));
        let text = String::from_utf8(metrics.render().expect("text")).expect("utf-8");
        assert!(!text.contains("\"old\""), "{text}");
        assert!(text.contains(r#"shadowpair_requests_total{answered_by="prod",code="200",route=""} 3"#));
        assert!(text.contains(r#"shadowpair_requests_total{answered_by="prod",code="200",route="new"} 1"#));
        assert!(text.contains(r#"shadowpair_legs_total{model="",outcome="ok",role="prod",route=""} 2"#));
    }
}
