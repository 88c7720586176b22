//! Where a log goes: to programs as lines of JSON, to a terminal without what would steer it, and
//! into a pipe or a file as it is, byte for byte.

use crate::failure::Failure;
use crate::log_filter::LogFilter;
use crate::log_text::LogText;
use crate::output::Output;

/// Prints a log as it comes.
#[derive(Debug)]
pub struct LogWriter {
    output: Output,
    text: LogText,
    /// None where bytes go out as they are.
    filter: Option<LogFilter>,
}

impl LogWriter {
    /// Begins at byte `from` of the log.
    pub fn new(output: Output, from: u64) -> Self {
        let filter = output.is_terminal().then(|| LogFilter::new(output.has_colours()));
        Self { output, text: LogText::from(from), filter }
    }

    /// Prints the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.output.is_json() {
            let part = self.text.push(bytes);
            return self.output.log_part(part);
        }
        let Some(filter) = &mut self.filter else { return self.output.bytes(bytes) };
        match self.text.push(bytes) {
            Some((_, text)) => self.output.bytes(filter.push(&text).as_bytes()),
            None => Ok(()),
        }
    }

    /// Prints what was held back.
    pub fn end(&mut self) -> Result<(), Failure> {
        if self.output.is_json() {
            let part = self.text.end();
            return self.output.log_part(part);
        }
        let Some(filter) = &mut self.filter else { return Ok(()) };
        let rest = self.text.end().map_or(String::new(), |(_, text)| filter.push(&text));
        let end = rest + filter.end();
        if end.is_empty() { Ok(()) } else { self.output.bytes(end.as_bytes()) }
    }
}
