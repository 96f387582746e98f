//! The rules of the house, held by a test: which file may know which other, and how long a file or a function
//! may grow. Each rule reads the source as text, with comments and literals blanked, so it needs no compiler
//! and names the line at fault. Where a rule and the code disagree and the code is right, change the rule here,
//! in the same commit, with the reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, functions, line_of, sources};

#[path = "architecture/source.rs"]
mod source;

/// Which floor a top-level module stands on. A file imports from lower floors, from its own folder, or, on its own
/// floor, from a neighbour to its left: so there is one order for all, and no circle.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["types"]),
    (1, &["record", "config", "alarm", "budget", "ledger", "lifecycle", "logging", "metrics", "wire"]),
    (2, &["live", "listener", "analysis"]),
    (3, &["upload", "upstream", "sink"]),
    (4, &["snapshot", "shadow"]),
    (5, &["proxy", "control", "compare"]),
    (6, &["admin"]),
    (7, &["cli", "app", "demo", "lib", "main"]),
];

/// Lines of a file before its tests.
const FILE_LINES: usize = 400;

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 60;

/// Three that must never know one another: the answer path lives without the other two, and they without it.
const STRANGERS: &[&str] = &["proxy", "control", "compare"];

/// A word that may stand in a few files only, and why.
struct Reserved {
    /// Any of these, as whole words.
    words: &'static [&'static str],
    /// Where they may stand; a name that ends with `/` is a folder.
    only_in: &'static [&'static str],
    /// Why nowhere else.
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["arc_swap", "ArcSwap"],
        only_in: &["live.rs"],
        why: "live state has one home, so that a request takes one snapshot and no more",
    },
    Reserved {
        words: &[
            "thread::spawn",
            "thread::scope",
            "thread::Builder",
            "tokio::spawn",
            "task::spawn",
            "task::spawn_local",
            "task::spawn_blocking",
            "JoinSet",
            "LocalSet",
        ],
        // The demo's model servers and clients stand for other processes: no drain is to wait for them.
        only_in: &["lifecycle.rs", "demo/"],
        why: "every thread and task starts through `lifecycle`, so that a drain knows it",
    },
    Reserved {
        words: &["Serialize", "Deserialize"],
        // `record/` writes the record. The comparison's JSON is a format that users read. What the demo's models and
        // servers read and write is none of ours: the Open Inference Protocol and the files of the script that fitted them.
        only_in: &["record.rs", "record/", "config/raw.rs", "compare/report.rs", "demo/"],
        why: "formats that are stored or typed by users are declared in one place each",
    },
    Reserved { words: &["unsafe"], only_in: &[], why: "nothing here needs it" },
];

/// The floor and the place on it.
fn place(module: &str) -> Option<(u8, usize)> {
    FLOORS.iter().find_map(|(floor, modules)| Some((*floor, modules.iter().position(|m| *m == module)?)))
}

/// Fails with one line a fault.
fn assert_none(faults: impl IntoIterator<Item = String>) {
    let faults: BTreeSet<String> = faults.into_iter().map(|fault| format!("\n  {fault}")).collect();
    assert!(faults.is_empty(), "{}\n", faults.into_iter().collect::<String>());
}

#[test]
fn every_module_stands_on_a_floor() {
    assert_none(
        sources().iter().filter(|s| place(s.module()).is_none()).map(|s| {
            format!("src/{}:1: no floor holds `{}`: give it one in tests/architecture.rs", s.path, s.module())
        }),
    );
}

#[test]
fn a_file_imports_only_from_below_or_from_its_own_folder() {
    assert_none(sources().iter().flat_map(floor_faults));
}

fn floor_faults(file: &Source) -> Vec<String> {
    let Some(own) = place(file.module()) else { return Vec::new() };
    let refused = |(line, path): (usize, Vec<String>)| {
        // What stands nowhere is no module, but something that `lib.rs` itself declares.
        let other = path.first()?;
        let there = place(other).filter(|there| *there >= own && other != file.module())?;
        Some(format!(
            "src/{}:{line}: `{}` of floor {} imports `{other}` of floor {}; see FLOORS in tests/architecture.rs",
            file.path,
            file.module(),
            own.0,
            there.0
        ))
    };
    file.imports().into_iter().filter_map(refused).collect()
}

#[test]
fn the_answer_path_the_control_plane_and_the_comparison_do_not_know_one_another() {
    let all = sources();
    assert_none(all.iter().filter(|s| STRANGERS.contains(&s.module())).flat_map(|file| {
        let strange =
            |path: &[String]| path.first().filter(|o| STRANGERS.contains(&o.as_str()) && *o != file.module()).cloned();
        let faults = file.imports().into_iter().filter_map(move |(line, path)| Some((line, strange(&path)?)));
        faults
            .map(|(line, other)| {
                format!("src/{}:{line}: {} imports {other}; they never meet", file.path, file.module())
            })
            .collect::<Vec<_>>()
    }));
}

#[test]
fn no_imports_run_in_a_circle() {
    let all = sources();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &all {
        let own = file.module_path();
        for (_, path) in file.imports() {
            // Between top-level modules.
            let across = path.first().filter(|to| place(to).is_some() && *to != file.module());
            if let Some(to) = across {
                edges.entry(file.module().to_string()).or_default().insert(to.clone());
            }
            // Between the files of one folder. A folder's `mod.rs` tells the story of its details and holds
            // their common words: it is one thing with them.
            let sibling = path.len() > 1 && own.len() > 1 && path[0] == own[0] && path[1] != own[1];
            if sibling && all.iter().any(|f| f.module_path().starts_with(&[&path[0], &path[1]])) {
                edges.entry(own[..2].join("/")).or_default().insert(path[..2].join("/"));
            }
        }
    }
    assert_none(circle(&edges).map(|names| format!("src: imports in a circle: {}", names.join(" -> "))));
}

