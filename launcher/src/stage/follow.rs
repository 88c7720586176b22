//! Follows a container that runs, from the journal's mark to its last frame.
//!
//! One loop waits for what can happen: the spool was read to its end, the container is gone, the stage is to be
//! stopped. The reading ends with the spool's last frame, or when the container is gone and nothing more is in the
//! spool. What it has handled is durable before the mark moves behind it.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::OptionFuture;
use gantry_model::{Phase, Stage as StageKind, StateHeading};
use gantry_protocol::message::{PhaseEvent, PhaseReport};
use gantry_spool::{Body, Event, Frame, Outcome, Reader, SpoolError, Watch};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use super::container::retry;
use super::state::ERRORED;
use super::waits::{self, Awaited};
use super::{MARGIN, Stage, StageError, StageRequest, container_name};
use crate::engine::{Engine, EngineError, Signal};
use crate::journal::{Change, Entry};
use crate::log::{Log, message_id};

/// The spool is looked at this often even if nothing was noticed.
const TICK: Duration = Duration::from_secs(1);
/// A stop is said again this often: a container that was only just started does not hear it yet.
const SAY_AGAIN: Duration = Duration::from_secs(2);

/// The most notes that stand in a log: whoever writes without end into the spool must not fill it.
const MAX_NOTES: usize = 100;
/// How long an interrupted read stage has to end by itself, as its order says too.
pub(super) const READ_GRACE: Duration = Duration::from_secs(30);
/// How long a container that was killed may take to be gone.
const WAY_OUT: Duration = Duration::from_secs(10);

/// What the spool said.
pub(super) struct Followed {
    /// Its last frame; none if the container is gone without one.
    pub outcome: Option<Outcome>,
    /// Why the spool could not be read to its end, if it could not.
    pub damage: Option<String>,
    /// The log, at its end.
    pub log: Log,
}

/// What was said of the spool's content, each thing once: whoever writes without end into the spool must
/// fill neither journal nor log with it.
#[derive(Default)]
struct Told {
    phases: HashSet<(Phase, bool)>,
    is_state_dropped: bool,
    /// How many notes.
    notes: usize,
}

/// What the reader of the spool and the clocks beside it tell each other.
struct Activity {
    reading: watch::Sender<Reading>,
    /// Whether the container does not run any more.
    is_gone: watch::Sender<bool>,
}

/// What the reader is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// There is something to do: then silence is ours, not the phase's.
    Busy,
    /// It waits for more, and has had nothing to do since then.
    QuietSince(Instant),
}

impl Activity {
    fn is_gone(&self) -> bool {
        *self.is_gone.borrow()
    }

    /// Resolves when the container does not run any more.
    async fn gone(&self) {
        let mut is_gone = self.is_gone.subscribe();
        // The sender is `self`'s.
        let _ = is_gone.wait_for(|is_gone| *is_gone).await;
    }

    /// Resolves when nothing has come for so long.
    async fn silent_for(&self, limit: Duration) {
        let mut reading = self.reading.subscribe();
        loop {
            let now = *reading.borrow_and_update();
            let over = async {
                match now {
                    Reading::Busy => std::future::pending().await,
                    Reading::QuietSince(since) => tokio::time::sleep_until(since + limit).await,
                }
            };
            tokio::select! {
                biased;
                _ = reading.changed() => {}
                () = over => return,
            }
        }
    }
}

/// What can happen to a stage whose container was started.
enum Happens {
    /// The spool was read to its end.
    Read(Box<Result<Followed, StageError>>),
    /// The container does not run any more.
    Gone(Result<(), EngineError>),
    /// The stage is to be stopped, for this reason.
    Stop(String),
    /// It cannot be stopped.
    Unstoppable(StageError),
    /// Nobody can reach its container any more.
    Abandoned,
}

