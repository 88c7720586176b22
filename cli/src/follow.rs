//! Following a run: its log on standard output as it comes, its states on standard error.
//!
//! A lost connection is taken up again where it broke, so no byte of the log is missing or doubled.

mod order;

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use self::order::{Order, Piece};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::log_stream::{Event, Parser, StateEvent};
use crate::log_writer::LogWriter;
use crate::output::{self, Output};

/// How long the server may be away before following ends.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the server may say nothing: it sends at least a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Where following begins: what was seen before is not shown again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// How much of the log, in bytes.
    pub log: u64,
    /// How many of the run's states.
    pub states: u64,
}

struct Follower {
    output: Output,
    seen: Seen,
    log: LogWriter,
    order: Order,
}

enum Next {
    /// The run is in this state and says nothing more.
    Ended(String),
    /// The connection broke; something came before.
    Broken,
}

/// Follows a run from behind what was `seen` until it is UNCONFIRMED or over.
///
/// The answer is [`Code::Done`] for UNCONFIRMED and FINISHED.
pub async fn follow(
    client: &Client,
    run: &str,
    seen: Seen,
    output: Output,
) -> Result<Code, Failure> {
    let log = LogWriter::new(output, seen.log);
    let mut follower = Follower { output, seen, log, order: Order::default() };
    let mut give_up = Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        let broken = match follower.once(client, run).await {
            Ok(Next::Ended(state)) => {
                follower.end_line()?;
                if state == "UNCONFIRMED" {
                    output.note(&format!("-- {}", to_decide(run)));
                }
                return Ok(code(&state));
            }
            Ok(Next::Broken) => {
                give_up = Instant::now() + PATIENCE;
                is_told = false;
                None
            }
            Err(failure) if failure.code() == Code::Unreachable => Some(failure),
            Err(failure) => return Err(failure),
        };
        if let Some(failure) = broken {
            if Instant::now() >= give_up {
                return Err(failure);
            }
            if !is_told {
                follower.end_line()?;
                output.note(&format!("-- {failure}; trying again"));
                is_told = true;
            }
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
}

/// What a person does about an UNCONFIRMED run.
pub fn to_decide(run: &str) -> String {
    format!(
        "apply it with `gantry run confirm {run} --follow`, or drop it with `gantry run discard {run}`"
    )
}

/// How the program ends when a followed run stands in `state`.
pub fn code(state: &str) -> Code {
    match state {
        "FINISHED" | "UNCONFIRMED" => Code::Done,
        _ => Code::Failed,
    }
}

impl Follower {
    async fn once(&mut self, client: &Client, run: &str) -> Result<Next, Failure> {
        let mut response = client.follow(run, self.seen.log).await?;
        let mut parser = Parser::default();
        // Silence, an error and an end without the event are all the same: the connection broke.
        while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
            for event in parser.push(&chunk)? {
                match event {
                    Event::Log { from, bytes } => self.take_log(from, &bytes)?,
                    Event::State(event) => self.state(&event)?,
                    Event::End { state } => {
                        self.end(&state)?;
                        return Ok(Next::Ended(state));
                    }
                }
            }
        }
        Ok(Next::Broken)
    }

    fn take_log(&mut self, from: u64, bytes: &[u8]) -> Result<(), Failure> {
        if from > self.seen.log {
            return Err(Failure::new("the server left out a part of the log").next("try again"));
        }
        let known = usize::try_from(self.seen.log - from).unwrap_or(usize::MAX).min(bytes.len());
        let new = &bytes[known..];
        self.seen.log += new.len() as u64;
        if self.output.is_json() {
            return self.log.push(new);
        }
        let pieces = self.order.log(new);
        self.print(pieces)
    }

    /// Ends the line that the log ends in, and says what waited for that.
    fn end_line(&mut self) -> Result<(), Failure> {
        let pieces = self.order.end();
        self.print(pieces)
    }

    fn state(&mut self, event: &StateEvent) -> Result<(), Failure> {
        if event.version < self.seen.states {
            return Ok(());
        }
        self.seen.states = event.version + 1;
        let (state, note) = (&event.state, &event.note);
        let at = output::time(event.at);
        if self.output.is_json() {
            return self
                .output
                .line(&json!({ "event": "state", "state": state, "at": at, "note": note }));
        }
        let line = match note {
            Some(note) => format!("-- {at} {state}: {note}"),
            None => format!("-- {at} {state}"),
        };
        let pieces = self.order.note(line);
        self.print(pieces)
    }

    fn end(&mut self, state: &str) -> Result<(), Failure> {
        self.log.end()?;
        if self.output.is_json() {
            return self.output.line(&json!({ "event": "end", "state": state }));
        }
        Ok(())
    }

    fn print(&mut self, pieces: Vec<Piece<'_>>) -> Result<(), Failure> {
        for piece in pieces {
            match piece {
                Piece::Log(bytes) => self.log.push(bytes)?,
                Piece::Note(note) => self.output.note(&note),
            }
        }
        Ok(())
    }
}
