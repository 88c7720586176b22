//! Answers for the stack's state, in the way of Terraform's `http` backend.
//!
//! A state version is durable on the host before anybody hears of it, and the tool is answered when
//! the launcher has stored it, or after a while without the launcher: an apply does not fail because
//! somebody else is away. The stage is the lock: whoever asks under the same id gets it again.

mod http;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gantry_model::{InvalidState, StateHeading};
use gantry_spool::order::{MAX_STATE, StateOrder};
use gantry_spool::{
    ANSWERS, BootTime, Event, MAX_STATES, SideFileWriter, SideName, SpoolError, is_stored,
    open_side_file, sha256_of,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::spool::{Spool, changed};

const USER: &str = "gantry";
/// What helps when the state that a stage begins with is none.
const WAY_BACK: &str = "go back to an older version with `gantry state rollback`";
/// A phase can be refused without end.
const MAX_NOTES: u32 = 16;

/// The state of one stack during one stage.
pub(crate) struct StateServer {
    spool: Spool,
    can_write: bool,
    can_replace: bool,
    answer_after: Duration,
    /// The whole `Authorization` header that is asked for.
    authorization: Zeroizing<String>,
    password: Zeroizing<String>,
    inner: Mutex<Inner>,
}

struct Inner {
    current: Option<Version>,
    /// Versions written in this attempt.
    written: u64,
    lock: Option<Lock>,
    /// How many refusals the log was told of.
    noted: u32,
}

/// One state version and where it is.
struct Version {
    heading: StateHeading,
    sha256: String,
    file: Arc<File>,
    size: u64,
    /// Number and time of writing; none for the one given at start.
    written: Option<(u64, BootTime)>,
}

struct Lock {
    id: String,
    /// As the holder sent it, for whoever finds the lock taken.
    info: Bytes,
}

/// Why a write or a lock was refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "a read stage may read the state, not write it: commands that change it belong in a task"
    )]
    ReadOnly,
    #[error("what was sent is not a state that Terraform could open: {0}")]
    NoState(#[from] InvalidState),
    #[error("a stage writes at most {MAX_STATES} state versions: split its work into several runs")]
    TooMany,
    #[error("a state may not be larger than 1 GiB")]
    TooLarge,
    #[error(
        "serial {serial} was written before with other content, the present serial is {present}"
    )]
    Conflict { serial: u64, present: u64 },
    #[error(
        "it has another lineage than the stack's state: replace that in a task, by `terraform state push -force`"
    )]
    OtherLineage,
    #[error("the state is locked")]
    Locked(Bytes),
    #[error("the lock's body is not a lock: it needs an ID")]
    NoLock,
    #[error("the state cannot be kept now, try again")]
    NoRoom(#[source] SpoolError),
    #[error("the connection ended within the body")]
    CutOff,
}

/// What to wait for before a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    number: u64,
    at: BootTime,
}