impl<E: Engine> Stage<E> {
    /// Follows the container to its end, and makes the ending durable.
    pub(super) async fn follow(&self, entry: &Entry) -> Result<(), StageError> {
        let begin = Instant::now();
        let activity = Activity {
            reading: watch::Sender::new(Reading::QuietSince(begin)),
            is_gone: watch::Sender::new(false),
        };
        let name = container_name(self.attempt);
        // The worker binary ends the stage at its time limit; this is for one that hangs.
        let limit = begin + self.shared.config.run_timeout.get() + MARGIN;
        self.limit.put_off(limit);
        let awaited = Awaited::new(self.shared.engine.name());
        let read = self.read_on(entry.clone(), &activity);
        let ended = retry(&awaited, || self.shared.engine.ended(&name));
        let reason = self.reason_to_stop(&activity, limit);
        let answers = self.answer_states();
        let abandoned = self.abandoned();
        tokio::pin!(read, ended, reason, answers, abandoned);
        // What stops it, once there is a reason to.
        let (mut is_stopped, mut stopping) = (false, std::pin::pin!(OptionFuture::default()));
        let followed = loop {
            let happens = tokio::select! {
                biased;
                read = &mut read => Happens::Read(Box::new(read)),
                reason = &mut reason, if !is_stopped => Happens::Stop(reason),
                Some(error) = &mut stopping, if is_stopped => Happens::Unstoppable(error),
                ended = &mut ended, if !activity.is_gone() => Happens::Gone(ended),
                () = &mut answers => continue,
                () = &mut abandoned => Happens::Abandoned,
            };
            match happens {
                Happens::Read(followed) => break (*followed)?,
                Happens::Gone(ended) => {
                    ended?;
                    activity.is_gone.send_replace(true);
                }
                Happens::Stop(reason) => {
                    let stop = Change::stop(self.attempt, reason.clone());
                    self.shared.journal.write(vec![stop]).await?;
                    tracing::info!(attempt = %self.attempt, reason, "stopping the stage");
                    is_stopped = true;
                    stopping.set(Some(self.interrupt()).into());
                }
                Happens::Unstoppable(error) => return Err(error),
                // A read stage has changed nothing. What still runs of it is removed with the rest.
                Happens::Abandoned => return Err(self.called_off().into()),
            }
        };
        // After the last frame nothing runs in the container but the worker binary, on its way out.
        self.end(followed).await
    }

    /// Resolves when a read stage that was to end has not ended long after its grace: nobody can reach its
    /// container, or that cannot be killed. A write stage is waited for, whatever that takes.
    async fn abandoned(&self) {
        self.limit.over().await;
        tokio::time::sleep(self.grace() + MARGIN + WAY_OUT).await;
    }

    /// How long an interrupted stage has to end by itself.
    fn grace(&self) -> Duration {
        let grace = self.shared.config.stop_grace.get();
        match self.attempt.stage {
            StageKind::Read => grace.min(READ_GRACE),
            StageKind::Write => grace,
        }
    }

    /// Reads the spool to its end. One that this host cannot read now is looked at again, as long as its
    /// container may run and no longer than a stage may take; a stop has its effect meanwhile.
    async fn read_on(&self, mut entry: Entry, activity: &Activity) -> Result<Followed, StageError> {
        let config = &self.shared.config;
        let patience = config.run_timeout.get() + config.stop_grace.get() + MARGIN;
        let over = Instant::now() + patience;
        let mut is_said = false;
        loop {
            let error = match self.read(&entry, activity).await {
                Err(error) if error.is_of_spool() => error,
                other => return other,
            };
            if !std::mem::replace(&mut is_said, true) {
                let error = crate::explain::sentence(&error);
                tracing::error!(attempt = %self.attempt, error, "the spool cannot be read now");
            }
            let is_gone = activity.is_gone();
            if Instant::now() >= over || (is_gone && self.request() == StageRequest::Stop) {
                let damage = self.give_up(&error, activity).await?;
                let log = self.log(&self.entry().unwrap_or(entry));
                return Ok(Followed { outcome: None, damage: Some(damage), log });
            }
            tokio::time::sleep(TICK).await;
            entry = self.entry().unwrap_or(entry);
        }
    }

