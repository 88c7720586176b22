//! The journal's file, version 1.
//!
//! Eight bytes `GNTRYJ` and the version (big-endian 16 bits), then frames: length of the payload and
//! its CRC-32 (both big-endian 32 bits), payload: a JSON array of records, at most [`MAX_FRAME`] bytes.
//! Frames are only appended, each synchronised, and hold what came while the one before it was; from time to time the whole is written anew under
//! another name and renamed. So only the last frame can be cut, and a cut one was never relied on.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Record;

const MAGIC: &[u8; 6] = b"GNTRYJ";
const VERSION: u16 = 1;
const HEADER: usize = 8;
/// The largest payload of a frame, in bytes.
pub(super) const MAX_FRAME: usize = 1 << 20;
/// The least size from which the file is written anew.
const LONG: u64 = 4 << 20;
/// The room that is kept for what comes: a disk that others fill must not end the launcher.
const RESERVE: u64 = 8 << 20;
/// The largest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error(
        "cannot use the journal {path}: check that its disk is not full and that it belongs to this user"
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none, or of another version.
    #[error(
        "{path} is not a journal of version {VERSION}: start the launcher version that wrote it, or move the file away once its runs are over"
    )]
    Version {
        /// Which file.
        path: PathBuf,
    },
    /// It is damaged where no crash of ours can damage it.
    #[error(
        "the journal {path} is damaged at byte {at}: check the disk; moving the file away gives up the runs in hand"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        at: u64,
    },
    /// A record cannot be spelled.
    #[error("a record of the journal cannot be written")]
    Unwritable(#[source] serde_json::Error),
    /// A record is larger than the format allows.
    #[error("a record of {size} bytes does not fit the journal: the limit is {MAX_FRAME}")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// Nobody writes any more.
    #[error("the journal is not written any more: its writer ended")]
    Gone,
}

impl JournalError {
    /// The same once more, for everybody whom it meets.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Io { path, source } => {
                let source = io::Error::new(source.kind(), source.to_string());
                Self::Io { path: path.clone(), source }
            }
            Self::Version { path } => Self::Version { path: path.clone() },
            Self::Damaged { path, at } => Self::Damaged { path: path.clone(), at: *at },
            Self::Unwritable(error) => Self::Unwritable(serde::ser::Error::custom(error)),
            Self::TooLarge { size } => Self::TooLarge { size: *size },
            Self::Gone => Self::Gone,
        }
    }
}

/// How a file is made durable: a seam for tests.
pub(super) struct Sync(pub(super) Synchronise);

type Synchronise = Box<dyn FnMut(&fs::File) -> io::Result<()> + Send>;

impl Default for Sync {
    fn default() -> Self {
        Self(Box::new(fs::File::sync_data))
    }
}

impl std::fmt::Debug for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sync")
    }
}

/// A record as it stands in a frame.
pub(super) type Line = Vec<u8>;

pub(super) fn line(record: &Record) -> Result<Line, JournalError> {
    serde_json::to_vec(record).map_err(JournalError::Unwritable)
}

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    handle: fs::File,
    /// How long its whole frames are together. What stands behind them is worth nothing.
    length: u64,
    /// The length from which the file is worth writing anew: never below twice of what must stay.
    long: u64,
    /// Half a frame may stand behind `length`.
    is_torn: bool,
    /// The file has its name, and the directory may not know it durably.
    is_unsettled: bool,
    /// Makes what was appended durable.
    pub(super) sync: Sync,
}

