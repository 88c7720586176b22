//! Processes that are waited for with a time limit and stopped without a race.
//!
//! A [`Process`] is held by a pidfd: a signal can never hit a stranger that inherited the number, and waiting is an
//! event, not a poll.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::fd::OwnedFd,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::undo::Undo;

/// How long a program that only tells us something has to end.
const GRACE: Duration = Duration::from_secs(2);

/// A child of ours. Clones are the same child.
#[derive(Clone)]
pub struct Process {
    held: Arc<Held>,
}

struct Held {
    name: String,
    pid: u32,
    pidfd: OwnedFd,
    child: Mutex<Child>,
}

impl Process {
    /// Starts a command. Its standard input is empty; the rest of it is as the command says.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name} ({program})"))?;
        Self::hold(name, child)
    }

    /// Starts a command whose standard output is piped, and gives that too.
    pub fn spawn_reading(name: &str, command: &mut Command) -> Result<(Self, ChildStdout)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("a piped standard output is there")?;
        Ok((Self::hold(name, child)?, stdout))
    }

    fn hold(name: &str, child: Child) -> Result<Self> {
        let pidfd =
            pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).with_context(|| {
                format!("cannot hold {name} by a pidfd: Linux 5.3 or later is needed")
            })?;
        let held = Held { name: name.to_owned(), pid: child.id(), pidfd, child: Mutex::new(child) };
        Ok(Self { held: Arc::new(held) })
    }

    /// What we call it.
    pub fn name(&self) -> &str {
        &self.held.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.held.pid
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.held.pidfd
    }

    /// Waits for its end, however long that takes.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_for(Duration::from_hours(1))? {
                return Ok(status);
            }
        }
    }

    /// Waits for its end; `None` if it has not come within the limit.
    pub fn wait_for(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.held.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot wait for {}", self.name()));
                }
            }
        }
        let mut child = self.held.child.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(child.wait().with_context(|| format!("cannot wait for {}", self.name()))?))
    }

    /// Sends a signal; a process that has ended is left alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.held.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal {}", self.name())),
        }
    }

    /// [`Self::stop`], to be called later.
    pub fn stopping(&self, grace: Duration) -> impl FnOnce() -> Result<()> + Send + use<> {
        let process = self.clone();
        move || process.stop(grace).with_context(|| process.name().to_owned())
    }

    /// SIGTERM, then after `grace` SIGKILL. Returns when it has ended.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait_for(grace)?.is_none() {
            self.signal(Signal::KILL)?;
            self.wait()?;
        }
        Ok(())
    }
}

/// What a short command wrote.
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The end of what it wrote: of its standard error, or else of its standard output.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        });
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// Runs a short command and gathers what it writes. One that outlives the limit is killed, and that is an error.
pub fn output(name: &str, limit: Duration, command: &mut Command) -> Result<Output> {
    let mut child = spawn_piped(name, command)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let process = Process::hold(name, child)?;
    let stdout = thread::spawn(move || drain(stdout));
    let stderr = thread::spawn(move || drain(stderr));
    let status = finish(&process, limit)?;
    Ok(Output { success: status.success(), stdout: joined(stdout)?, stderr: joined(stderr)? })
}

/// Runs a short command within a time limit and gives its standard output; its standard error is in the error.
pub fn read(name: &str, limit: Duration, command: &mut Command) -> Result<String> {
    let output = output(name, limit, command)?;
    if !output.success {
        bail!("{name} failed: {}", output.last_words());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{name} wrote something that is not UTF-8"))
}

/// Runs a command, hands every line of both its outputs to `each` as it comes, and gives its exit status. The lines
/// of the two outputs come in the order in which they arrive here. After a signal to us it ends too.
pub fn each_line(
    undo: &Undo,
    name: &str,
    limit: Duration,
    command: &mut Command,
    mut each: impl FnMut(Stream, &str),
) -> Result<ExitStatus> {
    let start = || {
        let mut child = spawn_piped(name, command)?;
        let outputs = (child.stdout.take(), child.stderr.take());
        Ok((Process::hold(name, child)?, outputs))
    };
    let ((process, (stdout, stderr)), ticket) =
        undo.make("stop what was started", start, |(process, _)| process.stopping(GRACE))?;
    let (sender, lines) = std::sync::mpsc::sync_channel(256);
    let other = sender.clone();
    thread::spawn(move || forward(stdout, Stream::Out, &sender));
    thread::spawn(move || forward(stderr, Stream::Err, &other));
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((stream, line)) => each(stream, &line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                process.stop(GRACE)?;
                undo.done(ticket);
                bail!("{name} did not end within {} s", limit.as_secs());
            }
        }
    }
    let status = finish(&process, Duration::from_secs(10));
    undo.done(ticket);
    status
}

/// Which of its outputs a program wrote to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

fn spawn_piped(name: &str, command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name} ({program})"))
}

fn finish(process: &Process, limit: Duration) -> Result<ExitStatus> {
    if let Some(status) = process.wait_for(limit)? {
        return Ok(status);
    }
    process.signal(Signal::KILL)?;
    process.wait()?;
    bail!("{} did not end within {} s", process.name(), limit.as_secs())
}

fn drain(from: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut all)?;
    }
    Ok(all)
}

fn joined(reader: thread::JoinHandle<io::Result<Vec<u8>>>) -> Result<Vec<u8>> {
    match reader.join() {
        Ok(read) => read.context("cannot read a program's output"),
        Err(_) => bail!("the reader of a program's output panicked"),
    }
}

fn forward(
    from: Option<impl Read>,
    stream: Stream,
    to: &std::sync::mpsc::SyncSender<(Stream, String)>,
) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if to.send((stream, text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
            return;
        }
        line.clear();
    }
}

/// For `poll`.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::say::Say;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn gathers_both_outputs_and_the_exit_code() {
        let output =
            output("a shell", Duration::from_mins(1), &mut sh("echo out; echo err >&2; exit 3"))
                .unwrap();
        assert!(!output.success);
        assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    }

    #[test]
    fn a_command_that_outlives_its_limit_is_killed_and_named() {
        let error = output("the sleeper", Duration::from_millis(50), &mut sh("exec sleep 600"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("the sleeper did not end"), "{error}");
    }

    #[test]
    fn lines_come_in_order_and_an_unfinished_last_line_comes_too() {
        let mut seen = Vec::new();
        let status = each_line(
            &Undo::new(Say::to_stderr()),
            "a shell",
            Duration::from_mins(1),
            &mut sh("echo one; printf two"),
            |_, line| {
                seen.push(line.to_owned());
            },
        );
        assert!(status.unwrap().success());
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed_after_its_grace() {
        let process = Process::spawn("stubborn", &mut sh("trap '' TERM; exec sleep 600")).unwrap();
        process.stop(Duration::from_millis(50)).unwrap();
        assert!(!process.wait().unwrap().success());
        process.signal(Signal::TERM).unwrap();
    }
}
