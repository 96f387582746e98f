//! Finds a request's route. Pure. The first match in file order wins; an index by path keeps 10,000 routes as cheap as
//! one: only routes whose path can match are looked at.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap};

use http::{HeaderMap, Method};
use xxhash_rust::xxh3::Xxh3Builder;

use crate::config::routing::{Match, PathMatch};

/// The index.
#[derive(Debug, Default)]
pub struct Table {
    rules: Vec<Match>,
    exact: ByPath,
    prefix: ByPath,
    /// The lengths of the prefixes: no other part of a path is looked up.
    lengths: BTreeSet<usize>,
    any: Vec<usize>,
}

/// The paths are the file's own, so that nobody can choose them to collide: the quick hash will do.
type ByPath = HashMap<String, Vec<usize>, Xxh3Builder>;

/// What of a request decides.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host as it came.
    pub host: &'a str,
    /// The path as it came.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The fields.
    pub headers: &'a HeaderMap,
}

impl Table {
    /// An index of these, in file order.
    pub fn new<'a>(rules: impl Iterator<Item = &'a Match>) -> Self {
        let mut table = Self::default();
        for (index, rule) in rules.enumerate() {
            match &rule.path {
                PathMatch::Any => table.any.push(index),
                PathMatch::Exact(path) => table.exact.entry(path.clone()).or_default().push(index),
                PathMatch::Prefix(prefix) => {
                    table.lengths.insert(prefix.len());
                    table.prefix.entry(prefix.clone()).or_default().push(index);
                }
            }
            table.rules.push(rule.clone());
        }
        table
    }

    /// The index of the first route that matches.
    pub fn find(&self, asked: &Asked<'_>) -> Option<usize> {
        // Few files ask for hosts.
        let host = LazyCell::new(|| host_key(asked.host));
        let first = |indices: &Vec<usize>| indices.iter().copied().find(|i| self.rules[*i].holds(asked, || *host));
        let exact = self.exact.get(asked.path).and_then(first);
        let any = first(&self.any);
        let lengths = self.lengths.range(..=asked.path.len());
        let prefixes = lengths.filter_map(|length| whole_segments(asked.path, *length));
        let prefixes = prefixes.filter_map(|prefix| self.prefix.get(prefix).and_then(first)).min();
        exact.into_iter().chain(any).chain(prefixes).min()
    }
}

/// The prefix of this length, where it ends with a whole segment: those of `/a/b` are the empty one, `/a` and `/a/b`.
fn whole_segments(path: &str, length: usize) -> Option<&str> {
    // `/v2/` has also the prefix `/v2`: its last segment is empty.
    let whole = length == path.len() || path.as_bytes().get(length) == Some(&b'/');
    path.get(..length).filter(|_| whole)
}

/// A host without port and trailing dot; case does not count.
fn host_key(host: &str) -> &str {
    let without_port = match host.rfind(']') {
        Some(bracket) => &host[..=bracket],
        None => host.split(':').next().unwrap_or(host),
    };
    without_port.strip_suffix('.').unwrap_or(without_port)
}

impl Match {
    fn holds<'a>(&self, asked: &Asked<'a>, host: impl Fn() -> &'a str) -> bool {
        let host = self.host.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host()));
        host && (self.methods.is_empty() || self.methods.contains(asked.method))
            && self.headers.iter().all(|(name, wanted)| {
                asked.headers.get(name).is_some_and(|value| value.as_bytes() == wanted.as_bytes())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: PathMatch) -> Match {
        Match { path, ..Match::default() }
    }

    fn find(rules: &[Match], host: &str, path: &str) -> Option<usize> {
        let table = Table::new(rules.iter());
        table.find(&Asked { host, path, method: &Method::POST, headers: &HeaderMap::new() })
    }

    #[test]
    fn the_first_match_in_file_order_wins() {
        let rules =
            [rule(PathMatch::Prefix("/v2".into())), rule(PathMatch::Exact("/v2/x".into())), rule(PathMatch::Any)];
        assert_eq!(find(&rules, "h", "/v2/x"), Some(0));
        assert_eq!(find(&rules, "h", "/v2"), Some(0));
        assert_eq!(find(&rules, "h", "/v2/"), Some(0));
        assert_eq!(find(&rules, "h", "/v2x"), Some(2));
        assert_eq!(find(&rules[..2], "h", "/other"), None);
    }

    #[test]
    fn the_root_prefix_takes_everything() {
        let rules = [rule(PathMatch::Prefix(String::new()))];
        assert_eq!(find(&rules, "h", "/"), Some(0));
        assert_eq!(find(&rules, "h", "/a/b"), Some(0));
    }

    #[test]
    fn port_case_and_trailing_dot_of_a_host_do_not_count() {
        let rules = [Match { host: Some("models.example.com".into()), ..Match::default() }];
        for host in ["models.example.com:8080", "MODELS.Example.com", "models.example.com.", "models.example.com.:80"] {
            assert_eq!(find(&rules, host, "/"), Some(0), "{host}");
        }
        assert_eq!(find(&rules, "example.com", "/"), None);
        let six = [Match { host: Some("[::1]".into()), ..Match::default() }];
        assert_eq!(find(&six, "[::1]:8080", "/"), Some(0));
    }
}
