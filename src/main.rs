//! Floor 7: start: parse the command line, run one subcommand, end with its exit status.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result};
use clap::Parser;
use shadowpair::cli::{Cli, Command, Compare, LogFormat, Schema, SchemaOf, Serve};
use shadowpair::config::{effective, load, schema};
use shadowpair::lifecycle::{self, Priority};
use shadowpair::logging::{self, Format};
use shadowpair::{app, compare, demo, sink};
use tokio::signal::unix::{SignalKind, signal};

/// Copies are allocated on workers and freed on lanes: its free from another thread takes no lock that a descheduled
/// lane could hold. Figures against glibc's and jemalloc are in `benches/README.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A file or a command line that cannot be used.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone too.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let format = match cli.log_format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let dropped = logging::dropped_lines()?;
    let quiet = !matches!(cli.command, Command::Serve(_));
    let level =
        cli.log.as_deref().or_else(|| quiet.then_some("error").filter(|_| std::env::var_os("RUST_LOG").is_none()));
    if let Err(fault) = logging::start(level, format, dropped.clone()) {
        return bad_input(&fault);
    }
    match cli.command {
        Command::Serve(options) => serve(&options, dropped),
        Command::Check(options) => check(&options.files),
        Command::Schema(Schema { of }) => {
            let schema = match of {
                SchemaOf::Routing => schema::routing(),
                SchemaOf::Pair => schema::pair(),
            };
            writeln!(io::stdout(), "{schema:#}")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(options) => {
            let options = demo::DemoOptions { requests: options.requests, dir: options.dir };
            demo::run(&options, &mut io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare(options) => run_compare(options),
        Command::Export(_) => bad_input(
            "`export` is not yet supported; `compare` reads the pairs as they are, and DuckDB makes Parquet of them: \
             copy (from 'pairs/*.jsonl') to 'pairs.parquet'",
        ),
    }
}

fn bad_input(text: &str) -> Result<ExitCode> {
    writeln!(io::stderr(), "error: {text}")?;
    Ok(ExitCode::from(BAD_INPUT))
}

fn serve(options: &Serve, log_dropped: prometheus::IntCounter) -> Result<ExitCode> {
    let loaded = match load::from_path(&options.file) {
        Ok(loaded) => loaded,
        Err(faults) => {
            write!(io::stderr(), "{}", faults.render(io::stderr().is_terminal()))?;
            return Ok(ExitCode::from(BAD_INPUT));
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.render(false));
    }
    let hash = loaded.config.hash.clone();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %options.file.display(), config = hash, "starting");
    let signals = watch_signals()?;
    signals.recv().context("signals cannot be received")?;
    let app = app::start_with(loaded.config, Some(options.file.clone()), log_dropped)?;
    for address in &app.traffic {
        tracing::info!(%address, config = hash, "listening");
    }
    tracing::info!(admin = %app.admin, "admin interface");
    signals.recv().context("signals cannot be received")?;
    tracing::info!("draining; a second signal ends at once");
    let report = app.drain();
    let (cut, pairs_dropped, pairs_spooled) = (report.cut, report.pairs_dropped, report.pairs_spooled);
    tracing::info!(cut, pairs_dropped, pairs_spooled, "drained");
    // The log's own thread gets a moment for the last lines.
    std::thread::sleep(std::time::Duration::from_millis(20));
    Ok(if report.cut == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says once that SIGTERM and SIGINT are caught, then that the first has come; the second ends the process at once. One
/// pair of listeners hears both, so that a second signal right behind the first is not lost.
fn watch_signals() -> Result<Receiver<()>> {
    let (say, said) = sync_channel(2);
    let listen = move || async move {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        for _ in 0..2 {
            // Whoever asked may be on its way out with an error.
            let _ = say.send(());
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        }
        std::process::exit(1)
    };
    lifecycle::thread("shadowpair-signals", Priority::Normal, move || {
        // An error ends the channel, and with it the wait of whoever asked.
        let _: io::Result<io::Result<()>> = lifecycle::event_loop(listen());
    })?;
    Ok(said)
}

fn check(files: &[std::path::PathBuf]) -> Result<ExitCode> {
    let colour = io::stderr().is_terminal();
    let mut bad = false;
    for (index, file) in files.iter().enumerate() {
        let loaded = load::from_path(file);
        if files.len() > 1 && loaded.is_ok() {
            // As head and tail do it; a fault names its file by itself.
            writeln!(io::stdout(), "{}==> {} <==", if index > 0 { "\n" } else { "" }, file.display())?;
        }
        match loaded {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    writeln!(io::stderr(), "{}", warning.render(colour))?;
                }
                writeln!(io::stdout(), "{}", effective::describe(&loaded.config).trim_end())?;
                if let Err(error) = sink::check(&loaded.config.process.sink) {
                    bad = true;
                    writeln!(io::stderr(), "error: {}: {error}", file.display())?;
                }
            }
            Err(faults) => {
                bad = true;
                write!(io::stderr(), "{}", faults.render(colour))?;
            }
        }
    }
    Ok(if bad { ExitCode::from(BAD_INPUT) } else { ExitCode::SUCCESS })
}

fn run_compare(options: Compare) -> Result<ExitCode> {
    if options.html.is_some() {
        return bad_input("`--html` is not yet supported; `--json FILE` writes the numbers");
    }
    let options = compare::Options {
        sources: options.sources,
        route: options.route,
        candidate: options.candidate,
        json: options.json,
        fail_on: options.fail_on,
    };
    match compare::run(&options, &mut io::stdout(), &mut |_| {}) {
        Ok(report) => Ok(gated(&report)),
        Err(error) if is_broken_pipe(&error) => Err(error),
        // Not 1: that is for a gate that fails.
        Err(error) => bad_input(&format!("{error:#}")),
    }
}

/// 1 where a gate fails, each named on standard error, which a pipeline's log shows whatever becomes of the report.
fn gated(report: &compare::Report) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for gate in report.failed_gates() {
        status = ExitCode::FAILURE;
        // The status says it, too, where nobody reads on.
        let _ = writeln!(io::stderr(), "gate failed: {gate}");
    }
    status
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