    async fn read(&self, entry: &Entry, activity: &Activity) -> Result<Followed, StageError> {
        let spool = &self.directories.spool;
        let watch = match Watch::new(spool).and_then(awaitable) {
            Ok(watch) => Some(watch),
            // The host has only so many for each user. Then the spool is looked at now and then.
            Err(error) => {
                tracing::warn!(attempt = %self.attempt, %error, "the spool cannot be watched");
                None
            }
        };
        let mut log = self.log(entry);
        let mut reader = Reader::open(spool, log.position())?;
        let mut kept = log.position();
        let mut told = Told::default();
        let mut active = Instant::now();
        loop {
            activity.reading.send_replace(Reading::Busy);
            // Asked before reading: what a container wrote before it ended is then surely seen.
            let is_gone = activity.is_gone();
            loop {
                let frame = match reader.next() {
                    Ok(frame) => frame,
                    Err(error) if is_damage(&error) => {
                        let damage = self.give_up(&error.into(), activity).await?;
                        return Ok(Followed { outcome: None, damage: Some(damage), log });
                    }
                    Err(error) => return Err(error.into()),
                };
                let is_last = frame.is_none();
                if let Some(frame) = frame {
                    if let Some(outcome) = self.take(&mut log, &mut told, frame).await? {
                        return Ok(Followed { outcome: Some(outcome), damage: None, log });
                    }
                    active = Instant::now();
                }
                if log.due().is_some_and(|due| due <= Instant::now()) {
                    log.cut(Vec::new()).await?;
                    active = Instant::now();
                }
                // However much there is to read: what is stored must not take the writer's room.
                if log.position().segment > kept.segment {
                    kept = log.position();
                    reader.remove_before(kept)?;
                }
                if is_last {
                    break;
                }
            }
            if is_gone {
                return Ok(Followed { outcome: None, damage: None, log });
            }
            activity.reading.send_replace(Reading::QuietSince(active));
            self.more(watch.as_ref(), &log, activity).await?;
        }
    }

    /// What stands in the spool cannot be read any further. What still runs is stopped as ever: it may
    /// be in the middle of a change. A later version of the format another launcher may read, so that is
    /// left to its end.
    async fn give_up(&self, error: &StageError, activity: &Activity) -> Result<String, StageError> {
        let why = crate::explain::sentence(error);
        tracing::error!(attempt = %self.attempt, error = why, "the spool cannot be read any further");
        let may_go_on = matches!(error, StageError::Spool(SpoolError::Version { .. }));
        tokio::select! {
            () = activity.gone() => Ok(why),
            error = self.interrupt(), if !may_go_on => Err(error),
        }
    }

