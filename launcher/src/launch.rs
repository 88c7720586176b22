//! The launcher's main loop: what the pool says and what the host wants becomes what stages do.
//!
//! One loop owns the session and all stages. It decides without waiting; whatever takes time is a task
//! in one of its two `JoinSet`s. Requests to leave are: drain (the first SIGTERM), stop (the second
//! SIGTERM), hand over (SIGUSR2, or a stop that cannot be reported in time).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, Stage as StageKind};
use gantry_protocol::message::{
    Carried, Claim, Decline, FromControlPlane, Grant, Offer, RefusalReason, Refused, Step, Welcome,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::blob::Expected;
use crate::engine::Engine;
use crate::explain::{Exit, Explain, sentence};
use crate::health::Source;
use crate::journal::{Change, JournalError};
use crate::log::message_id;
use crate::session::{Receipt, Session, SessionError, SessionEvent};
use crate::stage::{self, DriveOutcome, Shared, StageControl, StageError, StageRequest};
use crate::uploads::Urls;
use crate::workspace::Directories;

/// How many stages a launcher runs at once.
pub const CAPACITY: usize = 1;
/// The pause before a stage that this host could not drive is driven again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the results of stages that were stopped are waited for, beyond their grace.
const LAST_WORDS: Duration = Duration::from_secs(120);
/// How long a sealed spec may take to come: then its offer is withdrawn.
const OFFERED: Duration = Duration::from_secs(10);
/// How many characters of a reason to stop are kept.
const MAX_REASON: usize = 500;
/// The longest spec, sealed, in bytes.
const MAX_SPEC: u64 = 8 << 20;

/// What the host wants of the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: take no more and finish; asked again, stop.
    Leave,
    /// SIGUSR2: leave everything to the next launcher.
    HandOver,
}

/// Why the launcher ends before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The control plane does not admit it.
    #[error("the control plane refuses this launcher: {}", .0.message)]
    Refused(Refused),
    /// There is no session to be had.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Explain for LaunchError {
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refused) => Some(match refused.reason {
                RefusalReason::Duplicate => {
                    "wait a minute and start again if the disk was moved; give a copy of a machine an empty GANTRY_STATE_DIR"
                }
                RefusalReason::PoolReset => "fetch the pool's new token and start again with it",
                RefusalReason::PoolDeleted => "stop this launcher, or give it another pool's token",
                RefusalReason::Version => "upgrade the launcher, or the control plane",
                RefusalReason::Invalid => "look at the server's log for what is wrong",
            }),
            Self::Session(error) => error.help(),
            Self::Journal(_) => Some("check that GANTRY_STATE_DIR can be written and has space"),
        }
    }

    fn exit_code(&self) -> Exit {
        match self {
            // The copy may end, or the pool forget that this disk was elsewhere.
            Self::Refused(refused) if refused.reason == RefusalReason::Duplicate => Exit::NotNow,
            Self::Refused(_) => Exit::Refused,
            Self::Session(error) => error.exit_code(),
            Self::Journal(_) => Exit::State,
        }
    }
}

/// How far the launcher is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    No,
    /// No new runs; those in hand are finished.
    Draining,
    /// Those in hand are stopped, or left to the next launcher.
    Ending,
}

/// Whether the host has asked the launcher to leave. What the pool asks for counts apart: the first
/// SIGTERM after a cycle interrupts nothing.
#[derive(Debug, Default)]
struct Host {
    has_asked: bool,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Drain,
    Stop,
    HandOver,
}

impl Host {
    fn asks(&mut self, request: Request) -> Act {
        match request {
            Request::HandOver => Act::HandOver,
            Request::Leave if std::mem::replace(&mut self.has_asked, true) => Act::Stop,
            Request::Leave => Act::Drain,
        }
    }
}

/// The ropes to one stage.
struct Driver {
    request: watch::Sender<StageRequest>,
    urls: Arc<Urls>,
    /// When its waits are over, however often it is driven again.
    until: Instant,
}

