//! The worker binary's end of the spool.
//!
//! Nothing here waits: a full spool is an answer, and the caller decides what to do with it. Bytes
//! once written are never changed, so a reader may look at any instant. A write that fails half way
//! leaves a torn frame at the end of its segment, and the next frame begins a new segment: that is
//! how a reader knows that the torn one will never be whole.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_model::Phase;
use rustix::fs::{AtFlags, Dir, FallocateFlags, fallocate, fsync, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::is_full;
use crate::frame::{FRAME_HEADER, Header, Kind, SEGMENT_HEADER, segment_header};
use crate::layout::{
    RESERVE, create_new, exists, open_dir, open_regular, segment_name, segment_number,
};
use crate::{BootTime, Event, MAX_EVENT, MAX_OUTPUT, SEGMENT_SIZE, SpoolError};

/// How much a spool may hold, and what happens then. Events and side files do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of segments that the reader has not removed. At least [`Limits::MIN_QUOTA`].
    pub quota: u64,
    /// What happens to output beyond that.
    pub when_full: WhenFull,
}

impl Limits {
    /// With less a writer could fill its only segment and wait for ever.
    pub const MIN_QUOTA: u64 = 1024 * 1024;
    /// The reserve of a write stage unless configured: 2 GiB.
    pub const WRITE_QUOTA: u64 = 2 * 1024 * 1024 * 1024;
}

/// What a full spool does with further output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Refuses it until there is room: the phase is held back by its pipe.
    Block,
    /// Drops and counts it: the phase goes on.
    Truncate,
}

/// What became of a piece of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// It is in the spool.
    Written,
    /// It was dropped and counted; a [`Event::Truncated`] will say so.
    Dropped,
    /// Nothing was taken: offer the same bytes again when the directory has changed.
    NoRoom,
}

/// Writes a spool.
#[derive(Debug)]
pub struct Writer {
    dir: OwnedFd,
    limits: Limits,
    /// A segment is followed by another when it has reached this.
    rotate_at: u64,
    open: Option<Segment>,
    next_number: u32,
    /// Former segments that are still there, and whether they are synced.
    former: VecDeque<(u32, u64, bool)>,
    dir_synced: bool,
    dropped: u64,
    has_reserve: bool,
}

#[derive(Debug)]
struct Segment {
    number: u32,
    file: File,
    size: u64,
    synced: bool,
}

/// Whether a frame may use the room that is kept for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserve {
    Keep,
    Use,
}

/// A write failed after `written` bytes.
struct Torn {
    written: usize,
    source: io::Error,
}

