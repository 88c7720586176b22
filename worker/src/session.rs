//! One shell session: started, watched, interrupted if need be, and cleaned up after.
//!
//! When a session is over, no process of it is left, all that it said is in the spool, and nobody but
//! the worker binary runs in the container.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_model::Phase;
use gantry_spool::order::Interrupt;
use gantry_spool::{Event, SideFileWriter};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe::Receiver;

use crate::environment::{Environment, EnvironmentSlot};
use crate::flow::{self, Progress, Reported};
use crate::marks::Marks;
use crate::memory::FirstToGo;
use crate::reaper::{Ending, Reaper};
use crate::script::MAX_SCRIPT;
use crate::spool::Spool;
use crate::stop::{Alarm, Stopping, Stops};
use crate::users::User;

/// How long processes that outlive the shell may go on writing what they have, such as `tee`.
const LINGER: Duration = Duration::from_secs(1);

/// What every session of a stage needs.
pub(crate) struct Host {
    pub(crate) spool: Spool,
    pub(crate) reaper: Reaper,
    pub(crate) stops: Stops,
    pub(crate) slot: Option<EnvironmentSlot>,
    pub(crate) shell: String,
    pub(crate) directory: String,
    pub(crate) user: User,
    pub(crate) interrupt: Interrupt,
}

/// What one session is.
pub(crate) struct Session<'a> {
    pub(crate) phase: Phase,
    pub(crate) script: &'a str,
    pub(crate) environment: &'a Environment,
    /// Takes standard output instead of the log.
    pub(crate) capture: Option<&'a mut SideFileWriter>,
    /// Kills the session, beside the grace after a stop.
    pub(crate) limit: Option<Alarm>,
}

/// What came of it.
pub(crate) struct Finished {
    pub(crate) ending: Ending,
    /// What the session leaves to the next one, if it got to saying so.
    pub(crate) environment: Option<Environment>,
    /// How far it got; none if it had nowhere to report it.
    pub(crate) marks: Option<Marks>,
    pub(crate) captured: io::Result<()>,
}

struct Started {
    pid: Pid,
    output: Receiver,
    environment: Option<Receiver>,
    captured: Option<Receiver>,
}

impl Host {
    /// Runs a session to its end.
    pub(crate) async fn run(&mut self, session: Session<'_>) -> io::Result<Finished> {
        let started = self.start(&session)?;
        let progress = Progress::default();
        let spool = self.spool.clone();
        let flows = flows(
            started.output,
            started.environment,
            started.captured,
            &session.phase,
            &spool,
            &progress,
            session.capture,
        );
        tokio::pin!(flows);
        let mut watch =
            Watch { pid: started.pid, phase: session.phase, killed: false, progress: &progress };

        let mut flowed = None;
        let ending = loop {
            tokio::select! {
                biased;
                stopping = self.stops.next(), if !watch.killed => self.heed(stopping, &mut watch),
                () = rings(session.limit.as_ref()), if !watch.killed => watch.kill(),
                ending = self.reaper.ended(started.pid) => break ending,
                result = &mut flows, if flowed.is_none() => flowed = Some(result),
            }
        };

        // A shell that died of the interrupt may leave a tool that is still at work.
        let mut orphaned = self.stops.reason().is_some() && ending.signal.is_some();
        while orphaned && !watch.killed {
            tokio::select! {
                biased;
                stopping = self.stops.next() => self.heed(stopping, &mut watch),
                () = self.reaper.group_gone(started.pid) => orphaned = false,
                result = &mut flows, if flowed.is_none() => flowed = Some(result),
            }
        }
        while flowed.is_none() && !watch.killed {
            let linger = Alarm::after(LINGER).ok();
            tokio::select! {
                biased;
                result = &mut flows => flowed = Some(result),
                stopping = self.stops.next() => self.heed(stopping, &mut watch),
                // Nobody is late who is being held back.
                () = rings(linger.as_ref()) => if !progress.is_held.load(Ordering::Relaxed) { break },
            }
        }
        let alone = self.reaper.kill_all(started.pid).await;
        if flowed.is_none() {
            flowed = self.drain(&mut flows, &mut watch, alone).await;
        }
        let (reported, captured) =
            flowed.unwrap_or_else(|| (None, Err(io::ErrorKind::TimedOut.into())));
        let (marks, environment) = match reported {
            Some(Reported { marks, environment }) => (Some(marks), environment),
            None => (None, None),
        };
        Ok(Finished { ending, environment, marks, captured })
    }