/// A sealed spec that has come, or why it has not.
type Fetched = (Attempt, Result<Vec<u8>, String>);

struct Launcher<E> {
    shared: Shared<E>,
    drivers: HashMap<Attempt, Driver>,
    stages: JoinSet<(Attempt, Result<DriveOutcome, StageError>)>,
    fetching: JoinSet<Fetched>,
    /// Sealed specs of offers that were claimed.
    claimed: HashMap<Attempt, Vec<u8>>,
    is_drained: bool,
    leaving: Leaving,
    host: Host,
    /// When the stages that were stopped are left to the next launcher.
    patience: Option<Instant>,
    why: &'static str,
}

/// Runs until it is asked to leave, or cannot go on.
///
/// # Errors
/// Every [`LaunchError`].
pub async fn run<E: Engine>(
    shared: Shared<E>,
    mut session: Session,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), LaunchError> {
    let mut launcher = Launcher {
        shared,
        drivers: HashMap::new(),
        stages: JoinSet::new(),
        fetching: JoinSet::new(),
        claimed: HashMap::new(),
        is_drained: false,
        leaving: Leaving::No,
        host: Host::default(),
        patience: None,
        why: "asked to leave",
    };
    for entry in launcher.shared.journal.entries() {
        tracing::info!(attempt = %entry.attempt, step = ?entry.step, "going on with a stage");
        launcher.begin(entry.attempt, Duration::ZERO);
    }
    let ended = loop {
        if launcher.may_leave() {
            break Ok(());
        }
        tokio::select! {
            biased; // A request to leave that arrives together with an offer wins.
            Some(request) = requests.recv() => launcher.request(request).await?,
            () = at(launcher.patience) => {
                tracing::warn!("what was stopped could not be reported in time");
                launcher.request(Request::HandOver).await?;
            }
            Some(ended) = launcher.stages.join_next() => match ended {
                Ok((attempt, driven)) => launcher.driven(attempt, driven),
                Err(error) => tracing::error!(%error, "a stage broke off"),
            },
            Some(fetched) = launcher.fetching.join_next() => {
                if let Ok((attempt, spec)) = fetched { launcher.fetched(attempt, spec).await?; }
            }
            event = session.next() => match event {
                Some(SessionEvent::Opened(welcome)) => launcher.opened(&welcome),
                Some(SessionEvent::Message { receipt, message }) => {
                    launcher.message(message, receipt, &session).await?;
                }
                Some(SessionEvent::Lost { reason }) => {
                    tracing::warn!(reason, "the session is lost, opening another");
                    launcher.claimed.clear();
                }
                Some(SessionEvent::Refused(refused)) => break Err(LaunchError::Refused(refused)),
                Some(SessionEvent::Fatal(error)) => break Err(error.into()),
                None => break Ok(()),
            },
        }
    };
    // Whatever still runs is the next launcher's: its containers go on and its journal knows them.
    launcher.stages.shutdown().await;
    launcher.fetching.shutdown().await;
    if ended.is_ok() {
        session.close(launcher.why).await;
    }
    ended
}

impl<E: Engine> Launcher<E> {
    /// A claim is waited for: what is granted to a launcher that has just left would be nobody's.
    fn may_leave(&self) -> bool {
        let is_idle = self.stages.is_empty();
        match self.leaving {
            Leaving::No => false,
            Leaving::Draining => is_idle && self.claimed.is_empty() && self.fetching.is_empty(),
            Leaving::Ending => is_idle,
        }
    }

