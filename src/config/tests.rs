//! The folder test: every file in `tests/fixtures/config/valid` is taken, every one in `invalid` is refused, and what
//! is said of each is just the `.txt` beside it. `UPDATE_FIXTURES=1 cargo test` writes these anew, to be read before
//! they are committed.

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::effective;
use super::load::{Loaded, from_path, from_str_in};
use super::routing::{CanaryRule, Health, OnError, Retry};
use crate::types::Percent;

/// The environment of the fixtures. No value may ever be shown.
const VARIABLES: &[(&str, &str)] = &[
    ("TOKEN", "s3cr3t-t0k3n"),
    ("HASH_KEY", "s3cr3t-k3y"),
    ("WORKERS", "s3cr3t-count"),
    ("PERCENT", "s3cr3t-05"),
    ("BAD_HOST", "s3cr3t h0st"),
];

fn variables(name: &str) -> Result<String, VarError> {
    let found = VARIABLES.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The file as `from_path` would take it, under its bare name and with the fixtures' environment.
fn load(path: &Path) -> Result<Loaded, String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    match std::fs::read_to_string(path) {
        Ok(text) => from_str_in(name, &text, &variables).map_err(|faults| faults.render(false)),
        Err(_) => Err(from_path(path).unwrap_err().render(false).replace(&path.display().to_string(), name)),
    }
}

/// Holds the text against the file beside the fixture.
fn expect(path: &Path, said: &str) -> Result<(), String> {
    let beside = path.with_extension("txt");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&beside, said).unwrap();
    }
    let expected = std::fs::read_to_string(&beside).unwrap_or_default();
    if said == expected {
        Ok(())
    } else {
        Err(format!("{}\n--- expected\n{expected}\n--- said\n{said}", path.display()))
    }
}

