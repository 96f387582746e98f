//! Floor 7: what the demo leaves behind: a folder with its routing file and its pairs. It never writes over
//! what is there, because the reader is invited to change the file and go on from it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const FILE: &str = "shadowpair.yaml";
const PAIRS: &str = "pairs";

/// How many demos one folder takes.
const RUNS: u32 = 999;

/// One demo's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    /// The routing file.
    pub(super) file: PathBuf,
    /// Where pairs go.
    pub(super) pairs: PathBuf,
    /// Whether `dir` held a demo already, so that this one got a folder inside it.
    pub(super) again: bool,
}

impl Folder {
    /// Takes `dir`; where that already holds a demo, a new folder `run-N` inside it.
    pub(super) fn claim(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| cannot_make(dir))?;
        let taken = [FILE, PAIRS].iter().any(|name| dir.join(name).symlink_metadata().is_ok());
        let own = if taken { fresh(dir)? } else { dir.to_owned() };
        let pairs = own.join(PAIRS);
        fs::create_dir(&pairs).with_context(|| cannot_make(&pairs))?;
        Ok(Self { file: own.join(FILE), pairs, again: taken })
    }

    /// Writes the routing file for these two model servers.
    pub(super) fn write(&self, prod: SocketAddr, candidate: SocketAddr) -> Result<()> {
        let text = self.routing(prod, candidate)?;
        let cannot = || format!("cannot write {}", self.file.display());
        File::create_new(&self.file).and_then(|mut file| file.write_all(text.as_bytes())).with_context(cannot)
    }

    fn routing(&self, prod: SocketAddr, candidate: SocketAddr) -> Result<String> {
        let Some(pairs) = self.pairs.to_str() else {
            bail!("the folder's name must be UTF-8 to stand in a routing file: {}", self.pairs.display());
        };
        Ok(include_str!("data/shadowpair.yaml")
            .replace("PROD_ADDRESS", &prod.to_string())
            .replace("CANDIDATE_ADDRESS", &candidate.to_string())
            .replace("PAIRS_DIR", &scalar(pairs)))
    }
}

fn fresh(dir: &Path) -> Result<PathBuf> {
    for run in 2..=RUNS {
        let own = dir.join(format!("run-{run}"));
        match fs::create_dir(&own) {
            Ok(()) => return Ok(own),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| cannot_make(&own));
            }
        }
    }
    bail!("{} is full of demos: name another folder with --dir", dir.display())
}

fn cannot_make(dir: &Path) -> String {
    format!("cannot make the folder {} (`--dir` names another)", dir.display())
}

/// A text as a YAML scalar that the routing file takes literally: quoted where it must be (JSON's quotes are
/// YAML's too), and without what would be read as an environment variable.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "./-_".contains(c);
    if text.starts_with(['.', '/']) && text.chars().all(plain) {
        return text.to_owned();
    }
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([127, 0, 0, 1], 4001)), SocketAddr::from(([127, 0, 0, 1], 4002)))
    }

    #[test]
    fn a_new_folder_is_made_and_used() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = root.path().join("a/b");
        let folder = Folder::claim(&dir).expect("claimed");
        let own = Folder { file: dir.join("shadowpair.yaml"), pairs: dir.join("pairs"), again: false };
        assert_eq!(folder, own);
        assert!(folder.pairs.is_dir());
    }

    #[test]
    fn a_folder_that_holds_a_demo_keeps_it() {
        let root = tempfile::tempdir().expect("a folder");
        let (prod, candidate) = addresses();
        Folder::claim(root.path()).expect("first").write(prod, candidate).expect("written");
        fs::write(root.path().join(FILE), "changed by hand").expect("written");
        for run in ["run-2", "run-3"] {
            let folder = Folder::claim(root.path()).expect("next");
            folder.write(prod, candidate).expect("written");
            assert!(folder.again);
            assert_eq!(folder.file, root.path().join(run).join(FILE));
        }
        assert_eq!(fs::read_to_string(root.path().join(FILE)).expect("kept"), "changed by hand");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("a-file");
        fs::write(&file, "").expect("written");
        let error = Folder::claim(&file.join("demo")).expect_err("below a file");
        assert!(error.to_string().contains("a-file"), "{error}");
        assert!(Folder::claim(&file).is_err());
    }

    #[test]
    fn the_routing_file_names_the_servers_and_the_pairs() {
        let folder = Folder { file: "x/shadowpair.yaml".into(), pairs: "./x/pairs".into(), again: false };
        let (prod, candidate) = addresses();
        let text = folder.routing(prod, candidate).expect("UTF-8");
        for line in [r#"["http://127.0.0.1:4001"]"#, r#"["http://127.0.0.1:4002"]"#, "file: {dir: ./x/pairs}"] {
            assert!(text.contains(line), "{line} is missing");
        }
        for placeholder in ["PROD_ADDRESS", "CANDIDATE_ADDRESS", "PAIRS_DIR"] {
            assert!(!text.contains(placeholder));
        }
    }

    #[test]
    fn an_odd_path_is_taken_literally() {
        assert_eq!(scalar("./demo/pairs"), "./demo/pairs");
        assert_eq!(scalar("my demo/pairs"), r#""my demo/pairs""#);
        assert_eq!(scalar(r#"./a"b: {c}"#), r#""./a\"b: {c}""#);
        assert_eq!(scalar("./${HOME}"), r#""./$${HOME}""#);
        assert_eq!(scalar("0123"), r#""0123""#);
    }
}
