//! From the order to the last frame.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;
use std::time::Duration;

use gantry_model::{Phase, RunState};
use gantry_spool::order::{
    FILE, InvalidOrder, MAX_OUTPUTS, MAX_PLAN, MAX_SIZE, Order, PhaseOrder, exit,
};
use gantry_spool::{
    BegunError, BootTime, Event, MAX_CARRIED, Outcome, SideFile, SideName, SpoolError, StopReason,
    has_begun, make_begun,
};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::collect::Collector;
use crate::environment::{Environment, EnvironmentSlot};
use crate::keep::{self, NotKept};
use crate::memory::Account;
use crate::own::{self, Owner};
use crate::places::Places;
use crate::reaper::Reaper;
use crate::script;
use crate::session::{Finished, Host, Session};
use crate::shell;
use crate::spool::{Spool, shorten};
use crate::state::StateServer;
use crate::stop::{Alarm, Stops};
use crate::users::{self, User};

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this stage was begun before; its phases are not run again")]
    BegunBefore,
    #[error("cannot keep the launcher's files from the phases")]
    NotKept(#[source] NotKept),
    #[error("cannot read the order")]
    Unreadable(#[source] io::Error),
    #[error("the order is larger than 4 MiB")]
    TooLarge,
    #[error(transparent)]
    Invalid(InvalidOrder),
    #[error("cannot use the spool")]
    NoSpool(#[source] SpoolError),
    #[error("cannot watch signals and time")]
    NoSignals(#[source] io::Error),
}

impl Refusal {
    const fn code(&self) -> u8 {
        match self {
            Self::BegunBefore => exit::BEGUN_BEFORE,
            Self::NotKept(_)
            | Self::Unreadable(_)
            | Self::TooLarge
            | Self::Invalid(_)
            | Self::NoSignals(_) => exit::NO_ORDER,
            Self::NoSpool(_) => exit::NO_SPOOL,
        }
    }
}

impl From<BegunError> for Refusal {
    fn from(error: BegunError) -> Self {
        match error {
            BegunError::Already => Self::BegunBefore,
            BegunError::Unusable(source) => Self::NoSpool(source),
        }
    }
}

/// Runs one stage. `image` is the environment that the image sets; the result is the exit code.
pub async fn run(
    places: &Places,
    image: Vec<(OsString, OsString)>,
    slot: Option<EnvironmentSlot>,
) -> u8 {
    let stage = match Stage::begin(places, image, slot) {
        Ok(stage) => stage,
        Err(refusal) => {
            eprintln!("gantry-worker: {}", sentence(&refusal));
            return refusal.code();
        }
    };
    let spool = stage.host.spool.clone();
    let outcome = stage.run(&places.order).await;
    spool.event(None, Event::Ended { outcome });
    match spool.settle().await {
        Ok(()) => exit::DONE,
        Err(error) => {
            eprintln!("gantry-worker: cannot say how the stage ended: {error}");
            exit::NO_SPOOL
        }
    }
}

/// A stage that was begun by this process.
struct Stage {
    order: Order,
    /// The one that ran last, or would have run first.
    last_phase: Phase,
    environment: Environment,
    /// What the first phase begins with.
    began_with: Environment,
    /// Whose workspace it is, once it was lent to the user of the phases.
    lender: Option<Owner>,
    /// Why nothing may run all the same.
    refusal: Option<String>,
    host: Host,
}

impl Stage {
    /// Up to the begun mark nothing is changed; with the mark, nobody else will ever come here.
    fn begin(
        places: &Places,
        image: Vec<(OsString, OsString)>,
        slot: Option<EnvironmentSlot>,
    ) -> Result<Self, Refusal> {
        keep::close(places).map_err(Refusal::NotKept)?;
        if has_begun(&places.spool).map_err(Refusal::NoSpool)? {
            return Err(Refusal::BegunBefore);
        }
        let order = read_order(&places.order.join(FILE))?;
        let (user, refusal) = match user(places, &order) {
            Ok(user) => (user, None),
            // Said in the spool, which somebody reads.
            Err(refusal) => (User::default(), Some(refusal)),
        };
        let grace = Duration::from_millis(order.grace_ms);
        let stops = Stops::new(Duration::from_millis(order.run_timeout_ms), grace)
            .map_err(Refusal::NoSignals)?;
        let reaper = Reaper::new().map_err(Refusal::NoSignals)?;
        let _begun = make_begun(&places.spool)?;
        let spool = Spool::open(&places.spool, order.spool).map_err(Refusal::NoSpool)?;
        let environment =
            Environment::of_order(image, &order, &user, &users::home_of_root(&places.etc));
        let last_phase = order.phases.first().map_or(Phase::Initialize, |first| first.phase);
        let host = Host {
            spool,
            reaper,
            stops,
            slot,
            shell: order.shell.clone(),
            directory: order.directory.clone(),
            user,
            interrupt: order.interrupt,
        };
        let began_with = Environment::default();
        Ok(Self { order, last_phase, environment, began_with, lender: None, refusal, host })
    }

    async fn run(mut self, order_dir: &Path) -> Outcome {
        let mut tasks = JoinSet::new();
        let ready = match self.refusal.take() {
            Some(refusal) => Err(refusal),
            None => self.prepare(order_dir, &mut tasks).await,
        };
        if let Err(reason) = ready {
            // Not even the user's last words: what could not be prepared may be what keeps secrets in.
            self.return_workspace();
            return Outcome::Failed {
                phase: None,
                code: None,
                signal: None,
                reason: shorten(reason),
            };
        }
        let outcome = self.phases().await;
        if self.order.keeps_environment {
            self.keep_environment();
        }
        self.after_run(&outcome).await;
        self.return_workspace();
        outcome
    }

    /// Everything between the mark and the first phase.
    async fn prepare(&mut self, order_dir: &Path, tasks: &mut JoinSet<()>) -> Result<(), String> {
        let state = match &self.order.state {
            Some(state) => {
                let server = StateServer::new(self.host.spool.clone(), state, order_dir).map_err(
                    |error| format!("cannot read the state that the order names: {error}"),
                )?;
                Some(server)
            }
            None => None,
        };
        std::fs::remove_file(order_dir.join(FILE))
            .map_err(|error| format!("cannot remove the order, which holds secrets: {error}"))?;
        self.lend_workspace().map_err(|error| {
            format!("cannot give the workspace to the user of the phases: {error}")
        })?;
        if let Some(server) = state {
            let serving = server.listen().await;
            let (server, variables) =
                serving.map_err(|error| format!("cannot answer for the state: {error}"))?;
            for (name, value) in &variables {
                self.environment.set(name, value);
            }
            tasks.spawn(server);
        }
        self.began_with = self.environment.clone();
        Ok(())
    }

    fn lend_workspace(&mut self) -> io::Result<()> {
        let workspace = Path::new(&self.order.workspace);
        self.lender = Some(own::owner_of(workspace)?);
        let User { uid, gid, .. } = self.host.user;
        own::give(workspace, Owner { uid, gid })
    }

    /// A launcher that is not root could neither pack nor remove what belongs to the user of the phases.
    fn return_workspace(&self) {
        let Some(lender) = self.lender.filter(|lender| !lender.is_root()) else { return };
        if let Err(error) = own::give(Path::new(&self.order.workspace), lender) {
            let note = format!("the workspace could not be given back to the launcher: {error}");
            self.host.spool.note(Some(self.last_phase), note);
        }
    }

    async fn phases(&mut self) -> Outcome {
        let Order { directory, left_state, .. } = &self.order;
        let collector = |name: &String| Collector::new(directory, name, &self.host.user);
        let mut collector = left_state.as_ref().map(collector);
        let phases = std::mem::take(&mut self.order.phases);
        let mut has_changes = None;
        for (index, phase) in phases.iter().enumerate() {
            if let Some(reason) = self.stopped_between().await {
                return Outcome::Stopped { phase: None, reason };
            }
            let ended = self.phase(phase).await;
            if let Some(collector) = &mut collector {
                self.collect(phase.phase, collector);
            }
            match ended {
                Ok(said) => has_changes = said.or(has_changes),
                Err(failed) => return failed,
            }
            self.show(phase.phase).await;
            // What was asked to stop and went to its end all the same, succeeded.
            if let Some(reason) = self.host.stops.reason().filter(|_| index + 1 < phases.len()) {
                return Outcome::Stopped { phase: Some(phase.phase), reason };
            }
        }
        has_changes.map_or(Outcome::Succeeded, |has_changes| Outcome::Planned { has_changes })
    }

    async fn stopped_between(&mut self) -> Option<StopReason> {
        let reason = self.host.stops.newly_requested().await?;
        self.host.spool.event(None, Event::Stopping { reason });
        Some(reason)
    }

    /// Runs a phase. Tells whether there is something to apply, if its tool says so.
    async fn phase(&mut self, order: &PhaseOrder) -> Result<Option<bool>, Outcome> {
        let phase = order.phase;
        let slot = self.host.slot.as_ref().map(EnvironmentSlot::number);
        let script = script::of_phase(order, self.order.interrupt, slot);
        self.last_phase = phase;
        let began = BootTime::now();
        let memory = Account::now();
        self.host.spool.event(Some(phase), Event::PhaseBegan { phase });
        let result = self.session(phase, &script, None).await;
        let ending = result.as_ref().ok().map(|finished| finished.ending);
        let (code, signal) = ending.map_or((None, None), |ending| (ending.code, ending.signal));
        let duration = BootTime::now().since(began).as_millis();
        let duration_ms = u64::try_from(duration).unwrap_or(u64::MAX);
        self.host.spool.event(Some(phase), Event::PhaseEnded { phase, code, signal, duration_ms });

        let failed = |reason| {
            Err(Outcome::Failed { phase: Some(phase), code, signal, reason: shorten(reason) })
        };
        let finished = match result {
            Ok(finished) => finished,
            Err(error) => {
                return failed(shell::why_not(&self.host.shell, &self.host.directory, &error));
            }
        };
        // A phase that failed does not say what it passed on, and may have failed for that.
        let names = self.environment.not_passed_on(&Environment::default()).join(", ");
        if finished.environment.is_none() && !names.is_empty() && !finished.ending.is_success() {
            let note = format!(
                "{names}: most shells pass on no variable with such a name, so the tool may not have seen it: use letters, digits and _ alone, or give the value in a .tfvars file"
            );
            self.host.spool.note(Some(phase), note);
        }
        if let Some(environment) = finished.environment {
            let lost = self.environment.not_passed_on(&environment).join(", ");
            if !lost.is_empty() {
                let note = format!(
                    "{lost}: the shell passes on no variable with such a name, so the tool did not see it: use letters, digits and _ alone, or give the value in a .tfvars file"
                );
                self.host.spool.note(Some(phase), note);
            }
            self.environment = environment;
        }
        let failure = match finished.marks {
            Some(marks) => marks.failure(order, finished.ending),
            None if finished.ending.is_success() => None,
            None => Some(format!("the phase ended with {}", finished.ending.describe())),
        };
        let killed = Account::now().killed_since(memory);
        let Some(failure) = failure else {
            if let Some(killed) = killed {
                self.host.spool.note(Some(phase), killed);
            }
            let tool = order.tool.as_ref();
            return Ok(tool.zip(finished.marks).and_then(|(tool, marks)| marks.has_changes(tool)));
        };
        match (self.host.stops.reason(), killed) {
            (Some(reason), _) => Err(Outcome::Stopped { phase: Some(phase), reason }),
            (None, Some(killed)) => failed(format!("{failure}; {killed}")),
            (None, None) => failed(failure),
        }
    }

    async fn session(
        &mut self,
        phase: Phase,
        script: &str,
        limit: Option<Alarm>,
    ) -> io::Result<Finished> {
        let environment = &self.environment;
        self.host.run(Session { phase, script, environment, capture: None, limit }).await
    }

    fn collect(&self, phase: Phase, collector: &mut Collector) {
        match collector.collect(&self.host.spool) {
            Ok(None) => {}
            Ok(Some(file)) => self.host.spool.event(Some(phase), Event::Errored { file }),
            Err(error) => {
                let reason = shorten(format!("{} could not be copied: {error}", collector.name()));
                self.host.spool.event(Some(phase), Event::Uncollected { reason });
            }
        }
    }

    /// Keeps the plan or the outputs as JSON. A stage does not fail for want of them.
    async fn show(&mut self, phase: Phase) {
        let (command, name, max, what) = match phase {
            Phase::Plan => {
                let missed = "the plan could not be kept as JSON, so its changes are not counted";
                (self.order.show_plan.clone(), SideName::Plan, MAX_PLAN, missed)
            }
            Phase::Apply => {
                let missed = "the outputs could not be kept as JSON, so they are not shown";
                (self.order.show_outputs.clone(), SideName::Outputs, MAX_OUTPUTS, missed)
            }
            Phase::Initialize | Phase::Perform | Phase::Destroy => return,
        };
        let Some(command) = command else { return };
        let event = match self.shown(phase, &command, (name, max)).await {
            Ok(file) if name == SideName::Plan => Event::Plan { file },
            Ok(file) => Event::Outputs { file },
            Err(reason) => {
                let note = format!("{what}: {reason}");
                return self.host.spool.note(Some(phase), note);
            }
        };
        self.host.spool.event(Some(phase), event);
    }

    async fn shown(
        &mut self,
        phase: Phase,
        command: &str,
        (name, max): (SideName, u64),
    ) -> Result<SideFile, String> {
        let mut file = self.host.spool.side_file(max).map_err(|error| error.to_string())?;
        let script = script::chain([command].into_iter(), self.order.interrupt, None);
        let environment = &self.environment;
        let capture = Some(&mut file);
        let limit = Duration::from_millis(self.order.show_limit_ms);
        let alarm = Alarm::after(limit).ok();
        let session = Session { phase, script: &script, environment, capture, limit: alarm };
        let began = BootTime::now();
        let memory = Account::now();
        let finished = self.host.run(session).await.map_err(|error| error.to_string())?;
        if finished.ending.signal.is_some() && BootTime::now().since(began) >= limit {
            return Err(format!("showing it took longer than {} s", limit.as_secs()));
        }
        if !finished.ending.is_success() {
            let killed = Account::now().killed_since(memory);
            return Err(killed.unwrap_or_else(|| finished.ending.describe()));
        }
        finished.captured.map_err(|error| error.to_string())?;
        file.finish(name).map_err(|error| error.to_string())
    }

    /// Hands what hooks made of the environment to the launcher, for the stage that follows.
    fn keep_environment(&self) {
        let phase = Some(self.last_phase);
        let kept = || -> Result<SideFile, String> {
            let changes = self.environment.changes(&self.began_with);
            let file = self.host.spool.side_file(MAX_CARRIED);
            let mut file = file.map_err(|error| error.to_string())?;
            let writer = BufWriter::with_capacity(64 * 1024, &mut file);
            serde_json::to_writer(writer, &changes).map_err(|error| error.to_string())?;
            file.finish(SideName::Environment).map_err(|error| error.to_string())
        };
        match kept() {
            Ok(file) => self.host.spool.event(phase, Event::Environment { file }),
            Err(error) => {
                let note = format!("what hooks exported does not reach the apply: {error}");
                self.host.spool.note(phase, note);
            }
        }
    }

    /// The user's last words, whatever the outcome, within one grace.
    async fn after_run(&mut self, outcome: &Outcome) {
        let state = match outcome {
            Outcome::Succeeded | Outcome::Planned { .. } => RunState::Finished,
            Outcome::Failed { .. } => RunState::Failed,
            Outcome::Stopped { .. } => RunState::Stopped,
        };
        let succeeded = state == RunState::Finished;
        if self.order.after_run.is_empty() || (succeeded && !self.order.after_run_on_success) {
            return;
        }
        let phase = self.last_phase;
        self.environment.set(&self.order.final_state, state.as_str());
        let hooks = std::mem::take(&mut self.order.after_run);
        let script = script::chain(hooks.iter().map(String::as_str), self.order.interrupt, None);
        let grace = self.host.stops.grace();
        let limit = Alarm::after(grace).ok();
        let began = BootTime::now();
        let reason = match self.session(phase, &script, limit).await {
            Ok(finished) if finished.ending.is_success() => return,
            Ok(finished) if BootTime::now().since(began) >= grace => {
                let how = finished.ending.describe();
                format!("{how}, because they took longer than the grace of {grace:?}")
            }
            Ok(finished) => finished.ending.describe(),
            Err(error) => error.to_string(),
        };
        self.host.spool.note(Some(phase), format!("the after_run hooks ended with {reason}"));
    }
}

/// Who the phases run as, once the launcher's files are kept from them.
fn user(places: &Places, order: &Order) -> Result<User, String> {
    let user =
        users::find(&order.user, order.may_be_root, &places.etc).map_err(|e| sentence(&e))?;
    keep::take(places, &order.groups, &user).map_err(|error| sentence(&error))?;
    let dropped = keep::drop_groups();
    dropped.map_err(|error| format!("cannot leave the launcher's groups: {error}"))?;
    Ok(user)
}

/// An error and its cause.
fn sentence(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

fn read_order(path: &Path) -> Result<Order, Refusal> {
    let file = File::open(path).map_err(Refusal::Unreadable)?;
    let size = file.metadata().map_err(Refusal::Unreadable)?.len();
    let capacity = usize::try_from(size.min(MAX_SIZE)).map_err(|_| Refusal::TooLarge)? + 1;
    let mut json = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(MAX_SIZE + 1).read_to_end(&mut json).map_err(Refusal::Unreadable)?;
    if json.len() as u64 > MAX_SIZE {
        return Err(Refusal::TooLarge);
    }
    Order::from_json(&json).map_err(Refusal::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_at_most_4_mib() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let read = |size: u64| {
            let spaces = vec![b' '; usize::try_from(size).unwrap()];
            std::fs::write(&path, spaces).unwrap();
            read_order(&path)
        };
        assert!(matches!(read(MAX_SIZE), Err(Refusal::Invalid(InvalidOrder::Json { .. }))));
        assert!(matches!(read(MAX_SIZE + 1), Err(Refusal::TooLarge)));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_order(&path), Err(Refusal::Unreadable(_))));
    }
}
