//! The log of `gantry server`, on standard error.
//!
//! Much of what it tells was written elsewhere: client ids, kinds of messages, names, errors of other
//! programs. An entry is one line all the same, because the writer escapes whatever could begin another
//! one or steer a terminal; so no entry can be made to look like two. What libraries say has a rate: some
//! of them say something for each connection that fails, whoever made it.

use std::io::{self, IsTerminal as _, Write};
use std::time::Instant;

use gantry_control_plane::rate::{self, Rate};
use gantry_model::one_line;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

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
    let filter = filter.and(Paced::new());
    let registry = tracing_subscriber::registry();
    let log = tracing_subscriber::fmt::layer();
    if output.is_json() {
        // JSON escapes what it must; another escape would make it something else.
        registry.with(log.json().with_writer(io::stderr).with_filter(filter)).init();
    } else {
        let has_colors = io::stderr().is_terminal() && environment.has_colours();
        let to = move || OneLine { to: io::stderr(), has_colors };
        registry.with(log.with_writer(to).with_ansi(has_colors).with_filter(filter)).init();
    }
    Ok(())
}

/// Leaves out what libraries say too often.
struct Paced {
    /// By the place in the program that says it; all that use the `log` crate are one.
    lines: Rate<String>,
    began: Instant,
}

impl Paced {
    fn new() -> Self {
        Self { lines: rate::of_lines(), began: Instant::now() }
    }
}

impl<S> Filter<S> for Paced {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let meta = event.metadata();
        // Ours have rates where others cause them. Who asks for more than `info` wants to see all.
        if meta.target().starts_with("gantry") || *meta.level() > Level::INFO {
            return true;
        }
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.lines.take(meta.target().to_owned(), now).is_some()
    }
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
