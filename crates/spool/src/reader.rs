//! The launcher's end of the spool.
//!
//! A frame that is not whole yet is no frame: the reader says so and looks again later. Only when
//! the next segment exists, the one before it will not grow any more, and a torn frame at its end
//! is passed over.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, statat, unlinkat};
use rustix::io::Errno;

use crate::frame::{FRAME_HEADER, Header, MAGIC, SEGMENT_HEADER, segment_header};
use crate::layout::{exists, open_dir, open_regular, segment_name, segment_number};
use crate::{Frame, Position, SpoolError, VERSION};

/// How much is read at once. A larger frame enlarges the buffer, up to the format's bound.
const CHUNK: usize = 512 * 1024;

/// Reads a spool that is not trusted, from any position.
#[derive(Debug)]
pub struct Reader {
    dir: OwnedFd,
    position: Position,
    file: Option<File>,
    /// Bytes of the present segment from `position.offset` on. Written bytes never change, so they stay valid.
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that lie before `position.offset`.
    passed: usize,
}

impl Reader {
    /// Opens the spool in `dir`; the first frame is the one at `from`.
    ///
    /// # Errors
    /// When the directory cannot be opened. A spool that was never written to is no error.
    pub fn open(dir: &Path, from: Position) -> Result<Self, SpoolError> {
        Ok(Self { dir: open_dir(dir)?, position: from, file: None, buffer: Vec::new(), passed: 0 })
    }

    /// Where the next frame begins.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The next frame, or `None` when there is no whole one yet.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] and the like leave the position where it is: the same error comes again.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ended would go on later")]
    pub fn next(&mut self) -> Result<Option<Frame>, SpoolError> {
        loop {
            if !self.open_segment()? {
                return Ok(None);
            }
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            let Some(following) = self.position.segment.checked_add(1) else { return Ok(None) };
            let Some(file) = open_regular(&self.dir, &segment_name(following))? else {
                return Ok(None);
            };
            // The frame may have been completed just before the new segment was begun.
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            self.position = Position { segment: following, offset: 0 };
            self.file = Some(file);
            self.buffer.clear();
            self.passed = 0;
        }
    }

    /// Removes the segments before `position`: the writer gets their room back.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_before(&mut self, position: Position) -> Result<(), SpoolError> {
        let failed = |error: Errno| SpoolError::io("list", ".", error.into());
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if segment_number(name).is_some_and(|number| number < position.segment) {
                match unlinkat(&self.dir, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(SpoolError::io("remove", name, error.into())),
                }
            }
        }
        Ok(())
    }

    /// False when the segment is not there yet.
    fn open_segment(&mut self) -> Result<bool, SpoolError> {
        if self.file.is_some() {
            return Ok(true);
        }
        let segment = self.position.segment;
        self.file = open_regular(&self.dir, &segment_name(segment))?;
        if self.file.is_none() && self.has_later_segment()? {
            // It may have come between the two looks.
            self.file = open_regular(&self.dir, &segment_name(segment))?;
            if self.file.is_none() {
                return Err(SpoolError::Missing { segment });
            }
        }
        Ok(self.file.is_some())
    }

    fn has_later_segment(&self) -> Result<bool, SpoolError> {
        let after = self.position.segment.saturating_add(1);
        if exists(&self.dir, &segment_name(after))? {
            return Ok(true);
        }
        let failed = |error: Errno| SpoolError::io("list", ".", error.into());
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let number = entry.file_name().to_str().ok().and_then(segment_number);
            if number.is_some_and(|number| number > self.position.segment) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The frame at the position, if all of it is there.
    fn frame(&mut self) -> Result<Option<Frame>, SpoolError> {
        if self.position.offset < SEGMENT_HEADER as u64 && !self.segment_header()? {
            return Ok(None);
        }
        let position = self.position;
        let corrupt = |what| SpoolError::Corrupt { position, what };
        let Some(bytes) = self.available(FRAME_HEADER)?.first_chunk::<FRAME_HEADER>().copied()
        else {
            return Ok(None);
        };
        let header = Header::decode(&bytes).map_err(corrupt)?;
        let whole = FRAME_HEADER + header.length;
        let Some(payload) = self.available(whole)?.get(FRAME_HEADER..whole) else {
            return Ok(None);
        };
        let body = header.body(&bytes, payload).map_err(corrupt)?;
        self.advance(whole);
        let (phase, time) = (header.phase, header.time);
        Ok(Some(Frame { position, next: self.position, phase, time, body }))
    }

    /// Passes the segment's header. False if not all of it is there.
    fn segment_header(&mut self) -> Result<bool, SpoolError> {
        let position = self.position;
        let corrupt = |what| Err(SpoolError::Corrupt { position, what });
        if position.offset != 0 {
            return corrupt("a position lies within the header of a segment");
        }
        let Some(bytes) = self.available(SEGMENT_HEADER)?.first_chunk::<SEGMENT_HEADER>().copied()
        else {
            return Ok(false);
        };
        if bytes[..8] != MAGIC {
            return corrupt("a segment does not begin as one");
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found != VERSION {
            return Err(SpoolError::Version { found });
        }
        if bytes != segment_header(position.segment) {
            return corrupt("a segment has the number of another");
        }
        self.advance(SEGMENT_HEADER);
        Ok(true)
    }

    /// The bytes from the position on: at least `wanted`, if the file has as many.
    fn available(&mut self, wanted: usize) -> Result<&[u8], SpoolError> {
        if self.buffer.len() - self.passed < wanted {
            self.fill(wanted)?;
        }
        Ok(&self.buffer[self.passed..])
    }

    fn fill(&mut self, wanted: usize) -> Result<(), SpoolError> {
        let Some(file) = &self.file else { return Ok(()) };
        self.buffer.drain(..self.passed);
        self.passed = 0;
        while self.buffer.len() < wanted {
            let held = self.buffer.len();
            self.buffer.resize(wanted.max(CHUNK), 0);
            let read = file.read_at(
                &mut self.buffer[held..],
                self.position.offset.saturating_add(held as u64),
            );
            self.buffer.truncate(held + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(SpoolError::io("read", segment_name(self.position.segment), error));
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        self.passed += bytes;
        self.position.offset += bytes as u64;
    }
}

/// How many bytes of the disk the segments in `dir` take that nobody has removed yet.
///
/// # Errors
/// When the directory cannot be read.
pub fn held(dir: &Path) -> Result<u64, SpoolError> {
    let failed = |error: Errno| SpoolError::io("list", ".", error.into());
    let dir = open_dir(dir)?;
    let mut bytes = 0u64;
    for entry in Dir::read_from(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_str().ok().and_then(segment_number).is_none() {
            continue;
        }
        // One that is gone meanwhile takes nothing.
        if let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
        }
    }
    Ok(bytes)
}
