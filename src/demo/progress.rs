//! Floor 7: how far the traffic is: a bar on a terminal, elsewhere a line at each quarter, so that a log file
//! stays readable.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use super::words::thousands;

/// Shows how many of a known number are done.
pub(super) struct Progress {
    total: u64,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    /// How many quarters were told.
    Lines(u64),
}

impl Progress {
    /// One that suits standard error.
    pub(super) fn start(total: u64) -> Self {
        if io::stderr().is_terminal() { Self::bar(total) } else { Self::lines(total) }
    }

    fn bar(total: u64) -> Self {
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {human_pos} of {human_len}, {eta} to go") {
            bar.set_style(style);
        }
        Self { total, shown: Shown::Bar(bar) }
    }

    fn lines(total: u64) -> Self {
        Self { total, shown: Shown::Lines(0) }
    }

    /// This many are done.
    pub(super) fn at(&mut self, done: u64, out: &mut dyn Write) -> io::Result<()> {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(told) => {
                let quarter = done.saturating_mul(4).checked_div(self.total).unwrap_or(0);
                if quarter > *told {
                    *told = quarter;
                    writeln!(out, "  {} of {}", thousands(done), thousands(self.total))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_each_quarter_is_one_line() {
        let mut out = Vec::new();
        let mut progress = Progress::lines(2000);
        for done in (0..=2000).step_by(20) {
            progress.at(done, &mut out).expect("memory");
        }
        let lines = "  500 of 2,000\n  1,000 of 2,000\n  1,500 of 2,000\n  2,000 of 2,000\n";
        assert_eq!(String::from_utf8_lossy(&out), lines);
    }
}
