//! Versions that models say of themselves in their answers: each is shown once, and only so many of a model, because
//! what stands in an answer is not ours to choose.

use std::collections::HashMap;
use std::sync::Arc;

use super::Metrics;

/// The most versions of one model that are shown.
const MAX_VERSIONS: usize = 16;

/// What has been seen so far. One thread's own.
#[derive(Debug)]
pub struct Versions {
    metrics: Arc<Metrics>,
    seen: HashMap<String, Vec<String>>,
}

impl Versions {
    /// Nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, seen: HashMap::new() }
    }

    /// An answer of this model said that it is this version.
    pub fn saw(&mut self, model: &str, version: &str) {
        if let Some(known) = self.seen.get(model)
            && (known.len() >= MAX_VERSIONS || known.iter().any(|known| known == version))
        {
            return;
        }
        self.metrics.model_info.with_label_values(&[model, version]).set(1);
        self.seen.entry(model.to_owned()).or_default().push(version.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_shown_once_and_only_so_many() {
        let metrics = Metrics::new(crate::logging::dropped_lines().expect("counter")).expect("families");
        let mut versions = Versions::new(Arc::clone(&metrics));
        for version in 0..100 {
            versions.saw("m", &format!("v{version}"));
            versions.saw("m", "v0");
        }
        let text = String::from_utf8(metrics.render().expect("text")).expect("utf-8");
        assert_eq!(text.matches("shadowpair_model_info{").count(), MAX_VERSIONS);
        assert!(text.contains(r#"shadowpair_model_info{model="m",version="v0"} 1"#));
    }
}
