//! Floor 7: the command line, as clap reads it. No behaviour.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A streaming shadow-deployment proxy: prod answers, candidates are asked beside it, and every request becomes one
/// comparable pair.
#[derive(Debug, Parser)]
#[command(
    name = "shadowpair",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  shadowpair demo                          see the whole idea in a few seconds
  shadowpair check shadowpair.yaml         find every fault of a routing file
  shadowpair serve -c shadowpair.yaml      run the proxy
  shadowpair compare ./pairs               compare what was recorded"
)]
pub struct Cli {
    /// What is logged: error, warn, info, debug, trace, or a filter as in RUST_LOG; `info,access=debug` adds a line for
    /// each failed request.
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<String>,
    /// How log lines are written.
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Logging", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy.
    #[command(after_help = "\
Examples:
  shadowpair serve                          reads ./shadowpair.yaml
  shadowpair serve -c /etc/shadowpair.yaml --log debug

Exit status:
  0  after a clean drain (SIGTERM or SIGINT)
  1  where the drain had to cut a request off, or the proxy could not run
  2  where the routing file has faults")]
    Serve(Serve),
    /// Read routing files and print every fault, or the effective routes.
    #[command(after_help = "\
Examples:
  shadowpair check shadowpair.yaml
  shadowpair check deploy/*.yaml

Exit status:
  0  where all files are good; warnings are on standard error
  2  where one is not")]
    Check(Check),
    /// Print the JSON Schema of the routing file, or of the pair record.
    #[command(after_help = "\
Examples:
  shadowpair schema routing > routing.schema.json
  shadowpair schema pair")]
    Schema(Schema),
    /// Show the whole idea on this machine: two real models, the proxy, traffic, the comparison.
    #[command(after_help = "\
Examples:
  shadowpair demo
  shadowpair demo --requests 10000 --dir /tmp/demo

It needs nothing else on the machine, and leaves its routing file and its pairs in DIR.")]
    Demo(Demo),
    /// Compare recorded pairs offline.
    #[command(after_help = "\
Examples:
  shadowpair compare ./pairs
  shadowpair compare pairs-*.jsonl.zst --route fraud --json result.json
  shadowpair compare kafka://127.0.0.1:9092/shadowpair.pairs --candidate fraud-v2
  shadowpair compare ./pairs --fail-on 'agreement.low < 0.98' --fail-on 'errors.difference.low > 0'
  shadowpair compare ./pairs --fail-on 'latency.total_us.median_difference > 2000'

A SOURCE is a folder, a file (.jsonl, .jsonl.zst) or kafka://HOST:PORT/TOPIC. Several are read as
one: a pair that is in more than one counts once, and a number that is in none is told as a gap of
its producer.

A METRIC of --fail-on is a number of a group as --json names it (its `value`, where it has one); OP
is one of <, <=, >, >=, ==, !=. Shares are from 0 to 1, times are in microseconds. What stands under
`values` and `slices` goes by its name (values.score.agreement, slices.country.DE.agreement); a name
with a dot or one of <>=! in it stands in double quotes. A control is not judged: it is the yardstick.

Exit status:
  0  where there were pairs, whatever they say, and no --fail-on is so of any candidate
  1  where one is so, or cannot be told
  2  where there were none, or a source or an option cannot be used")]
    Compare(Compare),
    /// Write pairs as Parquet for the data lake (not yet supported).
    Export(Export),
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The routing file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "shadowpair.yaml")]
    pub file: PathBuf,
}

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The routing files.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// `schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// Which of the two formats.
    #[arg(value_enum, default_value_t = SchemaOf::Routing)]
    pub of: SchemaOf,
}

/// What a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// The routing file.
    Routing,
    /// The pair record.
    Pair,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How many requests are sent.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub requests: u64,
    /// Where the routing file and the pairs are left.
    #[arg(long, value_name = "DIR", default_value = "./shadowpair-demo")]
    pub dir: PathBuf,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// Folders, files, or kafka://HOST:PORT/TOPIC.
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,
    /// Only this route.
    #[arg(long, value_name = "R")]
    pub route: Option<String>,
    /// Only this candidate.
    #[arg(long, value_name = "M")]
    pub candidate: Option<String>,
    /// Also write the numbers as JSON; `-` writes them to standard output, in the text's place.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write a report (not yet supported).
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Exit with 1 where this is so of any candidate, or cannot be told: METRIC OP NUMBER.
    #[arg(long, value_name = "EXPR")]
    pub fail_on: Vec<String>,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folders, files, or kafka://HOST:PORT/TOPIC.
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,
    /// Where the files go.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}