impl StateServer {
    /// Takes the state that the order names, if any, out of the order's directory.
    pub(crate) fn new(spool: Spool, order: &StateOrder, order_dir: &Path) -> io::Result<Self> {
        let current = match &order.current {
            Some(name) => Some(take_current(order_dir, name)?),
            None => None,
        };
        let password = Zeroizing::new(order.password.expose().to_owned());
        let credentials = Zeroizing::new(format!("{USER}:{}", *password));
        let authorization =
            Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())));
        Ok(Self {
            spool,
            can_write: order.can_write,
            can_replace: order.can_replace,
            answer_after: Duration::from_millis(order.answer_after_ms),
            authorization,
            password,
            inner: Mutex::new(Inner { current, written: 0, lock: None, noted: 0 }),
        })
    }

    /// What the tool must know to find the server.
    fn variables(&self, port: u16) -> Vec<(&'static str, Zeroizing<String>)> {
        let address = |path| Zeroizing::new(format!("http://127.0.0.1:{port}/{path}"));
        let text = |text: &str| Zeroizing::new(text.to_owned());
        vec![
            ("TF_HTTP_ADDRESS", address("state")),
            ("TF_HTTP_LOCK_ADDRESS", address("lock")),
            ("TF_HTTP_UNLOCK_ADDRESS", address("lock")),
            ("TF_HTTP_USERNAME", text(USER)),
            ("TF_HTTP_PASSWORD", self.password.clone()),
            ("TF_HTTP_RETRY_MAX", text("120")),
            ("TF_HTTP_RETRY_WAIT_MIN", text("1")),
            ("TF_HTTP_RETRY_WAIT_MAX", text("5")),
        ]
    }

    fn is_authorized(&self, header: &[u8]) -> bool {
        let wanted = self.authorization.as_bytes();
        // Takes as long for a wrong password as for the right one.
        header.len() == wanted.len()
            && header.iter().zip(wanted).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    /// The present state and its size.
    fn read(&self) -> Option<(Arc<File>, u64)> {
        let inner = self.lock_inner();
        inner.current.as_ref().map(|version| (Arc::clone(&version.file), version.size))
    }

    /// Nobody writes while another holds the lock.
    fn check_write(&self, lock_id: Option<&str>) -> Result<(), Refused> {
        if !self.can_write {
            return Err(Refused::ReadOnly);
        }
        match &self.lock_inner().lock {
            Some(lock) if lock_id != Some(&lock.id) => Err(Refused::Locked(lock.info.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins to take a state in.
    fn begin_write(&self) -> Result<SideFileWriter, Refused> {
        self.spool.side_file(MAX_STATE).map_err(Refused::NoRoom)
    }

    /// Makes what was taken in the present state. `None`: the state given at start was sent back unchanged.
    fn write(&self, file: SideFileWriter) -> Result<Option<Written>, Refused> {
        let heading = StateHeading::read(file.reopen().map_err(Refused::NoRoom)?)?;
        let sha256 = file.sha256();
        let mut inner = self.lock_inner();
        if let Some(current) = &inner.current {
            if current.sha256 == sha256 {
                // A tool whose answer was lost sends the same again.
                return Ok(current.written.map(|(number, at)| Written { number, at }));
            }
            if !self.can_replace && !heading.follows(&current.heading) {
                let (serial, present) = (heading.serial, current.heading.serial);
                return Err(if heading.lineage == current.heading.lineage {
                    Refused::Conflict { serial, present }
                } else {
                    Refused::OtherLineage
                });
            }
        }
        let number = inner.written + 1;
        if number > MAX_STATES {
            return Err(Refused::TooMany);
        }
        let stored = file.finish(SideName::State(number)).map_err(Refused::NoRoom)?;
        let file =
            open_side_file(self.spool.dir(), stored.name, MAX_STATE).map_err(Refused::NoRoom)?;
        let size = stored.size;
        let file = Arc::new(file);
        let StateHeading { serial, lineage } = heading.clone();
        let event = Event::State { number, serial, lineage, file: stored };
        self.spool.event_durably(None, &event).map_err(Refused::NoRoom)?;
        let at = BootTime::now();
        inner.written = number;
        inner.current = Some(Version { heading, sha256, file, size, written: Some((number, at)) });
        Ok(Some(Written { number, at }))
    }

    /// Resolves when the launcher has stored the version, or when the tool has waited long enough.
    async fn stored(&self, written: Written) {
        let answers = self.spool.dir().join(ANSWERS);
        while !is_stored(self.spool.dir(), written.number) {
            let waited = BootTime::now().since(written.at);
            let Some(left) = self.answer_after.checked_sub(waited).filter(|left| !left.is_zero())
            else {
                return;
            };
            changed(&answers, left.min(Duration::from_millis(250))).await;
        }
    }

    /// Says in the log why the tool's write was refused: the tool itself shows a number only.
    fn note(&self, refused: &Refused) {
        let mut inner = self.lock_inner();
        if inner.noted < MAX_NOTES {
            inner.noted += 1;
            drop(inner);
            self.spool.note(None, format!("a state was not taken in: {refused}"));
        }
    }

    fn lock(&self, info: Bytes) -> Result<(), Refused> {
        let id = lock_id(&info)?;
        let mut inner = self.lock_inner();
        match &inner.lock {
            Some(lock) if lock.id != id => Err(Refused::Locked(lock.info.clone())),
            Some(_) | None => {
                inner.lock = Some(Lock { id, info });
                Ok(())
            }
        }
    }

    fn unlock(&self, info: &[u8]) -> Result<(), Refused> {
        let mut inner = self.lock_inner();
        let Some(lock) = &inner.lock else { return Ok(()) };
        if lock.id != lock_id(info)? {
            return Err(Refused::Locked(lock.info.clone()));
        }
        inner.lock = None;
        Ok(())
    }

    fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing is changed but by single assignments.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock_id(info: &[u8]) -> Result<String, Refused> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "ID")]
        id: String,
    }
    serde_json::from_slice(info).map(|info: Info| info.id).map_err(|_| Refused::NoLock)
}

/// Opens the state given at start and removes its name: no phase needs it.
fn take_current(order_dir: &Path, name: &str) -> io::Result<Version> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let path = order_dir.join(name);
    let file = File::open(&path)?;
    std::fs::remove_file(&path)?;
    let size = file.metadata()?.len();
    if size > MAX_STATE {
        return Err(io::Error::other(Refused::TooLarge));
    }
    let heading = StateHeading::read(&file)
        .map_err(|error| io::Error::other(format!("{error}: {WAY_BACK}")))?;
    (&file).seek(SeekFrom::Start(0))?;
    let sha256 = sha256_of(&file)?;
    Ok(Version { heading, sha256, file: Arc::new(file), size, written: None })
}

#[cfg(test)]
mod tests;