impl File {
    /// Opens or makes the file and hands over its records.
    pub fn open(directory: &Path, mut record: impl FnMut(Record)) -> Result<Self, JournalError> {
        let path = directory.join("journal");
        let at = |source| JournalError::Io { path: path.clone(), source };
        let mut file = options().create(true).open(&path).map_err(at)?;
        let length = file.metadata().map_err(at)?.len();
        if length > MAX_FILE {
            return Err(JournalError::Damaged { path, at: MAX_FILE });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at)?;
        if bytes.len() < HEADER {
            // A first start that was cut short: nothing was ever relied on.
            file.set_len(0).map_err(at)?;
            file.write_all_at(&header(), 0).and_then(|()| file.sync_all()).map_err(at)?;
            sync_directory(directory).map_err(at)?;
            return Ok(Self::new(path, file, HEADER as u64));
        }
        if bytes[..HEADER] != header() {
            return Err(JournalError::Version { path });
        }
        let good = replay(&path, &bytes, &mut record)?;
        file.set_len(good).map_err(at)?;
        Ok(Self::new(path, file, good))
    }

    fn new(path: PathBuf, handle: fs::File, length: u64) -> Self {
        let new = Self {
            path,
            handle,
            length,
            long: LONG,
            is_torn: false,
            is_unsettled: false,
            sync: Sync::default(),
        };
        new.reserve();
        new
    }

    /// Takes the blocks behind the last frame without making the file longer. Where the file system
    /// cannot do that, or is full, appending says so itself.
    fn reserve(&self) {
        use rustix::fs::{FallocateFlags, fallocate};
        let _ = fallocate(&self.handle, FallocateFlags::KEEP_SIZE, self.length, RESERVE);
    }

    /// Appends one frame; durable when this returns, and worth nothing if this fails.
    pub fn append(&mut self, lines: &[&Line]) -> Result<(), JournalError> {
        let frame = frame(lines)?;
        self.settle().map_err(|source| self.io(source))?;
        let written = self.handle.write_all_at(&frame, self.length);
        if let Err(source) = written.and_then(|()| self.sync.0(&self.handle)) {
            self.is_torn = true;
            if let Err(error) = self.settle() {
                tracing::error!(%error, "the journal keeps half a frame until it can be written again");
            }
            return Err(self.io(source));
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Mends what an earlier failure left: a frame must neither stand behind a torn one nor in a file
    /// whose name a crash would take away.
    fn settle(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.handle.set_len(self.length)?;
            self.is_torn = false;
            self.reserve();
        }
        if self.is_unsettled {
            self.path.parent().map_or(Ok(()), sync_directory)?;
            self.is_unsettled = false;
        }
        Ok(())
    }

    /// Whether the file is worth writing anew.
    pub const fn is_long(&self) -> bool {
        self.length > self.long
    }

    /// Writes the file anew with these records alone. If this fails, all records stay as they are.
    pub fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        // After a failure it is not tried again with every frame.
        self.long = self.length + LONG;
        let fresh = self.path.with_extension("new");
        let mut bytes = header().to_vec();
        for record in records {
            bytes.extend(frame(&[&line(record)?])?);
        }
        let write = || -> io::Result<fs::File> {
            let file = options().create(true).truncate(true).open(&fresh)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            Ok(file)
        };
        // From the rename on this file is the journal: what went into the other one would be lost.
        self.handle = write().map_err(|source| self.io(source))?;
        self.length = bytes.len() as u64;
        self.long = LONG.max(2 * self.length);
        self.is_torn = false;
        self.reserve();
        self.is_unsettled = true;
        self.settle().map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }
}

fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(MAGIC);
    header[6..].copy_from_slice(&VERSION.to_be_bytes());
    header
}

fn frame(lines: &[&Line]) -> Result<Vec<u8>, JournalError> {
    let mut payload = b"[".to_vec();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            payload.push(b',');
        }
        payload.extend_from_slice(line);
    }
    payload.push(b']');
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_FRAME);
    let length = length.ok_or(JournalError::TooLarge { size: payload.len() })?;
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Hands over the records of every whole frame and gives the length of the good part.
fn replay(path: &Path, bytes: &[u8], record: &mut impl FnMut(Record)) -> Result<u64, JournalError> {
    let mut at = HEADER;
    while at < bytes.len() {
        let Some((records, end)) = whole_frame(bytes, at) else {
            if is_cut(&bytes[at..]) {
                break;
            }
            return Err(JournalError::Damaged { path: path.to_owned(), at: at as u64 });
        };
        records.into_iter().for_each(&mut *record);
        at = end;
    }
    Ok(at as u64)
}