impl Writer {
    /// Opens the spool in `dir` and begins a new segment after those that are there.
    ///
    /// # Errors
    /// When the directory cannot be used or the quota is too small.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, SpoolError> {
        if limits.quota < Limits::MIN_QUOTA {
            return Err(SpoolError::QuotaTooSmall { quota: limits.quota, min: Limits::MIN_QUOTA });
        }
        let dir = open_dir(dir)?;
        let next_number = next_number(&dir)?;
        let has_reserve = make_reserve(&dir);
        let mut writer = Self {
            dir,
            limits,
            rotate_at: SEGMENT_SIZE.min(limits.quota / 4),
            open: None,
            next_number,
            former: VecDeque::new(),
            dir_synced: true,
            dropped: 0,
            has_reserve,
        };
        writer.segment()?;
        Ok(writer)
    }

    /// Hands over output of a phase: at most [`MAX_OUTPUT`] bytes.
    ///
    /// # Errors
    /// When the file system refuses for another reason than want of room.
    ///
    /// # Panics
    /// When `bytes` is larger than the format allows in a frame.
    pub fn output(
        &mut self,
        at: BootTime,
        phase: Phase,
        bytes: &[u8],
    ) -> Result<Accepted, SpoolError> {
        assert!(bytes.len() <= MAX_OUTPUT, "an output frame holds at most MAX_OUTPUT bytes");
        if bytes.is_empty() {
            return Ok(Accepted::Written);
        }
        let written = if self.has_room(bytes.len()) {
            // The reserve is for events alone: used up here, output would take the room at once.
            self.flush_dropped(at, Some(phase), Reserve::Keep)
                .and_then(|()| self.append(Kind::Output, at, Some(phase), bytes))
        } else {
            Err(SpoolError::Full)
        };
        match written {
            Ok(()) => {
                self.renew_reserve();
                Ok(Accepted::Written)
            }
            Err(SpoolError::Full) => Ok(self.refuse_output(bytes.len())),
            Err(error) => Err(error),
        }
    }

    /// Treats output as a full spool does, when something that goes before it found no room.
    pub const fn refuse_output(&mut self, bytes: usize) -> Accepted {
        match self.limits.when_full {
            WhenFull::Block => Accepted::NoRoom,
            WhenFull::Truncate => {
                self.drop_output(bytes);
                Accepted::Dropped
            }
        }
    }

    /// Counts output that the caller gave up on; a [`Event::Truncated`] will say so.
    pub const fn drop_output(&mut self, bytes: usize) {
        self.dropped = self.dropped.saturating_add(bytes as u64);
    }

    /// Writes an event, whatever the quota says. It is durable after [`Writer::sync`].
    ///
    /// # Errors
    /// [`SpoolError::Full`] when the disk is full and the reserve is used up: try again later.
    pub fn event(
        &mut self,
        at: BootTime,
        phase: Option<Phase>,
        event: &Event,
    ) -> Result<(), SpoolError> {
        self.flush_dropped(at, phase, Reserve::Use)?;
        self.append_event(at, phase, event, Reserve::Use)
    }

    /// Waits until everything written so far would survive a power cut.
    ///
    /// # Errors
    /// When the file system cannot promise that.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        for (number, _, synced) in self.former.iter_mut().filter(|(_, _, synced)| !synced) {
            let name = segment_name(*number);
            // A segment that is gone was consumed.
            if let Some(file) = open_regular(&self.dir, &name)? {
                file.sync_data().map_err(|error| SpoolError::io("sync", &name, error))?;
            }
            *synced = true;
        }
        if let Some(segment) = self.open.as_mut().filter(|segment| !segment.synced) {
            let name = segment_name(segment.number);
            segment.file.sync_data().map_err(|error| SpoolError::io("sync", name, error))?;
            segment.synced = true;
        }
        if !self.dir_synced {
            fsync(&self.dir).map_err(|error| SpoolError::io("sync", ".", error.into()))?;
            self.dir_synced = true;
        }
        Ok(())
    }

    fn flush_dropped(
        &mut self,
        at: BootTime,
        phase: Option<Phase>,
        reserve: Reserve,
    ) -> Result<(), SpoolError> {
        if self.dropped > 0 {
            let event = Event::Truncated { bytes: self.dropped };
            self.append_event(at, phase, &event, reserve)?;
            self.dropped = 0;
        }
        Ok(())
    }

    fn append_event(
        &mut self,
        at: BootTime,
        phase: Option<Phase>,
        event: &Event,
        reserve: Reserve,
    ) -> Result<(), SpoolError> {
        let json = serde_json::to_vec(event).expect("an event has only string keys");
        if json.len() > MAX_EVENT {
            return Err(SpoolError::EventTooLarge { size: json.len(), max: MAX_EVENT });
        }
        match self.append(Kind::Event, at, phase, &json) {
            Err(SpoolError::Full) if reserve == Reserve::Use && self.free_reserve() => {
                self.append(Kind::Event, at, phase, &json)
            }
            other => other,
        }
    }

    fn append(
        &mut self,
        kind: Kind,
        at: BootTime,
        phase: Option<Phase>,
        payload: &[u8],
    ) -> Result<(), SpoolError> {
        let header = Header::encode(kind, phase, at, payload);
        let segment = self.segment()?;
        let name = segment_name(segment.number);
        segment.synced = false;
        match write_frame(&mut segment.file, &header, payload) {
            Ok(()) => {
                segment.size += (header.len() + payload.len()) as u64;
                Ok(())
            }
            Err(Torn { written, source }) => {
                segment.size += written as u64;
                if written > 0 {
                    self.retire();
                }
                Err(SpoolError::io("write", name, source))
            }
        }
    }

    /// The segment to append to: its header is written, and it is not yet too large.
    fn segment(&mut self) -> Result<&mut Segment, SpoolError> {
        if self.open.as_ref().is_some_and(|segment| segment.size >= self.rotate_at) {
            self.retire();
        }
        let mut segment = match self.open.take() {
            Some(segment) => segment,
            None => self.begin_segment()?,
        };
        let header = segment_header(segment.number);
        let mut failed = None;
        // A header that could not be written whole is completed by the next try.
        while let Some(rest) =
            usize::try_from(segment.size).ok().and_then(|size| header.get(size..))
        {
            if rest.is_empty() {
                break;
            }
            match segment.file.write(rest) {
                Ok(0) => failed = Some(io::ErrorKind::WriteZero.into()),
                Ok(written) => segment.size += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failed = Some(error),
            }
            if failed.is_some() {
                break;
            }
        }
        let name = segment.number;
        let segment = self.open.insert(segment);
        match failed {
            None => Ok(segment),
            Some(error) => Err(SpoolError::io("write", segment_name(name), error)),
        }
    }

    fn begin_segment(&mut self) -> Result<Segment, SpoolError> {
        let number = self.next_number;
        let name = segment_name(number);
        let file =
            create_new(&self.dir, &name).map_err(|error| SpoolError::io("make", name, error))?;
        self.next_number += 1;
        self.dir_synced = false;
        Ok(Segment { number, file, size: 0, synced: false })
    }

    fn retire(&mut self) {
        if let Some(segment) = self.open.take() {
            self.former.push_back((segment.number, segment.size, segment.synced));
        }
    }

    fn has_room(&mut self, length: usize) -> bool {
        let wanted = (length + FRAME_HEADER + SEGMENT_HEADER) as u64;
        if self.used() + wanted <= self.limits.quota {
            return true;
        }
        let dir = &self.dir;
        // One that cannot be seen counts as there.
        self.former.retain(|(number, _, _)| exists(dir, &segment_name(*number)).unwrap_or(true));
        self.used() + wanted <= self.limits.quota
    }

    fn used(&self) -> u64 {
        let former: u64 = self.former.iter().map(|(_, size, _)| size).sum();
        former + self.open.as_ref().map_or(0, |segment| segment.size)
    }

    /// Gives up the room kept for events. True if there was any.
    fn free_reserve(&mut self) -> bool {
        self.has_reserve = false;
        unlinkat(&self.dir, RESERVE, AtFlags::empty()).is_ok()
    }

    fn renew_reserve(&mut self) {
        if !self.has_reserve {
            self.has_reserve = make_reserve(&self.dir);
        }
    }
}

