//! The two ends of the comparison with peers: `stub`, a model server that is no bottleneck, and `load`, a client that
//! keeps a fixed rate (open loop) or as many requests under way as it has connections (closed loop). Both are one
//! thread on `epoll`: what they cost is not the proxy's, but they share the second core. And `bare`, the least that a
//! proxy on our stack can be.

mod bare;
mod load;
mod stub;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let command = if args.is_empty() { String::new() } else { args.remove(0) };
    let options = Options(args);
    let done = match command.as_str() {
        "bare" => bare::run(&options),
        "stub" => stub::run(&options),
        "load" => load::run(&options),
        _ => {
            println!("peers stub|load|bare; benches/peers/run measures everything");
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `--name value` pairs.
struct Options(Vec<String>);

impl Options {
    fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|arg| arg.strip_prefix("--") == Some(name))?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: f64) -> Result<f64, Box<dyn std::error::Error>> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{name} {text}: not a number").into()),
        }
    }
}

/// The size of a head that ends in these bytes, and the length of the body that it names.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let length = bytes[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    Some((end, length.unwrap_or(0)))
}

/// A JSON object of about so many bytes, as a model takes or gives it.
fn json(bytes: usize) -> String {
    let mut numbers = String::new();
    let mut at = 0_u32;
    while numbers.len() + 60 < bytes {
        at += 1;
        numbers.push_str(&format!("{}.{:04},", at % 90 + 10, at.wrapping_mul(7919) % 10_000));
    }
    numbers.push('0');
    format!(r#"{{"id":"fixed","model":"iris","y":0.75,"data":[{numbers}]}}"#)
}
