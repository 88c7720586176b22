//! The log of `gantry server`, on standard error.
//!
//! Much of what it tells was written elsewhere: client ids, kinds of messages, names, errors of other
//! programs. An entry is one line all the same, because the writer escapes whatever could begin another
//! one or steer a terminal; so no entry can be made to look like two.

use std::io::{self, IsTerminal as _, Write};

use gantry_model::one_line;
use tracing_subscriber::EnvFilter;

use crate::config::Environment;
use crate::failure::Failure;
use crate::output::Output;

/// What is logged unless `GANTRY_LOG` says otherwise. The broker tells of every client at `info`.
const LOG: &str = "info,rmqtt=warn";

/// Logs from now on.
pub fn start(environment: &Environment, output: Output) -> Result<(), Failure> {
    let wanted = environment.text("GANTRY_LOG")?.unwrap_or(LOG);
    let filter = EnvFilter::try_new(wanted).map_err(|error| {
        Failure::usage(format!("GANTRY_LOG={wanted} is not a log filter"))
            .because(error)
            .next("give one such as info, or gantry_control_plane=debug,warn")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    if output.is_json() {
        // JSON escapes what it must; another escape would make it something else.
        log.json().with_writer(io::stderr).init();
    } else {
        let has_colors = io::stderr().is_terminal();
        let to = move || OneLine { to: io::stderr(), has_colors };
        log.with_writer(to).with_ansi(has_colors).init();
    }
    Ok(())
}

/// Makes one line of each entry. The subscriber writes each one whole, with its end of line.
struct OneLine<W> {
    to: W,
    /// The entry's own colors stay. What others have written has none: the subscriber escapes them.
    has_colors: bool,
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let line = one_line(&String::from_utf8_lossy(entry), self.has_colors);
        self.to.write_all(line.as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