fn whole_frame(bytes: &[u8], at: usize) -> Option<(Vec<Record>, usize)> {
    let head = bytes.get(at..at + 8)?;
    let length = u32::from_be_bytes(head[..4].try_into().ok()?) as usize;
    let crc = u32::from_be_bytes(head[4..].try_into().ok()?);
    if length > MAX_FRAME {
        return None;
    }
    let payload = bytes.get(at + 8..at + 8 + length)?;
    if crc32fast::hash(payload) != crc {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, at + 8 + length))
}

/// One frame at a time is written and synchronised, so what a crash leaves is one frame whose end is
/// missing or was never written, or the zeros of a file that grew before its content came. No whole
/// frame stands behind it: then it is the length that is damaged, and frames that counted would go.
fn is_cut(rest: &[u8]) -> bool {
    let head = &rest[..rest.len().min(8)];
    let is_blank = head.iter().all(|byte| *byte == 0);
    let reaches_the_end = head.first_chunk().is_none_or(|length| {
        let claimed = u32::from_be_bytes(*length) as usize;
        claimed <= MAX_FRAME && 8 + claimed >= rest.len()
    });
    (is_blank || reaches_the_end) && (1..rest.len()).all(|at| whole_frame(rest, at).is_none())
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(directory: &Path) -> usize {
        let mut count = 0;
        File::open(directory, |_| count += 1).expect("the journal opens");
        count
    }

    /// What is left of a frame that could not be written stands in no later one's way.
    #[test]
    fn a_frame_that_failed_is_gone_before_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::Acknowledged { up_to: 1 };
        let mut file = File::open(directory.path(), |_| {}).unwrap();
        file.append(&[&line(&record).unwrap()]).unwrap();
        let whole = std::mem::replace(&mut file.handle, fs::File::open(&file.path).unwrap());
        file.append(&[&line(&record).unwrap()]).unwrap_err();
        // As far as the disk took it, and the disk did not take the cut either.
        whole.write_all_at(&[0, 0, 4, 0, 1, 2, 3, 4, 5].repeat(40), file.length).unwrap();
        file.handle = whole;
        file.append(&[&line(&record).unwrap()]).unwrap();
        assert_eq!(count(directory.path()), 2);
    }

    #[test]
    fn a_journal_that_cannot_be_written_anew_goes_on_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::Acknowledged { up_to: 1 };
        let mut file = File::open(directory.path(), |_| {}).unwrap();
        file.append(&[&line(&record).unwrap()]).unwrap();
        fs::create_dir(directory.path().join("journal.new")).unwrap();
        file.rewrite(&[]).unwrap_err();
        file.append(&[&line(&record).unwrap()]).unwrap();
        assert!(!file.is_long());
        assert_eq!(count(directory.path()), 2);
    }

    #[test]
    fn room_for_what_comes_is_taken_before_others_fill_the_disk() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::open(directory.path(), |_| {}).unwrap();
        for _ in 0..2 {
            let meta = fs::metadata(&file.path).unwrap();
            assert!(meta.blocks() * 512 >= RESERVE && meta.len() == file.length, "{meta:?}");
            file.rewrite(&[Record::Acknowledged { up_to: 1 }]).unwrap();
        }
    }

    /// A file that must stay long is not written anew with every frame.
    #[test]
    fn writing_anew_waits_until_it_halves_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let kind = "x".repeat(1000);
        let body = || serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
        let id = gantry_model::MessageId::from_ulid(ulid::Ulid::from_parts(1, 1));
        let records: Vec<_> = (0..6000)
            .map(|seq| Record::Queued { seq, id, kind: kind.clone(), body: body() })
            .collect();
        let mut file = File::open(directory.path(), |_| {}).unwrap();
        file.rewrite(&records).unwrap();
        assert!(file.length > LONG);
        file.append(&[&line(&records[0]).unwrap()]).unwrap();
        assert!(!file.is_long());
    }
}
