//! How a task shows its progress: numbered steps with elapsed time, and details below them.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Prints progress. Clones share the count of steps and the clock.
#[derive(Clone)]
pub struct Say {
    began: Instant,
    step: Arc<AtomicUsize>,
    to_stderr: bool,
    bold: bool,
}

impl Say {
    /// Progress on standard output.
    pub fn to_stdout() -> Self {
        Self::new(false, io::stdout().is_terminal())
    }

    /// Progress on standard error, where standard output is for a result.
    pub fn to_stderr() -> Self {
        Self::new(true, io::stderr().is_terminal())
    }

    fn new(to_stderr: bool, bold: bool) -> Self {
        Self { began: Instant::now(), step: Arc::default(), to_stderr, bold }
    }

    /// Time since the task began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Begins the next step: what is done, and why.
    pub fn step(&self, what: &str, why: &str) {
        let number = self.step.fetch_add(1, Ordering::Relaxed) + 1;
        let (on, off) = if self.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!(
            "\n{on}[{number:>2} | {:>5.1} s] {what}{off}",
            self.elapsed().as_secs_f64()
        ));
        if !why.is_empty() {
            self.detail(why);
        }
    }

    /// Something about the present step.
    pub fn detail(&self, text: &str) {
        for line in text.lines() {
            let line = if self.bold { line.to_owned() } else { without_colours(line) };
            self.line(format!("     {line}").trim_end());
        }
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        // A closed output is no reason to leave things behind: the task goes on and cleans up.
        let _ = if self.to_stderr {
            writeln!(io::stderr(), "{text}")
        } else {
            writeln!(io::stdout(), "{text}")
        };
    }
}

/// A line without its terminal's control sequences, for an output that is no terminal.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| matches!(letter, '@'..='~'));
        plain.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_out_and_nothing_else() {
        assert_eq!(without_colours("\x1b[0m\x1b[1mPlan:\x1b[0m 5 to [add]"), "Plan: 5 to [add]");
        assert_eq!(without_colours("plain"), "plain");
        assert_eq!(without_colours("cut \x1b[3"), "cut ");
    }
}