#[test]
fn valid_files_are_taken_and_described() {
    for path in fixtures("valid") {
        let Loaded { config, warnings } = load(&path).unwrap_or_else(|faults| panic!("{}\n{faults}", path.display()));
        let warnings: String = warnings.iter().map(|warning| warning.render(false) + "\n").collect();
        let said = format!("{warnings}{}", effective::describe(&config)).replace(&config.hash, "HASH");
        expect(&path, &said).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn invalid_files_are_refused_with_every_fault_and_its_remedy() {
    let faulty = fixtures("invalid");
    assert!(faulty.len() >= 30);
    for path in faulty {
        let faults = load(&path).err().unwrap_or_else(|| panic!("{} is taken", path.display()));
        expect(&path, &faults).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    for path in fixtures("valid").into_iter().chain(fixtures("invalid")) {
        let shown = match load(&path) {
            Ok(Loaded { config, .. }) => format!("{}{:?}", effective::masked(&config), effective::describe(&config)),
            Err(faults) => faults,
        };
        for secret in ["s3cr3t", "hunter", "from-a-file"] {
            assert!(!shown.contains(secret), "{} shows {secret}:\n{shown}", path.display());
        }
    }
}

#[test]
fn the_effective_file_is_a_file_with_the_same_meaning() {
    for path in fixtures("valid") {
        let config = load(&path).unwrap().config;
        // Masked secrets come back as their mask, references as themselves.
        let again = effective::masked(&config).to_string();
        let reread =
            from_str_in("again", &again, &variables).unwrap_or_else(|faults| panic!("{}\n{faults}", path.display()));
        assert_eq!(effective::masked(&reread.config).to_string(), again, "{}", path.display());
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let said = from_path(path).unwrap_err().render(false).replace(&path.display().to_string(), "FILE");
        said.lines().next().unwrap().to_owned()
    };
    assert_eq!(refused(&dir.path().join("none")), "error: no such file or directory");
    assert_eq!(refused(dir.path()), "error: a folder, not a file");
    let huge = dir.path().join("huge");
    std::fs::write(&huge, "#".repeat((4 << 20) + 1)).unwrap();
    assert_eq!(refused(&huge), "error: the file is larger than 4MiB");
}

#[test]
fn ten_thousand_routes_are_read() {
    let routes: String = (0..10_000)
        .map(|n| format!("  - {{name: r{n}, match: {{path: /v2/models/m{n}/infer}}, prod: p, shadow: [{{model: c, percent: 5}}]}}\n"))
        .collect();
    let models = "{p: {endpoints: [\"http://127.0.0.1:1\"]}, c: {endpoints: [\"http://127.0.0.1:2\"]}}";
    let loaded = from_str_in("many", &format!("version: 1\nmodels: {models}\nroutes:\n{routes}"), &variables).unwrap();
    assert_eq!(loaded.config.routing.routes.len(), 10_000);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn a_flood_of_faults_is_cut_short() {
    let junk: String = (0..5_000).map(|n| format!("k{n}: {n}\n")).collect();
    let faults = from_str_in("junk", &junk, &variables).unwrap_err();
    assert_eq!(faults.errors(), 1_001);
}

#[test]
fn the_hash_is_of_the_text_before_substitution() {
    let text = "version: 1\nserver: {drain: \"${DRAIN:-5s}\"}\nmodels: {p: {endpoints: [\"http://h:1\"]}}\nroutes: [{name: r, prod: p}]\n";
    let with = |drain: &'static str| {
        let variables = move |_: &str| Ok(drain.to_owned());
        from_str_in("x", text, &variables).unwrap().config
    };
    assert_eq!(with("1s").hash, with("2s").hash);
    assert_eq!(with("1s").hash.len(), 12);
    assert_ne!(with("1s").process.drain, with("2s").process.drain);
}

/// A canary's share and the candidate's readiness are asked for; all else about them is the contract's.
#[test]
fn what_is_not_written_about_canary_retry_and_health_is_the_default() {
    let text = "version: 1\nmodels: {p: {endpoints: [\"http://h:1\"], health: {path: /ready?x=1}}, c: {endpoints: [\"http://h:2\"]}}\n\
                routes: [{name: r, prod: p, canary: {model: c, percent: 0.25}, retry: {idempotent: true}}, {name: s, prod: p}]\n";
    let routing = from_str_in("x", text, &variables).unwrap().config.routing;
    let [first, second] = [&routing.routes[0], &routing.routes[1]];
    let expected = CanaryRule {
        model: Arc::clone(&routing.models[1]),
        percent: Percent::from_basis_points(25).unwrap(),
        sticky: None,
        timeout: None,
        pair_percent: Percent::ALL,
        on_error: OnError::Prod,
    };
    assert_eq!(first.canary, Some(expected));
    assert_eq!(first.retry, Retry { idempotent: true, ..Retry::default() });
    assert_eq!((&second.canary, &second.fallback, &second.retry), (&None, &None, &Retry::default()));
    let health = Health { path: "/ready?x=1".into(), interval: Duration::from_secs(5) };
    assert_eq!(routing.models[0].health, Some(health));
}

#[test]
fn causes_of_a_retry_are_just_those_that_are_written() {
    let retry = |on: &str| {
        let text = format!(
            "version: 1\nmodels: {{p: {{endpoints: [\"http://h:1\"]}}}}\nroutes: [{{name: r, prod: p, retry: {{on: {on}}}}}]\n"
        );
        from_str_in("x", &text, &variables).unwrap().config.routing.routes[0].retry.clone()
    };
    let none = Retry { connect: false, reset: false, timeout: false, statuses: vec![], ..Retry::default() };
    assert_eq!(retry("[]"), none);
    assert_eq!(retry("[timeout, \"500\", 429]"), Retry { timeout: true, statuses: vec![500, 429], ..none });
}

/// The list is shown in an order of its own, so a value must not come to stand where its reference does not.
#[test]
fn a_reference_among_the_causes_of_a_retry_hides_its_value_wherever_that_stands() {
    let text = "version: 1\nmodels: {p: {endpoints: [\"http://h:1\"]}}\n\
                routes: [{name: r, prod: p, retry: {on: [\"${STATUS}\", connect]}}]\n";
    let config = from_str_in("x", text, &|_| Ok("418".to_owned())).unwrap().config;
    assert_eq!(config.routing.routes[0].retry.statuses, [418]);
    assert_eq!(effective::masked(&config)["routes"][0]["retry"]["on"], "${STATUS}");
    assert!(effective::describe(&config).contains("${STATUS}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of a good file, it is taken or refused, and what is said can be shown.
    #[test]
    fn a_mangled_file_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..8)) {
        let mut text = include_str!("../../tests/fixtures/config/valid/everything.yaml").to_owned();
        for (at, (remove, insert)) in edits {
            let mut start = at.index(text.len() + 1);
            while !text.is_char_boundary(start) { start -= 1; }
            let mut end = (start + remove).min(text.len());
            while !text.is_char_boundary(end) { end += 1; }
            text.replace_range(start..end, &insert);
        }
        match from_str_in("mangled", &text, &variables) {
            Ok(loaded) => drop(effective::describe(&loaded.config)),
            Err(faults) => prop_assert!(faults.render(true).contains("error")),
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(text in any::<String>()) {
        let _ = from_str_in("any", &text, &variables);
    }
}

/// How many bytes go, and what comes in their place.
fn edit() -> impl Strategy<Value = (usize, String)> {
    let pieces = prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\t",
        ":",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "#",
        "&a ",
        "*a",
        "<<: ",
        "!x ",
        "${",
        "${TOKEN}",
        "$${",
        "|\n",
        "é",
        "🦀",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "\0",
        "---\n",
        "~",
        "-1",
        "99999999999999999999",
        "1e999",
        "@",
        "/",
        "~2",
        ",",
        "\r",
    ]);
    (0..40_usize, prop::collection::vec(pieces, 0..3).prop_map(|pieces| pieces.concat()))
}