    /// Waits until there may be more to read or something is due.
    async fn more(
        &self,
        watch: Option<&AsyncFd<Watch>>,
        log: &Log,
        activity: &Activity,
    ) -> Result<(), StageError> {
        let tick = Instant::now() + TICK;
        let until = log.due().map_or(tick, |due| due.min(tick));
        tokio::select! {
            changed = changed(watch) => changed.map_err(self.at())?,
            () = activity.gone() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        Ok(())
    }

    /// Handles one frame. Gives the outcome when it was the last one.
    async fn take(
        &self,
        log: &mut Log,
        told: &mut Told,
        frame: Frame,
    ) -> Result<Option<Outcome>, StageError> {
        let event = match frame.body {
            Body::Output(output) => {
                log.output(frame.position, frame.next, &output).await?;
                return Ok(None);
            }
            Body::Event(event) => event,
        };
        match event {
            Event::PhaseBegan { phase } => {
                self.shared.complaints.went_well();
                let is_new = told.phases.insert((phase, true));
                let report = is_new.then(|| self.report(phase, PhaseEvent::Began));
                let report = report.into_iter().collect();
                log.end_section(Some(frame.next), Some(phase.into()), report).await?;
            }
            Event::PhaseEnded { phase, code, duration_ms, .. } => {
                let event = PhaseEvent::Ended { code, duration_ms };
                let is_new = told.phases.insert((phase, false));
                let report = is_new.then(|| self.report(phase, event));
                let report = report.into_iter().collect();
                log.end_section(Some(frame.next), log.section(), report).await?;
            }
            Event::State { file, .. } | Event::Errored { file } if self.only_reads_state() => {
                if !std::mem::replace(&mut told.is_state_dropped, true) {
                    log.record_gap(frame.next, dropped(&file)).await?;
                }
            }
            Event::State { number, serial, lineage, file } => {
                let said = StateHeading { serial, lineage };
                self.keep_state(number, Some(said), &file).await?;
            }
            // A state version whose write the tool gave up.
            Event::Errored { file } => self.keep_state(ERRORED, None, &file).await?,
            Event::Uncollected { reason } => self.leave(&self.secrets.hide(&reason)).await?,
            Event::Truncated { bytes } => {
                let line = format!(
                    "{bytes} bytes of output were dropped: this host's disk was full (launcher: free space under GANTRY_STATE_DIR)"
                );
                log.record_gap(frame.next, line).await?;
            }
            Event::Note { text } => {
                let shown = self.secrets.hide(&text);
                tracing::info!(attempt = %self.attempt, text = shown, "the worker binary says");
                told.notes += 1;
                if told.notes <= MAX_NOTES {
                    // It comes between two sessions, so no secret is half said here.
                    log.record_gap(frame.next, text).await?;
                }
            }
            Event::Stopping { reason } => {
                tracing::info!(attempt = %self.attempt, ?reason, "the stage is being stopped");
            }
            // Their files have fixed names and are looked for at the end.
            Event::Plan { .. } | Event::Outputs { .. } | Event::Environment { .. } => {}
            Event::Ended { outcome } => {
                let section = log.section();
                // The mark stays before this frame until the ending is durable.
                log.end_section(Some(frame.position), section, Vec::new()).await?;
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    fn report(&self, phase: Phase, event: PhaseEvent) -> Change {
        let report = PhaseReport { attempt: self.attempt, phase, event };
        Change::Queue { id: message_id(), message: report.into() }
    }

    /// Stops what runs in the container, and ends it when its grace is long over. Ends only with an error.
    async fn interrupt(&self) -> StageError {
        let name = container_name(self.attempt);
        let engine = &self.shared.engine;
        let awaited = Awaited::new(self.shared.engine.name());
        if let Err(error) = retry(&awaited, || engine.signal(&name, Signal::Stop)).await {
            return error.into();
        }
        // The worker binary heeds the first that it hears, and keeps the grace itself; this is for one
        // that hangs.
        let over = Instant::now() + self.grace() + MARGIN;
        while Instant::now() < over {
            tokio::time::sleep(SAY_AGAIN).await;
            match engine.signal(&name, Signal::Stop).await {
                Err(error) if !error.is_passing() => return error.into(),
                Ok(()) | Err(_) => {}
            }
        }
        tracing::warn!(attempt = %self.attempt, "the stage did not end within its grace");
        if let Err(error) = retry(&awaited, || engine.signal(&name, Signal::Kill)).await {
            return error.into();
        }
        std::future::pending().await
    }

    async fn reason_to_stop(&self, activity: &Activity, limit: Instant) -> String {
        let mut request = self.control.request.clone();
        let asked = async {
            if request.wait_for(|request| *request == StageRequest::Stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = asked => {
                let reason = self.entry().and_then(|entry| entry.stop);
                reason.unwrap_or_else(|| "asked to stop".to_owned())
            }
            () = activity.silent_for(self.shared.config.logs_timeout.get()) => {
                let limit = self.shared.config.logs_timeout;
                format!("no output for {limit} (SPACELIFT_LAUNCHER_LOGS_TIMEOUT)")
            }
            () = tokio::time::sleep_until(limit) => {
                waits::too_long(&self.shared.config)
            }
            low = self.low_disk() => low.to_string(),
            over = self.overrun() => over.to_string(),
        }
    }
}

/// What the log says of a state that a stage wrote and had no right to write.
fn dropped(file: &gantry_spool::SideFile) -> String {
    format!(
        "{} ({} bytes), which this stage left, is dropped: a read stage may not change the stack's state, which stays as it was; commands that change it belong in a task",
        file.name, file.size
    )
}

/// Resolves when something in the spool may have changed. Cancel safe.
async fn changed(watch: Option<&AsyncFd<Watch>>) -> std::io::Result<()> {
    let Some(watch) = watch else { return std::future::pending().await };
    watch.readable().await?.clear_ready();
    watch.get_ref().drain()
}

/// Whether it is the spool's content that is wrong, and not this host.
const fn is_damage(error: &SpoolError) -> bool {
    match error {
        SpoolError::Corrupt { .. }
        | SpoolError::Version { .. }
        | SpoolError::Missing { .. }
        | SpoolError::NotRegular { .. } => true,
        SpoolError::Io { .. }
        | SpoolError::Full
        | SpoolError::TooLarge { .. }
        | SpoolError::EventTooLarge { .. }
        | SpoolError::QuotaTooSmall { .. } => false,
    }
}

#[expect(
    deprecated,
    reason = "the replacement is unsafe; a Watch owns its descriptor and never closes or changes it while it lives"
)]
fn awaitable(watch: Watch) -> std::io::Result<AsyncFd<Watch>> {
    AsyncFd::new(watch)
}
