//! Floor 5: pairs in files, `.jsonl` and `.jsonl.zst`, also those that are being written: what a live file holds
//! up to its last whole line or frame is read, and the rest is told apart from damage.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::found::{At, Found, RECORD_MAX, Take};

const BUFFER: usize = 256 << 10;

/// Reads the `pairs-*.jsonl` and `pairs-*.jsonl.zst` of a folder, in order of their names, which is that of time.
pub(super) fn read_folder(folder: &Path, take: &mut Take<'_>) -> anyhow::Result<()> {
    let paths = pair_files(folder).with_context(|| format!("{}: cannot be listed", folder.display()))?;
    if paths.is_empty() {
        bail!("{}", nothing_in(folder));
    }
    for path in paths {
        match File::open(&path) {
            // Deleted since it was listed: `keep` ran meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => read(&path, opened, take)?,
        }
    }
    Ok(())
}

/// Reads one file, whatever its name.
pub(super) fn read_file(path: &Path, take: &mut Take<'_>) -> anyhow::Result<()> {
    read(path, File::open(path), take)
}

fn pair_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("pairs-") && (name.ends_with(".jsonl") || name.ends_with(".jsonl.zst")) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// What to do about a folder without pairs.
fn nothing_in(folder: &Path) -> String {
    let shown = folder.display();
    let below = folder.join("pairs");
    if pair_files(&below).is_ok_and(|paths| !paths.is_empty()) {
        return format!("{shown}: no pairs-*.jsonl files here; did you mean {}?", below.display());
    }
    format!(
        "{shown}: no pairs-*.jsonl or pairs-*.jsonl.zst files here; name the folder in `pairs.file.dir` of the routing \
         file (a pair is written a moment after its answer), or run `shadowpair demo` to get some"
    )
}

fn read(path: &Path, opened: io::Result<File>, take: &mut Take<'_>) -> anyhow::Result<()> {
    let part = path.display().to_string();
    let file = opened.with_context(|| format!("{part}: cannot be read"))?;
    take(Found::Part)?;
    if path.extension().is_some_and(|extension| extension == "zst") {
        let frames = zstd::Decoder::new(file).with_context(|| format!("{part}: cannot be decompressed"))?;
        read_lines(&part, BufReader::with_capacity(BUFFER, frames), take)
    } else {
        read_lines(&part, BufReader::with_capacity(BUFFER, file), take)
    }
}

fn read_lines(part: &str, mut input: impl BufRead, take: &mut Take<'_>) -> anyhow::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let at = At { part, number };
        match input.by_ref().take(RECORD_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if line.last() == Some(&b'\n') => {
                let line = line.trim_ascii();
                if !line.is_empty() {
                    take(Found::Record(at, line))?;
                }
            }
            Ok(RECORD_MAX) => {
                take(Found::Broken(at, format!("longer than {} MiB", RECORD_MAX >> 20)))?;
                // What follows a failed read is met again by the next one.
                let _ = input.skip_until(b'\n');
            }
            Ok(_) => return take(Found::Tail(at, line.trim_ascii())),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return take(Found::OpenFrame),
            Err(error) => {
                return take(Found::Broken(at, format!("{error}; the rest of this file is not read")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Write;

    use super::*;

    /// What was found, in short.
    fn found(path: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let outcome = read_file(path, &mut |found| {
            all.push(match found {
                Found::Part => "part".into(),
                Found::Record(at, bytes) => format!("{} {}", at.number, String::from_utf8_lossy(bytes)),
                Found::Tail(at, bytes) => format!("{} tail {}", at.number, String::from_utf8_lossy(bytes)),
                Found::OpenFrame => "open frame".into(),
                Found::Broken(at, _) => format!("{} broken", at.number),
            });
            Ok(())
        });
        outcome.expect("read");
        all
    }

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(name);
        File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("written");
        (folder, path)
    }

    fn frame(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 3).expect("compressed")
    }

    #[test]
    fn a_torn_tail_is_told_from_lines() {
        let (_folder, path) = file("pairs-1.jsonl", b"one\r\n\ntwo\nthr");
        assert_eq!(found(&path), ["part", "1 one", "3 two", "4 tail thr"]);
    }

    #[test]
    fn frames_are_read_one_after_another_up_to_the_open_one() {
        let mut bytes = [frame("one\ntwo\n"), frame("three\n")].concat();
        let (_folder, path) = file("pairs-1.jsonl.zst", &bytes);
        assert_eq!(found(&path), ["part", "1 one", "2 two", "3 three"]);
        let open = frame(&"four\n".repeat(1000));
        bytes.extend(&open[..open.len() - 6]);
        let (_folder, path) = file("pairs-1.jsonl.zst", &bytes);
        let all = found(&path);
        assert_eq!(all[..4], ["part", "1 one", "2 two", "3 three"]);
        assert_eq!(all.last().expect("some"), "open frame");
    }

    #[test]
    fn a_file_that_is_not_zstd_is_broken_not_fatal() {
        let (_folder, path) = file("pairs-1.jsonl.zst", b"{\"schema\": 1}\n{}\n");
        assert_eq!(found(&path), ["part", "1 broken"]);
    }

    #[test]
    fn an_endless_line_is_not_kept_in_memory() {
        let mut bytes = vec![b'x'; RECORD_MAX + 10];
        bytes.extend(b"\ntwo\n");
        let (_folder, path) = file("pairs-1.jsonl", &bytes);
        assert_eq!(found(&path), ["part", "1 broken", "2 two"]);
    }

    #[test]
    fn a_folder_without_pairs_says_what_to_do() {
        let folder = tempfile::tempdir().expect("folder");
        let fault = |path: &Path| read_folder(path, &mut |_| Ok(())).expect_err("nothing there").to_string();
        assert!(fault(folder.path()).contains("shadowpair demo"));
        let below = folder.path().join("pairs");
        std::fs::create_dir(&below).expect("folder");
        std::fs::write(below.join("pairs-1.jsonl"), "").expect("file");
        assert!(fault(folder.path()).ends_with(&format!("did you mean {}?", below.display())));
    }
}
