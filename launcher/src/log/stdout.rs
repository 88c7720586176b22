//! A run's log among the launcher's own: one event a line, masked, with `run_ulid` and `stack_id`.

use gantry_model::{RunId, StackId};

/// The target of its events, by which they are told from the launcher's own.
pub const RUN_LOG: &str = "gantry_launcher::run_log";
/// The longest line that is printed whole, in bytes.
const LONGEST: usize = 16 * 1024;

/// Prints the lines of one run.
#[derive(Debug)]
pub struct StdoutLog {
    run: RunId,
    stack: StackId,
    /// The begin of a line whose end has not come.
    rest: Vec<u8>,
}

impl StdoutLog {
    /// For one run of a stack.
    #[must_use]
    pub const fn new(run: RunId, stack: StackId) -> Self {
        Self { run, stack, rest: Vec::new() }
    }

    /// Prints the lines that end in `content`, and what is too long to wait for its end.
    pub fn print(&mut self, content: &[u8]) {
        for part in content.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") || self.rest.len() >= LONGEST {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.rest);
        for piece in line.chunks(LONGEST) {
            let text = String::from_utf8_lossy(piece);
            tracing::info!(target: RUN_LOG, run_ulid = %self.run, stack_id = %self.stack, "{}", text.trim_end());
        }
    }
}

impl Drop for StdoutLog {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            self.flush();
        }
    }
}