    /// Reads the rest, now that nobody adds to it. Room for it may be long in coming.
    async fn drain<F: Future + Unpin>(
        &mut self,
        flows: &mut F,
        watch: &mut Watch<'_>,
        alone: bool,
    ) -> Option<F::Output> {
        let survivors = Alarm::after(LINGER).ok().filter(|_| !alone);
        loop {
            tokio::select! {
                biased;
                result = &mut *flows => return Some(result),
                stopping = self.stops.next(), if !watch.killed => self.heed(stopping, watch),
                () = rings(survivors.as_ref()) => return None,
            }
        }
    }

    fn heed(&self, stopping: Stopping, watch: &mut Watch<'_>) {
        match stopping {
            Stopping::Requested(reason) => {
                self.spool.event(Some(watch.phase), Event::Stopping { reason });
                let signal = match self.interrupt {
                    Interrupt::Sigint => Signal::INT,
                    Interrupt::Sigterm => Signal::TERM,
                };
                // Once to each process of the group; see `script` for what the shell makes of it.
                let _ = kill_process_group(watch.pid, signal);
            }
            Stopping::GraceOver => watch.kill(),
        }
    }

    fn start(&mut self, session: &Session<'_>) -> io::Result<Started> {
        if session.script.len() > MAX_SCRIPT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "command and hooks together are longer than 128 KiB: move some into a file",
            ));
        }
        let (output, output_end) = flow::pipe()?;
        let mut command = Command::new(&self.shell);
        command
            .arg("-c")
            .arg(session.script)
            .current_dir(&self.directory)
            // With a user to change to, all further groups are dropped too.
            .uid(self.user.uid)
            .gid(self.user.gid)
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(output_end.try_clone()?);
        session.environment.apply(&mut command);
        let captured = if session.capture.is_some() {
            let (captured, end) = flow::pipe()?;
            command.stdout(end);
            Some(captured)
        } else {
            command.stdout(output_end);
            None
        };
        let slot = if session.capture.is_none() { self.slot.as_mut() } else { None };
        let (pid, environment) = match slot {
            Some(slot) => {
                let (environment, end) = flow::pipe()?;
                (spawn_with(slot, &end, &mut command)?, Some(environment))
            }
            None => (spawn(&mut command)?, None),
        };
        self.reaper.adopt(pid);
        Ok(Started { pid, output, environment, captured })
    }
}

/// What is known about a running session.
struct Watch<'a> {
    pid: Pid,
    phase: Phase,
    killed: bool,
    progress: &'a Progress,
}

impl Watch<'_> {
    fn kill(&mut self) {
        self.killed = true;
        self.progress.force.store(true, Ordering::Relaxed);
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

fn spawn_with(
    slot: &mut EnvironmentSlot,
    pipe: &OwnedFd,
    command: &mut Command,
) -> io::Result<Pid> {
    slot.fill(pipe)?;
    let pid = spawn(command);
    slot.empty()?;
    pid
}

/// The handle of the child is dropped: [`Reaper`] waits for it.
fn spawn(command: &mut Command) -> io::Result<Pid> {
    let _first = FirstToGo::begin();
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

async fn rings(alarm: Option<&Alarm>) {
    match alarm {
        Some(alarm) => alarm.rings().await,
        None => std::future::pending().await,
    }
}

type Flowed = (Option<Reported>, io::Result<()>);

async fn flows(
    output: Receiver,
    environment: Option<Receiver>,
    captured: Option<Receiver>,
    phase: &Phase,
    spool: &Spool,
    progress: &Progress,
    file: Option<&mut SideFileWriter>,
) -> Flowed {
    let environment = async {
        match environment {
            Some(pipe) => Some(flow::reports(pipe).await),
            None => None,
        }
    };
    let captured = async {
        match (captured, file) {
            (Some(pipe), Some(file)) => flow::capture(pipe, file).await,
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    };
    let ((), environment, captured) =
        tokio::join!(flow::output(output, spool, *phase, progress), environment, captured);
    (environment, captured)
}
