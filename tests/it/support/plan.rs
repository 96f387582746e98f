//! A routing file in the making. It starts as the bench file of most tests (one route, prod `p`, candidate `c`, shadowed
//! wholly) and a test adds just the lines that it is about.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use super::{Bench, Process};

/// What the routing file will say.
#[derive(Clone)]
pub(crate) struct Plan {
    server: Vec<String>,
    listen: String,
    admin: String,
    drain: String,
    models: Vec<(String, Vec<String>, Vec<String>)>,
    matching: String,
    shadow: Option<String>,
    compare: Option<String>,
    route: Vec<String>,
    routes: Option<String>,
    sink: Option<String>,
}

impl Plan {
    /// Prod alone, behind the route `r`.
    pub(crate) fn prod(p: SocketAddr) -> Self {
        Self {
            server: Vec::new(),
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            drain: "3s".into(),
            models: vec![("p".into(), vec![url(p)], Vec::new())],
            matching: "{path_prefix: /}".into(),
            shadow: None,
            compare: Some("{values: [{name: y, at: /y, kind: number}]}".into()),
            route: Vec::new(),
            routes: None,
            sink: None,
        }
    }

    /// Prod, and a candidate that gets every request.
    pub(crate) fn pair(p: SocketAddr, c: SocketAddr) -> Self {
        Self::prod(p).model("c", &[c]).shadow("[{model: c, percent: 100, timeout: 1s}]")
    }

    /// One more model.
    pub(crate) fn model(mut self, name: &str, endpoints: &[SocketAddr]) -> Self {
        self.models.push((name.into(), endpoints.iter().map(|a| url(*a)).collect(), Vec::new()));
        self
    }

    /// One more model, all of whose keys are given.
    pub(crate) fn model_of(mut self, name: &str, keys: &str) -> Self {
        self.models.push((name.into(), Vec::new(), vec![keys.into()]));
        self
    }

    /// One more endpoint of a model.
    pub(crate) fn endpoint(mut self, model: &str, endpoint: SocketAddr) -> Self {
        self.of(model).1.push(url(endpoint));
        self
    }

    /// A key of a model, as in `timeout: {first_byte: 1s}`.
    pub(crate) fn with(mut self, model: &str, key: impl Display) -> Self {
        self.of(model).2.push(key.to_string());
        self
    }

    fn of(&mut self, model: &str) -> &mut (String, Vec<String>, Vec<String>) {
        self.models.iter_mut().find(|(name, ..)| name == model).expect("a model of the plan")
    }

    /// A key of `server`.
    pub(crate) fn server(mut self, key: impl Display) -> Self {
        self.server.push(key.to_string());
        self
    }

    /// Where clients connect.
    pub(crate) fn listen(mut self, address: impl Display) -> Self {
        self.listen = address.to_string();
        self
    }

    /// Where the admin interface listens.
    pub(crate) fn admin(mut self, address: impl Display) -> Self {
        self.admin = address.to_string();
        self
    }

    /// `server.drain`.
    pub(crate) fn drain(mut self, time: &str) -> Self {
        self.drain = time.into();
        self
    }

    /// The route's `match`.
    pub(crate) fn matching(mut self, rule: &str) -> Self {
        self.matching = rule.into();
        self
    }

    /// The route's `shadow`.
    pub(crate) fn shadow(mut self, rule: &str) -> Self {
        self.shadow = Some(rule.into());
        self
    }

    /// The route's `compare`.
    pub(crate) fn compare(mut self, rule: &str) -> Self {
        self.compare = Some(rule.into());
        self
    }

    /// No `compare`: everything decides.
    pub(crate) fn compare_all(mut self) -> Self {
        self.compare = None;
        self
    }

    /// A key of the route.
    pub(crate) fn route(mut self, key: impl Display) -> Self {
        self.route.push(key.to_string());
        self
    }

    /// The whole `routes` block in place of the route `r`.
    pub(crate) fn routes(mut self, block: &str) -> Self {
        self.routes = Some(block.into());
        self
    }

    /// The whole `pairs` block in place of the file sink.
    pub(crate) fn sink(mut self, block: &str) -> Self {
        self.sink = Some(block.into());
        self
    }

    /// The file's text.
    pub(crate) fn yaml(&self, pairs: &Path) -> String {
        let mut lines = vec!["version: 1".to_owned(), "server:".to_owned()];
        lines.push(format!("  listen: {}\n  admin: {}\n  drain: {}", self.listen, self.admin, self.drain));
        lines.extend(self.server.iter().map(|key| format!("  {key}")));
        lines.push("models:".into());
        for (name, endpoints, keys) in &self.models {
            let mut all = keys.clone();
            if !endpoints.is_empty() {
                all.push(format!("endpoints: [{}]", endpoints.join(", ")));
            }
            lines.push(format!("  {name}: {{{}}}", all.join(", ")));
        }
        lines.push("routes:".into());
        lines.push(self.routes.clone().unwrap_or_else(|| self.one_route()));
        let file = || format!("{{file: {{dir: \"{}\"}}}}", pairs.display());
        lines.push(format!("pairs: {}", self.sink.clone().unwrap_or_else(file)));
        lines.join("\n") + "\n"
    }

    fn one_route(&self) -> String {
        let mut keys = vec![format!("match: {}", self.matching), "prod: p".into()];
        keys.extend(self.shadow.iter().map(|rule| format!("shadow: {rule}")));
        keys.extend(self.compare.iter().map(|rule| format!("compare: {rule}")));
        keys.extend(self.route.iter().cloned());
        format!("  - name: r\n    {}", keys.join("\n    "))
    }

    /// Starts the proxy in this process.
    pub(crate) fn start(self) -> Bench {
        let dir = TempDir::new().expect("a folder");
        let yaml = self.yaml(&dir.path().join("pairs"));
        Bench::start(&yaml, dir)
    }

    /// Starts the proxy as a program of its own.
    pub(crate) fn spawn(self) -> Process {
        self.spawn_under("")
    }

    /// The same, after a shell has run these commands (`ulimit …;`).
    pub(crate) fn spawn_under(self, shell: &str) -> Process {
        let dir = TempDir::new().expect("a folder");
        let yaml = self.yaml(&dir.path().join("pairs"));
        Process::serve(shell, &yaml, dir)
    }
}

fn url(address: SocketAddr) -> String {
    format!("\"http://{address}\"")
}
