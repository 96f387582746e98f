//! Floor 1: one line an event worth reading, to standard error: text on a terminal, JSON elsewhere. Lines leave
//! through a bounded queue whose other end is a thread of its own, so that a standard error that nobody reads can
//! never hold up an answer; what does not fit is counted. [`Limited`] keeps one kind of event to a line a second.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::lifecycle::{self, Priority};

/// Lines that may wait for standard error.
const QUEUE: usize = 1024;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}

/// Writes lines into the bounded queue.
#[derive(Debug, Clone)]
pub struct Queue {
    lines: SyncSender<Vec<u8>>,
    dropped: IntCounter,
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(line.to_vec()).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

/// The counter of lines that were lost.
pub fn dropped_lines() -> prometheus::Result<IntCounter> {
    IntCounter::new("shadowpair_log_dropped_total", "Log lines lost because standard error was too slow.")
}

/// Starts logging for the life of the process. A level that cannot be read is an error; a second start is ignored.
pub fn start(level: Option<&str>, format: Format, dropped: IntCounter) -> Result<(), String> {
    // RUST_LOG may be meant for another program: a fault there is told, and does not keep the proxy from starting.
    let (filter, fault) = match (level, std::env::var("RUST_LOG")) {
        (Some(level), _) => (filter(level).map_err(|why| format!("--log {level}: {why}"))?, None),
        (None, Ok(level)) if !level.is_empty() => match filter(&level) {
            Ok(filter) => (filter, None),
            Err(why) => (EnvFilter::new("info"), Some(format!("RUST_LOG={level}: {why}; info is taken instead"))),
        },
        (None, _) => (EnvFilter::new("info"), None),
    };
    let (lines, queue) = sync_channel(QUEUE);
    lifecycle::thread("shadowpair-log", Priority::Background, move || write_lines(&queue))
        .map_err(|error| format!("no thread for the log: {error}"))?;
    let terminal = io::stderr().is_terminal();
    let writer = Queue { lines, dropped };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    // A program that embeds the library may have its own subscriber; then lines go there.
    let _ = started;
    if let Some(fault) = fault {
        tracing::warn!("{fault}");
    }
    Ok(())
}

/// A bare word that is no level would be taken for the name of a module, and everything else would fall silent.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_module = |word: &str| word.contains("::") || word.contains('[') || word == env!("CARGO_PKG_NAME");
    match text.split(',').map(str::trim).find(|word| !word.contains('=') && !is_level(word) && !is_module(word)) {
        Some(word) => Err(format!(
            "`{word}` is no level; write error, warn, info, debug, trace or off, or MODULE=LEVEL for one module"
        )),
        None => EnvFilter::try_new(text).map_err(|error| error.to_string()),
    }
}

fn write_lines(queue: &Receiver<Vec<u8>>) {
    while let Ok(line) = queue.recv() {
        // Nobody can be told that standard error is gone.
        let _ = io::stderr().write_all(&line);
    }
}

/// Lets one event of a kind through each second and counts the rest.
#[derive(Debug)]
pub struct Limited {
    started: Instant,
    /// Milliseconds after `started` at which the next event may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Default for Limited {
    fn default() -> Self {
        Self { started: Instant::now(), next: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }
}

impl Limited {
    /// Whether an event may be written now, and then how many were held back since the last.
    pub fn pass(&self) -> Option<u64> {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let mine =
            now >= next && self.next.compare_exchange(next, now + 1000, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !mine {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

/// [`Limited`] by kind of event, a thread for itself. Kinds are our own words, so there are few of them.
pub mod limited {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::Limited;

    thread_local! {
        static KINDS: RefCell<HashMap<String, Limited>> = RefCell::default();
    }

    /// Whether an event of this kind may be written now, and then how many were held back since the last.
    pub fn pass(kind: &str) -> Option<u64> {
        KINDS.with_borrow_mut(|kinds| match kinds.get(kind) {
            Some(known) => known.pass(),
            None => kinds.entry(kind.to_owned()).or_default().pass(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_told_instead_of_silence() {
        for good in ["info", "WARN", "off", "shadowpair", "shadowpair=debug,warn", "shadowpair::proxy,info"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for (bad, named) in [("debgu", "`debgu`"), ("info,debgu", "`debgu`"), ("shadowpair=debgu", "level")] {
            let fault = filter(bad).expect_err(bad);
            assert!(fault.contains(named), "{fault}");
        }
    }

    #[test]
    fn one_kind_of_event_does_not_hide_another() {
        assert_eq!((limited::pass("a"), limited::pass("a"), limited::pass("b")), (Some(0), None, Some(0)));
    }

    #[test]
    fn one_event_passes_and_the_rest_are_counted() {
        let limited = Limited::default();
        assert_eq!(limited.pass(), Some(0));
        assert_eq!((limited.pass(), limited.pass()), (None, None));
        assert_eq!(limited.held_back.load(Ordering::Relaxed), 2);
    }
}