    async fn request(&mut self, request: Request) -> Result<(), LaunchError> {
        match self.host.asks(request) {
            Act::HandOver => {
                tracing::info!("handing over to the next launcher");
                self.why = "handing over";
                self.leaving = Leaving::Ending;
                self.patience = None;
                self.request_all(|_| Some(StageRequest::HandOver));
            }
            Act::Drain => {
                tracing::info!(
                    stages = self.stages.len(),
                    "taking no more runs, finishing those in hand"
                );
                self.leaving = self.leaving.max(Leaving::Draining);
            }
            Act::Stop => {
                tracing::info!("stopping the runs in hand");
                self.leaving = Leaving::Ending;
                let grace = self.shared.config.stop_grace.get();
                self.patience = Some(Instant::now() + grace + stage::MARGIN + LAST_WORDS);
                self.stop_all("the launcher was told twice to leave").await?;
            }
        }
        Ok(())
    }

    async fn stop_all(&mut self, reason: &str) -> Result<(), LaunchError> {
        let attempts: Vec<_> = self.drivers.keys().copied().collect();
        for attempt in attempts {
            self.stop(attempt, reason.to_owned()).await?;
        }
        Ok(())
    }

    async fn stop(&mut self, attempt: Attempt, reason: String) -> Result<(), LaunchError> {
        if let Some(driver) = self.drivers.get(&attempt) {
            self.shared.journal.write(vec![Change::stop(attempt, reason)]).await?;
            driver.request.send_if_modified(|request| raise(request, StageRequest::Stop));
        }
        Ok(())
    }

    fn request_all(&self, request: impl Fn(Attempt) -> Option<StageRequest>) {
        for (attempt, driver) in &self.drivers {
            if let Some(requested) = request(*attempt) {
                driver.request.send_if_modified(|request| raise(request, requested));
            }
        }
    }

    fn opened(&mut self, welcome: &Welcome) {
        tracing::info!(
            session = %welcome.session,
            worker = %self.shared.journal.worker(),
            drained = welcome.is_drained,
            "registered"
        );
        self.claimed.clear();
        self.is_drained = welcome.is_drained;
        for attempt in &welcome.not_yours {
            self.give_up(*attempt);
        }
    }

    /// A read stage that is not ours any more is dropped; a write stage goes on, come what may.
    fn give_up(&self, attempt: Attempt) {
        let Some(driver) = self.drivers.get(&attempt) else { return };
        match attempt.stage {
            StageKind::Read => {
                driver.request.send_if_modified(|request| raise(request, StageRequest::Drop));
            }
            StageKind::Write => tracing::warn!(
                %attempt,
                "the control plane has given this stage up; it goes on, and what it stores is kept"
            ),
        }
    }

    async fn message(
        &mut self,
        message: FromControlPlane,
        receipt: Option<Receipt>,
        session: &Session,
    ) -> Result<(), LaunchError> {
        match message {
            FromControlPlane::Offer(offer) => self.offered(offer).await?,
            FromControlPlane::Grant(grant) => self.granted(grant, receipt).await?,
            FromControlPlane::Revoke(revoke) => {
                tracing::info!(attempt = %revoke.attempt, reason = revoke.reason, "revoked");
                self.claimed.remove(&revoke.attempt);
                self.give_up(revoke.attempt);
            }
            FromControlPlane::Cancel(cancel) => {
                let by: String = cancel.by.chars().take(MAX_REASON).collect();
                self.stop(cancel.attempt, format!("stopped by {by}")).await?;
            }
            FromControlPlane::Urls(urls) => {
                if let Some(driver) = self.drivers.get(&urls.attempt) {
                    driver.urls.add(urls.urls);
                    if let Some(purpose) = urls.never {
                        driver.urls.never(purpose);
                    }
                }
            }
            FromControlPlane::Drain(drain) => {
                tracing::info!(drained = drain.is_drained, "the pool's drain flag");
                self.is_drained = drain.is_drained;
            }
            FromControlPlane::Cycle(cycle) => {
                self.why = "cycled";
                self.leaving = self.leaving.max(Leaving::Draining);
                self.request_all(|attempt| match attempt.stage {
                    StageKind::Read => Some(StageRequest::Drop),
                    StageKind::Write => None,
                });
                if cycle.force {
                    self.stop_all("the pool was cycled by force").await?;
                }
            }
            FromControlPlane::Unsupported(kind) => {
                tracing::warn!(
                    kind = kind.kind,
                    "the control plane does not know a kind of message"
                );
            }
            // The session's own matters.
            FromControlPlane::Welcome(_)
            | FromControlPlane::Refused(_)
            | FromControlPlane::Ack(_) => {}
        }
        if let Some(receipt) = receipt {
            session.acknowledge(receipt);
        }
        Ok(())
    }

