//! Frames and segment headers, as bytes.
//!
//! All numbers are little-endian. A segment begins with 16 bytes: `GANTRYSP`, version (2), zero (2),
//! its own number (4). A frame is 20 bytes of header and the payload: length of the payload (4),
//! kind (1), phase (1), zero (2), time (8), CRC-32 of the 16 bytes before it and the payload (4).

use gantry_model::Phase;
use serde::{Deserialize, Serialize};

use crate::{BootTime, Event};

/// The version of the format that this crate reads and writes.
pub const VERSION: u16 = 1;
/// No payload is larger: a reader needs a buffer of this and no more.
pub const MAX_PAYLOAD: usize = 1024 * 1024;
/// The most output that a writer puts into one frame.
pub const MAX_OUTPUT: usize = 256 * 1024;
/// No event's JSON is larger.
pub const MAX_EVENT: usize = 64 * 1024;
/// A writer begins a new segment when the present one has reached this size.
pub const SEGMENT_SIZE: u64 = 16 * 1024 * 1024;

pub(crate) const MAGIC: [u8; 8] = *b"GANTRYSP";
pub(crate) const SEGMENT_HEADER: usize = 16;
pub(crate) const FRAME_HEADER: usize = 20;

/// A place between two frames.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// The segment's number.
    pub segment: u32,
    /// Bytes from the segment's beginning; zero is before its header.
    pub offset: u64,
}

impl Position {
    /// Before the first frame.
    pub const START: Self = Self { segment: 0, offset: 0 };
}

/// One piece of output or one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame begins. Reading from here gives the frame again.
    pub position: Position,
    /// Where the next frame begins. Reading from here goes on after the frame.
    pub next: Position,
    /// The phase that ran, or that the event is about.
    pub phase: Option<Phase>,
    /// When it was written.
    pub time: BootTime,
    /// What it holds.
    pub body: Body,
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Standard output and standard error of a phase, as they came.
    Output(Vec<u8>),
    /// Anything else.
    Event(Event),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Output,
    Event,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) kind: Kind,
    pub(crate) phase: Option<Phase>,
    pub(crate) time: BootTime,
    crc: u32,
}

impl Header {
    pub(crate) fn encode(
        kind: Kind,
        phase: Option<Phase>,
        time: BootTime,
        payload: &[u8],
    ) -> [u8; FRAME_HEADER] {
        let length =
            u32::try_from(payload.len()).expect("callers keep payloads within MAX_PAYLOAD");
        let mut bytes = [0; FRAME_HEADER];
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = match kind {
            Kind::Output => 1,
            Kind::Event => 2,
        };
        bytes[5] = phase_number(phase);
        bytes[8..16].copy_from_slice(&time.0.to_le_bytes());
        let crc = checksum(&bytes, payload);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Checks everything but the checksum, which needs the payload.
    pub(crate) fn decode(bytes: &[u8; FRAME_HEADER]) -> Result<Self, &'static str> {
        let length = usize::try_from(u32_at(bytes, 0)).map_err(|_| "a frame's length is absurd")?;
        let kind = match bytes[4] {
            1 => Kind::Output,
            2 => Kind::Event,
            _ => return Err("a frame is of no known kind"),
        };
        let bound = match kind {
            Kind::Output => MAX_PAYLOAD,
            Kind::Event => MAX_EVENT,
        };
        if length > bound {
            return Err("a frame is longer than the format allows");
        }
        let phase = phase_from(bytes[5]).ok_or("a frame is of no known phase")?;
        if bytes[6..8] != [0, 0] {
            return Err("a frame's reserved bytes are not zero");
        }
        let mut time = [0; 8];
        time.copy_from_slice(&bytes[8..16]);
        let time = BootTime(u64::from_le_bytes(time));
        Ok(Self { length, kind, phase, time, crc: u32_at(bytes, 16) })
    }

    /// Checks the payload and gives what it holds.
    pub(crate) fn body(
        &self,
        bytes: &[u8; FRAME_HEADER],
        payload: &[u8],
    ) -> Result<Body, &'static str> {
        if checksum(bytes, payload) != self.crc {
            return Err("a frame's checksum does not match");
        }
        match self.kind {
            Kind::Output => Ok(Body::Output(payload.to_vec())),
            Kind::Event => match serde_json::from_slice::<Event>(payload) {
                Ok(event) if event.is_bounded() => Ok(Body::Event(event)),
                Ok(_) => Err("an event says more than the format allows"),
                Err(_) => Err("an event is not the JSON that the format asks for"),
            },
        }
    }
}

pub(crate) fn segment_header(number: u32) -> [u8; SEGMENT_HEADER] {
    let mut bytes = [0; SEGMENT_HEADER];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn checksum(header: &[u8; FRAME_HEADER], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..16]);
    crc.update(payload);
    crc.finalize()
}

fn u32_at(bytes: &[u8; FRAME_HEADER], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

const fn phase_number(phase: Option<Phase>) -> u8 {
    match phase {
        None => 0,
        Some(Phase::Initialize) => 1,
        Some(Phase::Plan) => 2,
        Some(Phase::Apply) => 3,
        Some(Phase::Perform) => 4,
        Some(Phase::Destroy) => 5,
    }
}

/// `None` is a number of no phase; `Some(None)` is the number that says "no phase".
#[expect(clippy::option_option, reason = "unknown number and no phase are different things")]
const fn phase_from(number: u8) -> Option<Option<Phase>> {
    Some(match number {
        0 => None,
        1 => Some(Phase::Initialize),
        2 => Some(Phase::Plan),
        3 => Some(Phase::Apply),
        4 => Some(Phase::Perform),
        5 => Some(Phase::Destroy),
        _ => return None,
    })
}
