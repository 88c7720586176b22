//! The one writer of the spool, shared by everything in this process that has something to say.
//!
//! An event that finds no room waits in a queue, and everything after it waits behind it, so that the
//! order is kept. Nobody waits while holding the writer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_model::Phase;
use gantry_spool::{
    Accepted, BootTime, Event, Limits, MAX_TEXT, SideFileWriter, SpoolError, Watch, Writer,
};
use tokio::io::unix::AsyncFd;

/// How often a full spool is looked at when nothing announces room.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long the last frames wait for room: long enough for a launcher that comes back, but a container
/// without one is not to stay for ever.
const ROOM_WITHIN: Duration = Duration::from_secs(60 * 60);
/// How long a spool that cannot be written for another reason than want of room is tried again.
const BROKEN_FOR: Duration = Duration::from_secs(30);

/// A handle; clones write to the same spool.
#[derive(Clone)]
pub(crate) struct Spool {
    dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    writer: Writer,
    waiting: VecDeque<(BootTime, Option<Phase>, Event)>,
    /// Told apart by number, so that two side files may be written at once.
    side_files: u64,
    said_broken: bool,
}

impl Spool {
    pub(crate) fn open(dir: &Path, limits: Limits) -> Result<Self, SpoolError> {
        let writer = Writer::open(dir, limits)?;
        let inner = Inner { writer, waiting: VecDeque::new(), side_files: 0, said_broken: false };
        Ok(Self { dir: dir.to_owned(), inner: Arc::new(Mutex::new(inner)) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Offers output. A spool that cannot be written at all drops it: the phase is not to suffer.
    pub(crate) fn output(&self, phase: Phase, bytes: &[u8]) -> Accepted {
        let mut inner = self.lock();
        match inner.flush().and_then(|()| inner.writer.output(BootTime::now(), phase, bytes)) {
            Ok(accepted) => accepted,
            Err(SpoolError::Full) => inner.writer.refuse_output(bytes.len()),
            Err(error) => {
                inner.say_broken(&error);
                inner.writer.drop_output(bytes.len());
                Accepted::Dropped
            }
        }
    }

    /// Gives up on output that was offered in vain.
    pub(crate) fn drop_output(&self, bytes: usize) {
        self.lock().writer.drop_output(bytes);
    }

    /// Says something, now or as soon as there is room. It is durable when [`Spool::settle`] says so:
    /// after a power cut the outcome is unknown whatever an event said.
    pub(crate) fn event(&self, phase: Option<Phase>, event: Event) {
        let mut inner = self.lock();
        inner.waiting.push_back((BootTime::now(), phase, event));
        match inner.flush() {
            Ok(()) | Err(SpoolError::Full) => {}
            Err(error) => inner.say_broken(&error),
        }
    }

    /// Says something to whoever reads the log.
    pub(crate) fn note(&self, phase: Option<Phase>, text: impl Into<String>) {
        let text = shorten(text.into());
        self.event(phase, Event::Note { text });
    }

    /// Says something and is sure that it would survive a power cut, or does not say it.
    pub(crate) fn event_durably(
        &self,
        phase: Option<Phase>,
        event: &Event,
    ) -> Result<(), SpoolError> {
        let mut inner = self.lock();
        inner.flush()?;
        inner.writer.event(BootTime::now(), phase, event)?;
        inner.writer.sync()
    }

    /// Begins a side file.
    pub(crate) fn side_file(&self, max: u64) -> Result<SideFileWriter, SpoolError> {
        let mut inner = self.lock();
        inner.side_files += 1;
        SideFileWriter::create(&self.dir, inner.side_files, max)
    }

    /// Waits until all that was said is durable: long for room, which the launcher makes, not as long
    /// on any other trouble.
    pub(crate) async fn settle(&self) -> Result<(), SpoolError> {
        let began = BootTime::now();
        loop {
            let result = {
                let mut inner = self.lock();
                inner.flush().and_then(|()| inner.writer.sync())
            };
            let Err(error) = result else { return Ok(()) };
            let patience = if matches!(error, SpoolError::Full) { ROOM_WITHIN } else { BROKEN_FOR };
            if BootTime::now().since(began) > patience {
                return Err(error);
            }
            self.changed().await;
        }
    }

    /// Resolves when something in the directory changed, or after a short while. Cancel safe.
    pub(crate) async fn changed(&self) {
        changed(&self.dir, LOOK_AGAIN).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every method leaves the writer in order, even one that panicked half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush(&mut self) -> Result<(), SpoolError> {
        while let Some((at, phase, event)) = self.waiting.front() {
            self.writer.event(*at, *phase, event)?;
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn say_broken(&mut self, error: &SpoolError) {
        if !self.said_broken {
            self.said_broken = true;
            eprintln!("gantry-worker: {error}");
        }
    }
}

/// Resolves when something in `dir` changed after the call, or after `at_most`. Cancel safe.
pub(crate) async fn changed(dir: &Path, at_most: Duration) {
    let change = async {
        match Watch::new(dir).and_then(awaitable) {
            Ok(watch) => drop(watch.readable().await),
            Err(_) => std::future::pending().await,
        }
    };
    let _ = tokio::time::timeout(at_most, change).await;
}

/// Lets the runtime wait for a descriptor.
#[expect(
    deprecated,
    reason = "the other constructor is unsafe code; our descriptors keep their number"
)]
pub(crate) fn awaitable<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(fd)
}

/// What a frame takes of a text.
pub(crate) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}
