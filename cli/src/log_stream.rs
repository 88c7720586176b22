//! Server-sent events, as `GET /runs/RUN/log` sends them.
//!
//! Bytes come in any pieces; events come out whole. What is longer than any event of ours ends the
//! stream with an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::failure::{Explain as _, Failure};

/// The longest event. The server sends at most 256 KiB of log in one.
const MAX_EVENT: usize = 1 << 20;

/// Something that happened to a run.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// More of its log.
    Log {
        /// Where in the log the first byte stands.
        from: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// It came to a state.
    State(StateEvent),
    /// Nothing more comes until a person does something, or ever.
    End {
        /// The state in which it is.
        state: String,
    },
}

/// A run came to a state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StateEvent {
    /// Counts the run's states from 0.
    pub version: u64,
    /// The state.
    pub state: String,
    /// When, in seconds since 1970.
    pub at: i64,
    /// Why, in words.
    pub note: Option<String>,
}

#[derive(Deserialize)]
struct LogEvent {
    from: u64,
    data: String,
}

#[derive(Deserialize)]
struct EndEvent {
    state: String,
}

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub struct Parser {
    /// The bytes of a line that has no end yet.
    line: Vec<u8>,
    name: String,
    data: String,
}

impl Parser {
    /// Takes the next bytes and gives the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(Failure::new("the server sent an event that is too long")
                    .next("use a `gantry` of the server's version"));
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = std::str::from_utf8(&line).or_say(broken)?;
                events.extend(self.take_line(line.trim_end_matches(['\n', '\r']))?);
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Result<Option<Event>, Failure> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return event(&name, &data);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push_str(value),
            // A comment keeps the connection alive; ids we get from the data.
            _ => {}
        }
        Ok(None)
    }
}

fn event(name: &str, data: &str) -> Result<Option<Event>, Failure> {
    match name {
        "log" => {
            let event: LogEvent = serde_json::from_str(data).or_say(broken)?;
            let bytes = STANDARD.decode(event.data).or_say(broken)?;
            Ok(Some(Event::Log { from: event.from, bytes }))
        }
        "state" => Ok(Some(Event::State(serde_json::from_str(data).or_say(broken)?))),
        "end" => {
            let event: EndEvent = serde_json::from_str(data).or_say(broken)?;
            Ok(Some(Event::End { state: event.state }))
        }
        // Later servers may say more.
        _ => Ok(None),
    }
}

fn broken() -> String {
    "the server sent a broken event".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": hello\n\nevent: state\ndata: {\"version\":1,\"state\":\"PLANNING\",\"at\":5,\"note\":null}\n\n\
        event: log\nid: 3\ndata: {\"from\":0,\"data\":\"AGEK\"}\n\nevent: news\ndata: {}\n\n\
        event: end\r\ndata: {\"state\":\"UNCONFIRMED\"}\r\n\r\n";

    #[test]
    fn events_are_whole_at_any_split() {
        let state = StateEvent { version: 1, state: "PLANNING".into(), at: 5, note: None };
        let expected = [
            Event::State(state),
            Event::Log { from: 0, bytes: b"\0a\n".to_vec() },
            Event::End { state: "UNCONFIRMED".into() },
        ];
        for size in [1, 7, STREAM.len()] {
            let mut parser = Parser::default();
            let events: Vec<Event> =
                STREAM.chunks(size).flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(events, expected);
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let endless = vec![b'a'; 300_000];
        assert!((0..5).any(|_| parser.push(&endless).is_err()));
        let mut parser = Parser::default();
        assert!((0..5).any(|_| parser.push(&[b"data: ", &endless[..], b"\n"].concat()).is_err()));
    }
}
