//! A program that runs beside the test: what it says is collected, and it never outlives the test.

use std::fmt::Write as _;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// How many lines of a program are shown below a test's failure.
const LAST_WORDS: usize = 40;

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    said: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

#[derive(Debug, Default)]
struct Said {
    streams: Mutex<[Vec<u8>; 2]>,
    more: Condvar,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, [Vec<u8>; 2]> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    /// Starts it.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let said = Arc::new(Said::default());
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let readers =
            vec![collect(stdout, 0, Arc::clone(&said)), collect(stderr, 1, Arc::clone(&said))];
        Self { name: name.to_owned(), child, said, readers }
    }

    /// Waits for a whole line of either stream that `is_it`; those from byte `from` of each stream count.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> String {
        let begin = Instant::now();
        let mut streams = self.said.lock();
        loop {
            for stream in streams.iter() {
                let text = String::from_utf8_lossy(stream);
                let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
                if let Some(line) = whole.lines().find(|line| is_it(line)) {
                    return line.to_owned();
                }
            }
            let left = limit.checked_sub(begin.elapsed());
            let is_over = matches!(self.child.try_wait(), Ok(Some(_)))
                && self.readers.iter().all(JoinHandle::is_finished);
            let Some(left) = left.filter(|_| !is_over) else {
                drop(streams);
                panic!("{} did not say {what}:\n{}", self.name, self.last_words());
            };
            let pause = left.min(Duration::from_millis(200));
            streams = self
                .said
                .more
                .wait_timeout(streams, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Everything that it said, standard output first.
    #[must_use]
    pub fn said(&self) -> Vec<u8> {
        self.said.lock().concat()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end at this moment: then there is nobody to be told.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self, limit: Duration) -> Ended {
        let name = self.name.clone();
        let status = until(&format!("the end of {name}"), limit, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        let mut streams = self.said.lock();
        let [stdout, stderr] = streams.clone();
        drop(std::mem::take(&mut *streams));
        *streams = [stdout.clone(), stderr.clone()];
        Ended { code: status.code(), stdout, stderr }
    }

    fn last_words(&self) -> String {
        let streams = self.said.lock();
        let mut words = String::new();
        for (stream, bytes) in ["stdout", "stderr"].iter().zip(streams.iter()) {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<_> = text.lines().collect();
            let _ = writeln!(words, "-- {} {stream}, {} lines", self.name, lines.len());
            for line in &lines[lines.len().saturating_sub(LAST_WORDS)..] {
                let _ = writeln!(words, "   {line}");
            }
        }
        words
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Whoever waited for its end knows what it said.
        if thread::panicking() && !self.readers.is_empty() {
            eprintln!("{}", self.last_words());
        }
        self.kill();
    }
}

fn collect(mut from: impl Read + Send + 'static, stream: usize, said: Arc<Said>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            said.lock()[stream].extend_from_slice(&buffer[..length]);
            said.more.notify_all();
        }
        said.more.notify_all();
    })
}

/// Runs a program to its end.
#[must_use]
pub fn finished(name: &str, limit: Duration, command: &mut Command) -> Ended {
    Program::start(name, command).ended(limit)
}