    async fn offered(&mut self, offer: Offer) -> Result<(), LaunchError> {
        let attempt = offer.attempt;
        let busy = self.shared.journal.unacknowledged();
        let taken = busy + self.claimed.len() + self.fetching.len();
        let reason = if self.leaving > Leaving::No {
            Some("the launcher is leaving".to_owned())
        } else if self.is_drained {
            Some("the worker is drained".to_owned())
        } else if taken >= CAPACITY {
            Some("another run is in hand".to_owned())
        } else {
            self.shared.complaints.present()
        };
        if let Some(reason) = reason {
            return self.decline(attempt, reason).await;
        }
        match offer.spec {
            Carried::Inline(text) => {
                let spec = STANDARD.decode(text).map_err(|_| "the spec is not base64".to_owned());
                self.fetched(attempt, spec).await
            }
            Carried::Object { url, sha256, size } => {
                let objects = self.shared.objects.clone();
                self.fetching.spawn(async move {
                    if size > MAX_SPEC {
                        return (attempt, Err(format!("a spec of {size} bytes")));
                    }
                    let mut spec = Vec::new();
                    let expected = Expected { what: "spec", size, sha256: Some(&sha256) };
                    let got = objects.get(&url, expected, &mut spec);
                    let got = match tokio::time::timeout(OFFERED, got).await {
                        Ok(got) => got.map_err(|error| error.to_string()),
                        Err(_) => Err("the spec did not come in time".to_owned()),
                    };
                    (attempt, got.map(|()| spec))
                });
                Ok(())
            }
        }
    }

    async fn fetched(
        &mut self,
        attempt: Attempt,
        spec: Result<Vec<u8>, String>,
    ) -> Result<(), LaunchError> {
        match spec {
            Ok(_) if self.leaving > Leaving::No => {
                self.decline(attempt, "the launcher is leaving".to_owned()).await
            }
            Ok(spec) => {
                self.claimed.insert(attempt, spec);
                let claim = Claim { attempt };
                self.queue(Change::Queue { id: message_id(), message: claim.into() }).await
            }
            Err(reason) => self.decline(attempt, reason).await,
        }
    }

    async fn decline(&self, attempt: Attempt, reason: String) -> Result<(), LaunchError> {
        tracing::info!(%attempt, reason, "declining an offer");
        let decline = Decline { attempt, reason };
        self.queue(Change::Queue { id: message_id(), message: decline.into() }).await
    }

    async fn queue(&self, change: Change) -> Result<(), LaunchError> {
        self.shared.journal.write(vec![change]).await?;
        Ok(())
    }

