//! The work on files that a stage has begun: unpacking, sealing, reading what it left.
//!
//! Such work blocks a thread and goes on when nobody waits for it any more; it would make the very directory again
//! that was just removed. So a stage owns its jobs: they run one at a time, one that is given up is called off, and
//! whoever removes what the stage made waits for the last one to end.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;

/// The jobs of one stage.
#[derive(Clone, Default)]
pub(super) struct Jobs {
    running: Arc<Mutex<JoinSet<()>>>,
}

impl Jobs {
    /// Does this work when the job before it has ended, and waits for it. When this is dropped, the work is called
    /// off: it ends where it next reads through its [`Whether`].
    ///
    /// # Errors
    /// When it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Whether) -> T + Send + 'static,
    ) -> io::Result<T> {
        let called_off = Whether(Arc::default());
        let (done, result) = oneshot::channel();
        {
            let mut running = self.running.lock().await;
            while running.join_next().await.is_some() {}
            let called_off = called_off.clone();
            running.spawn_blocking(move || drop(done.send(work(called_off))));
        }
        let _given_up = GivenUp(called_off);
        result.await.map_err(|_| io::Error::other("the work on it panicked"))
    }

    /// Resolves when none runs. Cancel safe.
    pub(super) async fn ended(&self) {
        let mut running = self.running.lock().await;
        while running.join_next().await.is_some() {}
    }
}

/// Calls its job off when nobody waits for it any more; one that has ended does not mind.
struct GivenUp(Whether);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Whether a job is called off.
#[derive(Debug, Clone)]
pub(super) struct Whether(Arc<AtomicBool>);

impl Whether {
    /// Reads from `inner` until the job is called off.
    pub(super) const fn until<R>(self, inner: R) -> Until<R> {
        Until { inner, called_off: self }
    }
}

/// What a job reads: it fails once the job is called off.
#[derive(Debug)]
pub(super) struct Until<R> {
    inner: R,
    called_off: Whether,
}

impl<R: Read> Read for Until<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.called_off.0.load(Ordering::Acquire) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for Until<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use gantry_model::{Attempt, Epoch, RunId, Stage};

    use super::*;
    use crate::workspace::{Directories, pack, unpack};

    /// Says that it is read, and gives the next part when it is told to.
    struct Slow {
        parts: Vec<Vec<u8>>,
        reads: Option<oneshot::Sender<()>>,
        go_on: mpsc::Receiver<()>,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if let Some(reads) = self.reads.take() {
                reads.send(()).unwrap();
                self.go_on.recv().unwrap();
            }
            let Some(mut part) = self.parts.pop() else { return Ok(0) };
            let most = part.len().min(buffer.len());
            buffer[..most].copy_from_slice(&part[..most]);
            if most < part.len() {
                self.parts.push(part.split_off(most));
            }
            Ok(most)
        }
    }

    /// A stage that is dropped in the middle of an unpack: what is removed stays so.
    #[tokio::test]
    async fn an_unpack_that_is_given_up_makes_nothing_again_that_was_removed() {
        let state = tempfile::tempdir().unwrap();
        let attempt = Attempt {
            run: RunId::from_ulid(ulid::Ulid::nil()),
            stage: Stage::Read,
            epoch: Epoch(1),
        };
        let secrets = tempfile::tempdir().unwrap();
        let directories = Directories::of(attempt, state.path(), secrets.path());
        directories.keep_spec(b"sealed").unwrap();
        let from = tempfile::tempdir().unwrap();
        std::fs::write(from.path().join("main.tf"), "resource").unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();

        let (reads, is_read) = oneshot::channel();
        let (go_on, waits) = mpsc::channel();
        let slow = Slow { parts: vec![archive], reads: Some(reads), go_on: waits };
        let (jobs, into) = (Jobs::default(), directories.clone());
        let mut unpacking = Box::pin(jobs.run(move |whether| {
            into.empty_workspace().unwrap();
            unpack(whether.until(slow), &into.source)
        }));
        tokio::select! {
            _ = &mut unpacking => panic!("nobody told it to go on"),
            read = is_read => read.unwrap(),
        }
        drop(unpacking);

        let mut removed = pin!(async {
            jobs.ended().await;
            directories.remove().unwrap();
        });
        let mut context = Context::from_waker(Waker::noop());
        assert!(removed.as_mut().poll(&mut context).is_pending(), "the unpack still runs");
        assert!(directories.source.parent().is_some_and(std::path::Path::exists));
        go_on.send(()).unwrap();
        removed.await;
        assert!(!directories.root.exists());
    }

    #[tokio::test]
    async fn a_job_waits_for_one_that_was_given_up() {
        let (jobs, order) = (Jobs::default(), Arc::new(std::sync::Mutex::new(Vec::new())));
        let (go_on, waits) = mpsc::channel::<()>();
        let (begins, begun) = oneshot::channel();
        let first = Arc::clone(&order);
        let mut given_up = Box::pin(jobs.run(move |_| {
            begins.send(()).unwrap();
            waits.recv().unwrap();
            first.lock().unwrap().push(1);
        }));
        tokio::select! {
            _ = &mut given_up => panic!("nobody told it to go on"),
            begun = begun => begun.unwrap(),
        }
        drop(given_up);
        let second = Arc::clone(&order);
        let next = jobs.run(move |_| second.lock().unwrap().push(2));
        go_on.send(()).unwrap();
        next.await.unwrap();
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    }
}