/// A circle, if there is one: what nobody imports goes, then what only that imported, until nothing or circles
/// are left.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left = edges.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, to| to.iter().any(|name| names.contains(name)));
        if left.len() == before {
            break;
        }
    }
    let mut walk = vec![left.keys().next()?.clone()];
    loop {
        let next = left[walk.last()?].iter().find(|name| left.contains_key(*name))?;
        if let Some(start) = walk.iter().position(|name| name == next) {
            let closed = walk[start..].iter().chain([next]).cloned().collect();
            return Some(closed);
        }
        walk.push(next.clone());
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    assert_none(
        sources()
            .iter()
            .filter(|s| !s.text.starts_with("//!"))
            .map(|s| format!("src/{}:1: begins without `//!`: which floor, what it promises, why", s.path)),
    );
}

#[test]
fn no_file_is_longer_than_one_can_hold_in_mind() {
    assert_none(sources().iter().filter_map(|s| {
        let lines = s.code.trim_end().lines().count();
        let fault = format!("src/{}:{lines}: {lines} lines before its tests; at most {FILE_LINES}", s.path);
        (lines > FILE_LINES).then_some(fault)
    }));
}

#[test]
fn no_function_is_longer_than_a_screen() {
    assert_none(sources().iter().flat_map(|s| {
        let long = functions(&s.code).into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES);
        long.map(|(name, line, lines)| {
            format!("src/{}:{line}: `{name}` has {lines} lines; at most {FUNCTION_LINES}", s.path)
        })
        .collect::<Vec<_>>()
    }));
}

#[test]
fn some_words_have_one_home() {
    let all = sources();
    assert_none(RESERVED.iter().flat_map(|reserved| all.iter().flat_map(|file| reserved_faults(file, reserved))));
}

fn reserved_faults(file: &Source, reserved: &Reserved) -> Vec<String> {
    let here = |home: &&str| file.path == **home || (home.ends_with("/") && file.path.starts_with(*home));
    if reserved.only_in.iter().any(here) {
        return Vec::new();
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut faults = Vec::new();
    for word in reserved.words {
        for (at, _) in file.code.match_indices(word) {
            let whole = !file.code[..at].ends_with(is_word) && !file.code[at + word.len()..].starts_with(is_word);
            if whole {
                let line = line_of(&file.code, at);
                faults.push(format!("src/{}:{line}: `{word}`: {}", file.path, reserved.why));
            }
        }
    }
    faults
}

/// The rules are only as good as the reading of the source: it is tried on a few lines that must be faults.
mod reading {
    use super::source::source;
    use super::*;

    fn imports(path: &str, text: &str) -> Vec<String> {
        let file = source(path.into(), text.into());
        file.imports().into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect()
    }

    #[test]
    fn groups_supers_and_paths_in_expressions_are_imports() {
        let text = "//! x\nuse crate::{config::{raw, process::Limits}, types::Role};\nuse super::lane;\n\
                    fn f() { crate::live::read() }\nuse super::super::record::Pair;";
        let found = imports("shadow/admission.rs", text);
        let expected =
            ["2 config::raw", "2 config::process", "2 types::Role", "3 shadow::lane", "4 live::read", "5 record::Pair"];
        assert_eq!(found, expected);
    }

    #[test]
    fn comments_strings_and_tests_are_not_code() {
        let text = "// crate::a\n/* crate::b /* */ crate::b */\nlet s = \"crate::c \\\" crate::c\"; let r = r#\"crate::d\"#;\n\
                    let q = '\"'; crate::e();\nlet l: &'static str = x;\n#[cfg(test)]\nmod tests { use crate::f; }";
        assert_eq!(imports("a.rs", text), ["4 e"]);
    }

    #[test]
    fn an_import_from_above_or_from_the_right_is_named_with_its_line() {
        let faults = |path: &str, text: &str| floor_faults(&source(path.into(), text.into()));
        let above = faults("types.rs", "//! x\nuse crate::record::Pair;\n");
        assert!(above[0].starts_with("src/types.rs:2: `types` of floor 0 imports `record` of floor 1"), "{above:?}");
        assert_eq!(faults("budget.rs", "use crate::ledger::Ledger;").len(), 1);
        assert_eq!(faults("ledger.rs", "use crate::{budget::Budget, types::Role};"), [""; 0]);
    }

    #[test]
    fn functions_are_measured_from_name_to_closing_brace() {
        let code = "trait T { fn none(&self); }\nfn one() -> [u8; 2] { [1, 2] }\nfn two(f: fn(u8) -> u8)\nwhere\n{\n    f(1);\n}\n";
        assert_eq!(functions(code), [("one".into(), 2, 1), ("two".into(), 3, 5)]);
    }

    #[test]
    fn a_circle_is_found_and_what_hangs_on_it_is_left_out() {
        let edges = |list: &[(&str, &str)]| {
            let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in list {
                edges.entry((*from).into()).or_default().insert((*to).into());
            }
            circle(&edges)
        };
        assert_eq!(edges(&[("a", "b"), ("b", "c")]), None);
        assert_eq!(edges(&[("a", "b"), ("b", "c"), ("c", "b")]).unwrap(), ["b", "c", "b"]);
    }

    #[test]
    fn a_reserved_word_counts_only_as_a_whole_word() {
        let unsafe_word = RESERVED.iter().find(|r| r.words == ["unsafe"]).unwrap();
        let file = source("a.rs".into(), "#![forbid(unsafe_code)]\nunsafe { f() }\n".into());
        assert_eq!(reserved_faults(&file, unsafe_word).len(), 1);
    }
}
