//! Floor 1: from a file to a [`Config`], or to every fault of the file. The one door: `serve`, `check`, the demo and
//! reloads all come in here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Config;
use super::environment::{self, Variables};
use super::fault::{Fault, Faults, Notes};
use super::raw::{self, Substituted};
use super::read;

/// The most bytes of a routing file: 10,000 routes fit easily, and reading stays quick.
const FILE_MAX: u64 = 4 << 20;

/// A file that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What it probably should not mean.
    pub warnings: Vec<Fault>,
}

/// Reads a routing file, its references to the process's environment included.
pub fn from_path(path: &Path) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    let bytes = read_bytes(path).map_err(|(message, help)| refused(&name, &message, help))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => from_str(&name, text),
        Err(error) => Err(not_text(&name, &bytes, error.valid_up_to())),
    }
}

/// Reads the text of a routing file; `name` is what faults call it.
pub fn from_str(name: &str, text: &str) -> Result<Loaded, Faults> {
    from_str_in(name, text, &|name| std::env::var(name))
}

/// The same with an environment of the caller's.
pub(super) fn from_str_in(name: &str, text: &str, variables: Variables<'_>) -> Result<Loaded, Faults> {
    if text.len() as u64 > FILE_MAX {
        return Err(refused(name, TOO_LARGE, TOO_LARGE_HELP));
    }
    let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut notes = Notes::default();
    let tree = raw::parse(plain, variables, &mut notes);
    let Some(tree) = tree.filter(|tree| !tree.is_null()) else {
        if notes.refused() {
            return Err(Faults::new(notes.into_faults(name, plain)));
        }
        return Err(refused(name, "the file is empty", START));
    };
    let (process, routing) = read::file(&tree, &mut notes);
    let refused = notes.refused();
    let faults = notes.into_faults(name, plain);
    if refused {
        return Err(Faults::new(faults));
    }
    let config = Config { process, routing, hash: hash(text), substituted: Substituted::of(&tree) };
    Ok(Loaded { config, warnings: faults })
}

const START: &str = "`shadowpair demo` writes a file to start from";
const TOO_LARGE: &str = "the file is larger than 4MiB";
const TOO_LARGE_HELP: &str = "a routing file of thousands of routes is smaller: is it the right file?";

fn refused(name: &str, message: &str, help: &str) -> Faults {
    Faults::new(vec![Fault::of_file(name, message, help)])
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    let cannot = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => START,
            _ => "it must be a file that this user may read",
        };
        (environment::reason(&error), help)
    };
    let file = File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.is_dir() {
        return Err(("a folder, not a file".to_owned(), "name the routing file in it"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err((TOO_LARGE.to_owned(), TOO_LARGE_HELP));
    }
    Ok(bytes)
}

fn not_text(name: &str, bytes: &[u8], at: usize) -> Faults {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refused(name, "the file is UTF-16", "save it as UTF-8");
    }
    // Every bad byte becomes one character, so that the place stays where the first of them is.
    let text = String::from_utf8_lossy(bytes);
    let mut notes = Notes::default();
    let place = super::fault::Place { start: at, end: at + '\u{fffd}'.len_utf8() };
    notes.fault(place, "the file is not UTF-8", "save it as UTF-8");
    Faults::new(notes.into_faults(name, &text))
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
