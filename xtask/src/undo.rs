//! What is to be ended and removed when a task ends.
//!
//! Whoever starts or makes something says at once how it is undone. [`Undo::run`] does so in reverse order, once:
//! after success, after an error, and from the signal thread after Ctrl-C. A second Ctrl-C, a second later or more,
//! leaves at once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

use crate::{process::Process, say::Say};

/// Signals that come so soon after the first one are the same wish.
const SAME_WISH: Duration = Duration::from_secs(1);

type Action = Box<dyn FnOnce() -> Result<()> + Send>;

/// Names an action, to take it back.
#[derive(Clone, Copy)]
pub struct Ticket(u64);

struct Entry {
    ticket: u64,
    what: String,
    action: Action,
}

#[derive(Default)]
struct Entries {
    next: u64,
    stack: Vec<Entry>,
}

/// The stack of what is to be undone. Clones share it.
#[derive(Clone)]
pub struct Undo {
    entries: Arc<Mutex<Entries>>,
    interrupted: Arc<AtomicBool>,
    say: Say,
}

impl Undo {
    /// An empty stack; what fails while undoing is told through `say`.
    pub fn new(say: Say) -> Self {
        Self { entries: Arc::default(), interrupted: Arc::default(), say }
    }

    /// Starts or makes something, and remembers how it is undone. A signal comes before both or after both, so that
    /// nothing can be made and forgotten; after it nothing is made any more.
    pub fn make<T, A>(
        &self,
        what: impl Into<String>,
        make: impl FnOnce() -> Result<T>,
        undo: impl FnOnce(&T) -> A,
    ) -> Result<(T, Ticket)>
    where
        A: FnOnce() -> Result<()> + Send + 'static,
    {
        let mut entries = self.lock();
        if self.interrupted.load(Ordering::SeqCst) {
            drop(entries);
            park();
        }
        let made = make()?;
        let action = Box::new(undo(&made));
        entries.next += 1;
        let ticket = entries.next;
        entries.stack.push(Entry { ticket, what: what.into(), action });
        Ok((made, Ticket(ticket)))
    }

    /// Starts a process, and remembers to stop it, gently for as long as `grace`.
    pub fn start(
        &self,
        grace: Duration,
        start: impl FnOnce() -> Result<Process>,
    ) -> Result<(Process, Ticket)> {
        self.make("stop what was started", start, |process| process.stopping(grace))
    }

    /// Forgets an action: what it would undo is gone already.
    pub fn done(&self, ticket: Ticket) {
        self.lock().stack.retain(|entry| entry.ticket != ticket.0);
    }

    /// Forgets everything: it is meant to stay.
    pub fn keep_all(&self) {
        self.lock().stack.clear();
    }

    /// Undoes everything. After a signal this never returns: the signal thread does the work and exits.
    pub fn run(&self) {
        self.drain();
        if self.interrupted.load(Ordering::SeqCst) {
            park();
        }
    }

    /// On SIGINT, SIGTERM and SIGHUP: undo everything, then exit as a shell reports that signal.
    pub fn on_signals(&self, say: &Say) -> Result<()> {
        const ALL: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
        for signal in ALL {
            // Set within the handler: whoever fails because its child got the signal too finds it set.
            flag::register(signal, Arc::clone(&self.interrupted))
                .context("cannot handle signals")?;
        }
        let mut signals = Signals::new(ALL).context("cannot handle signals")?;
        let (undo, say) = (self.clone(), say.clone());
        thread::spawn(move || {
            let mut signals = signals.forever();
            let Some(first) = signals.next() else { return };
            let began = Instant::now();
            say.line(
                "\ninterrupted: ending and removing what was started (once more: leave at once)",
            );
            thread::spawn(move || {
                undo.drain();
                std::process::exit(128 + first);
            });
            // `timeout` sends its signal twice, and so do some terminals: that is no second wish.
            if let Some(again) = signals.find(|_| began.elapsed() > SAME_WISH) {
                std::process::exit(128 + again);
            }
        });
        Ok(())
    }

    fn drain(&self) {
        // The lock is held throughout, so whoever comes second waits until all is undone.
        let mut entries = self.lock();
        while let Some(Entry { what, action, .. }) = entries.stack.pop() {
            if let Err(error) = action() {
                self.say.line(&format!("warning: could not {what}: {error:#}"));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the rest to the signal thread.
fn park() -> ! {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn undoes_in_reverse_order_once_and_goes_on_after_a_failure() {
        let undo = Undo::new(Say::to_stderr());
        let (sender, receiver) = mpsc::channel();
        for number in 1..=3 {
            let sender = sender.clone();
            let action = move || {
                sender.send(number)?;
                anyhow::ensure!(number != 2, "number two always fails");
                Ok(())
            };
            undo.make(format!("undo {number}"), || Ok(()), |()| action).unwrap();
        }
        let panic = || panic!("this one was taken back");
        let ((), ticket) = undo.make("undo what is gone", || Ok(()), |()| panic).unwrap();
        undo.done(ticket);
        undo.run();
        undo.run();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [3, 2, 1]);
    }
}