    async fn granted(&mut self, grant: Grant, receipt: Option<Receipt>) -> Result<(), LaunchError> {
        let attempt = grant.attempt;
        if let Some(driver) = self.drivers.get(&attempt) {
            driver.urls.add(grant.urls);
            return Ok(());
        }
        let Some(spec) = self.claimed.remove(&attempt) else {
            tracing::error!(%attempt, "a grant of what was not claimed");
            return Ok(());
        };
        let config = &self.shared.config;
        let directories = Directories::of(attempt, &config.state_dir, &config.secrets_dir);
        let kept = directories.keep_spec(&spec);
        let session = receipt.map(|receipt| receipt.session());
        let is_ours = match session {
            Some(session) => self.shared.journal.grant(attempt, &self.shared.boot, session).await?,
            None => false,
        };
        if !is_ours {
            tracing::warn!(%attempt, "a grant of a session that is over");
            if let Err(error) = directories.remove() {
                tracing::warn!(%attempt, %error, "its spec stays until the next start");
            }
            return Ok(());
        }
        tracing::info!(%attempt, "granted");
        if let Err(error) = kept {
            stage::cannot_be_kept(&self.shared, attempt, &error).await?;
        }
        self.begin(attempt, Duration::ZERO);
        if let Some(driver) = self.drivers.get(&attempt) {
            driver.urls.add(grant.urls);
        }
        Ok(())
    }

    fn begin(&mut self, attempt: Attempt, pause: Duration) {
        let shared = self.shared.clone();
        let driver = self.drivers.entry(attempt).or_insert_with(|| Driver {
            request: watch::Sender::new(StageRequest::GoOn),
            urls: Arc::new(Urls::new(attempt, Arc::clone(&shared.notify))),
            until: Instant::now() + shared.config.run_timeout.get(),
        });
        if shared.journal.entry(attempt).is_some_and(|entry| entry.stop.is_some()) {
            driver.request.send_if_modified(|request| raise(request, StageRequest::Stop));
        }
        let (request, urls) = (driver.request.subscribe(), Arc::clone(&driver.urls));
        let control = StageControl { request, urls, until: driver.until };
        self.stages.spawn(async move {
            tokio::time::sleep(pause).await;
            (attempt, stage::drive(shared, attempt, control).await)
        });
    }

    fn driven(&mut self, attempt: Attempt, driven: Result<DriveOutcome, StageError>) {
        match driven {
            Ok(DriveOutcome::Done | DriveOutcome::HandedOver) => {
                self.drivers.remove(&attempt);
                self.shared.complaints.withdraw(&Source::Stage(attempt));
            }
            Err(error) => {
                tracing::error!(%attempt, error = &error as &dyn std::error::Error, "a stage cannot go on; trying again");
                let complaint = format!("run {} cannot go on: {}", attempt.run, sentence(&error));
                self.shared.complaints.make(Source::Stage(attempt), complaint);
                if self.drives_again(attempt) {
                    self.begin(attempt, AGAIN);
                }
            }
        }
    }

    /// What cannot be removed now is removed by the next launcher: nobody waits for that.
    fn drives_again(&self, attempt: Attempt) -> bool {
        let entry = self.shared.journal.entry(attempt);
        let is_over = entry.is_none_or(|entry| entry.step >= Step::Acknowledged);
        match self.leaving {
            Leaving::No => true,
            Leaving::Draining => !is_over,
            Leaving::Ending => !is_over && self.patience.is_some(),
        }
    }
}

/// Resolves then; never if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Requests only grow firmer.
fn raise(request: &mut StageRequest, to: StageRequest) -> bool {
    let firmer = to > *request;
    if firmer {
        *request = to;
    }
    firmer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_to_leave_stops_and_no_other() {
        let mut host = Host::default();
        let requests =
            [Request::HandOver, Request::Leave, Request::HandOver, Request::Leave, Request::Leave];
        let acts = requests.map(|request| host.asks(request));
        assert_eq!(acts, [Act::HandOver, Act::Drain, Act::HandOver, Act::Stop, Act::Stop]);
    }

    /// SIGUSR2 ends every wait, also that of a stage that is being dropped.
    #[test]
    fn wishes_only_grow_firmer() {
        let mut request = StageRequest::GoOn;
        assert!(raise(&mut request, StageRequest::Stop) && raise(&mut request, StageRequest::Drop));
        assert!(
            !raise(&mut request, StageRequest::Stop) && raise(&mut request, StageRequest::HandOver)
        );
        assert!(!raise(&mut request, StageRequest::Drop));
    }
}