fn write_frame(file: &mut File, header: &[u8], payload: &[u8]) -> Result<(), Torn> {
    let total = header.len() + payload.len();
    let mut written = 0;
    while written < total {
        let result = match header.get(written..) {
            Some(rest) if !rest.is_empty() => {
                file.write_vectored(&[IoSlice::new(rest), IoSlice::new(payload)])
            }
            _ => file.write(&payload[written - header.len()..]),
        };
        match result {
            Ok(0) => return Err(Torn { written, source: io::ErrorKind::WriteZero.into() }),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Torn { written, source }),
        }
    }
    Ok(())
}

fn next_number(dir: &OwnedFd) -> Result<u32, SpoolError> {
    let failed = |error: Errno| SpoolError::io("list", ".", error.into());
    let mut next = 0;
    for entry in Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(number) = entry.file_name().to_str().ok().and_then(segment_number) {
            next = next.max(number.saturating_add(1));
        }
    }
    Ok(next)
}

/// False if there is no room for it: then events wait for room like everything else.
fn make_reserve(dir: &OwnedFd) -> bool {
    const SIZE: u64 = 1024 * 1024;
    let made = create_new(dir, RESERVE)
        .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE)?));
    let no_room = made.as_ref().is_err_and(is_full);
    if no_room {
        let _ = unlinkat(dir, RESERVE, AtFlags::empty());
    }
    !no_room
}
