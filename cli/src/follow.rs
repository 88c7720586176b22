//! Following a run: its log on standard output as it comes, its states on standard error.
//!
//! The log goes through as it is, colours included: it was made for a terminal. A lost connection is
//! taken up again where it broke, so no byte is missing or doubled.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::log_stream::{Event, Parser, StateEvent};
use crate::output::{self, Output};

/// How long the server may be away before following ends.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the server may say nothing: it sends at least a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

struct Follower {
    output: Output,
    /// How much of the log is printed.
    offset: u64,
    /// How many states are printed.
    states: u64,
}

enum Next {
    /// The run is in this state and says nothing more.
    Ended(String),
    /// The connection broke; something came before.
    Broken,
}

/// Follows a run from byte `from` of its log until it is UNCONFIRMED or over.
///
/// The answer is [`Code::Done`] for UNCONFIRMED and FINISHED.
pub async fn follow(
    client: &Client,
    run: &str,
    from: u64,
    output: Output,
) -> Result<Code, Failure> {
    let mut follower = Follower { output, offset: from, states: 0 };
    let mut give_up = Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        let broken = match follower.once(client, run).await {
            Ok(Next::Ended(state)) => return Ok(code(&state)),
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
                output.note(&format!("-- {failure}; trying again"));
                is_told = true;
            }
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
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
        let mut response = client.follow(run, self.offset).await?;
        let mut parser = Parser::default();
        // Silence, an error and an end without the event are all the same: the connection broke.
        while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
            for event in parser.push(&chunk)? {
                match event {
                    Event::Log { from, bytes } => self.log(from, &bytes)?,
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

    fn log(&mut self, from: u64, bytes: &[u8]) -> Result<(), Failure> {
        if from > self.offset {
            return Err(Failure::new("the server left out a part of the log").next("try again"));
        }
        let known = usize::try_from(self.offset - from).unwrap_or(usize::MAX).min(bytes.len());
        let new = &bytes[known..];
        let at = self.offset;
        self.offset += new.len() as u64;
        if new.is_empty() {
            return Ok(());
        }
        if self.output.is_json() {
            let text = String::from_utf8_lossy(new);
            return self.output.line(&json!({ "event": "log", "from": at, "text": text }));
        }
        self.output.bytes(new)
    }

    fn state(&mut self, event: &StateEvent) -> Result<(), Failure> {
        if event.version < self.states {
            return Ok(());
        }
        self.states = event.version + 1;
        let (state, note) = (&event.state, &event.note);
        let at = output::time(event.at);
        if self.output.is_json() {
            return self
                .output
                .line(&json!({ "event": "state", "state": state, "at": at, "note": note }));
        }
        match note {
            Some(note) => self.output.note(&format!("-- {at} {state}: {note}")),
            None => self.output.note(&format!("-- {at} {state}")),
        }
        Ok(())
    }

    fn end(&self, state: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.line(&json!({ "event": "end", "state": state }));
        }
        Ok(())
    }
}
