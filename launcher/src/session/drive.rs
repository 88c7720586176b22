//! Drives exchanges, one after the other, over whatever wire there is.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::message::FromLauncher;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::exchange::{Beginning, Context, Effect, End, Exchange};
use super::{
    Backoff, Health, Identity, Outgoing, OutgoingError, Receipt, SessionError, SessionEvent,
    Shared, Timing,
};
use crate::explain::{Explain as _, sentence};
use crate::transport::{Link, LinkError, Transport};

/// How often in a row a broker may refuse the certificate before that is believed.
const REFUSALS: u32 = 3;

/// How often another client may take this worker's session over before that is believed: once is our own
/// connection of before, whose end nobody noticed.
const TAKEOVERS: u32 = 3;
/// After a session that was so long nobody else is this worker.
const UNDISTURBED: Duration = Duration::from_mins(5);

/// The driver's ends of what it shares with [`super::Session`].
pub(super) struct Ends {
    pub(super) events: mpsc::Sender<SessionEvent>,
    pub(super) to_send: mpsc::Receiver<FromLauncher>,
    pub(super) shared: Arc<Shared>,
    pub(super) health: watch::Receiver<Health>,
}

/// How a connection ended.
enum Over {
    /// The launcher wanted to leave.
    Left,
    /// It failed, after the session was open for so long, if it was open at all.
    Lost { why: LinkError, held: Option<Duration> },
    /// There will be no other.
    Last(SessionEvent),
}

struct Driver<T> {
    transport: T,
    identity: Identity,
    timing: Timing,
    outgoing: Arc<dyn Outgoing>,
    ends: Ends,
    changed: watch::Receiver<u64>,
    acknowledgements: watch::Receiver<u64>,
    leaving: watch::Receiver<Option<String>>,
}

/// Opens sessions until the launcher leaves or none can be had.
pub(super) async fn run<T: Transport>(
    transport: T,
    identity: Identity,
    timing: Timing,
    outgoing: Arc<dyn Outgoing>,
    ends: Ends,
) {
    let changed = outgoing.changed();
    let acknowledgements = ends.shared.acknowledgements.subscribe();
    let leaving = ends.shared.leaving.subscribe();
    let mut driver =
        Driver { transport, identity, timing, outgoing, ends, changed, acknowledgements, leaving };
    if let Some(last) = driver.sessions().await {
        driver.tell(last).await;
    }
}

impl<T: Transport> Driver<T> {
    /// Gives the last event, if there is one.
    async fn sessions(&mut self) -> Option<SessionEvent> {
        let started = Instant::now();
        let mut backoff = Backoff::new(self.timing.backoff.0, self.timing.backoff.1);
        let (mut was_open, mut refusals, mut takeovers) = (false, 0, 0);
        loop {
            let (why, held) = match self.connection().await {
                Over::Left => return None,
                Over::Last(event) => return Some(event),
                Over::Lost { why, held } => (why, held),
            };
            was_open |= held.is_some();
            refusals = if matches!(why, LinkError::NotAdmitted(_)) { refusals + 1 } else { 0 };
            // Two that are one worker would throw each other out for ever.
            takeovers = match (&why, held) {
                (LinkError::TakenOver, _) => takeovers + 1,
                (_, Some(held)) if held >= UNDISTURBED => 0,
                _ => takeovers,
            };
            if takeovers == TAKEOVERS {
                return Some(SessionEvent::Fatal(SessionError::TakenOver));
            }
            let broker = || self.identity.broker.clone();
            if refusals == REFUSALS {
                return Some(SessionEvent::Fatal(SessionError::NotAdmitted { broker: broker() }));
            }
            let is_late = !was_open && started.elapsed() >= self.timing.give_up;
            if is_late && self.outgoing.runs().is_empty() {
                let error = SessionError::Unreachable { broker: broker(), source: why };
                return Some(SessionEvent::Fatal(error));
            }
            backoff.opened_for(held.unwrap_or_default());
            let wait = backoff.failed(self.identity.fraction());
            let reason = sentence(&why);
            tracing::warn!(
                reason,
                next = why.help(),
                again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "no session with the pool"
            );
            if held.is_some() {
                self.tell(SessionEvent::Lost { reason }).await;
            }
            tokio::select! {
                () = self.wants_to_leave() => return None,
                () = sleep(wait) => {}
            }
        }
    }

    /// One connection, from its first byte to its end.
    async fn connection(&mut self) -> Over {
        let health = self.ends.health.borrow_and_update().clone();
        let timing = self.timing.clone();
        let beginning = Exchange::begin(&mut self.context(&health), &timing);
        let Beginning { mut exchange, will, hello } = match beginning {
            Ok(beginning) => beginning,
            Err(error) => return Over::Last(SessionEvent::Fatal(error)),
        };
        let Some(connected) = self.connect(will).await else { return Over::Left };
        let mut link = match connected {
            Ok(link) => link,
            Err(why) => return Over::Lost { why, held: None },
        };
        link.publish(hello);
        exchange.greeted(Instant::now());
        loop {
            let effects = match self.step(&mut exchange, &mut link).await {
                Step::Effects(effects) => effects,
                Step::Leave(reason) => {
                    self.farewell(exchange, link, &reason).await;
                    return Over::Left;
                }
                Step::Lost(why) => return Over::Lost { why, held: held(exchange.open_since()) },
            };
            // Read before it is over: an end forgets it.
            if let Some(over) = self.apply(effects, &mut link).await {
                return over;
            }
        }
    }

    async fn connect(&mut self, will: Bytes) -> Option<Result<T::Link, LinkError>> {
        let address = self.identity.address.clone();
        let (leaving, events) = (&mut self.leaving, &self.ends.events);
        tokio::select! {
            biased; // Leaving wins over a connection that would be closed at once.
            () = leave(leaving, events) => None,
            connected = self.transport.connect(&address, will) => Some(connected),
        }
    }

    /// Waits for one thing to happen. Every branch is cancel safe.
    async fn step(&mut self, exchange: &mut Exchange, link: &mut T::Link) -> Step {
        let since = exchange.open_since();
        let wake = exchange.wake_at();
        let is_open = exchange.is_open();
        let happened = {
            let Self { ends, changed, acknowledgements, leaving, .. } = &mut *self;
            let Ends { events, to_send, health, .. } = ends;
            tokio::select! {
                biased; // A request to leave wins, and time goes on however much arrives.
                () = leave(leaving, events) => Happened::Leave,
                () = until(wake) => Happened::Time,
                arrived = link.next() => Happened::Arrived(arrived),
                () = next_change(acknowledgements) => Happened::Acknowledged,
                () = next_change(changed) => Happened::Waits,
                () = next_change(health) => Happened::Health,
                Some(message) = to_send.recv(), if is_open => Happened::Send(message),
            }
        };
        let health = self.ends.health.borrow().clone();
        let mut effects = match happened {
            Happened::Leave => {
                let reason = self.leaving.borrow().clone();
                return Step::Leave(reason.unwrap_or_else(|| "the launcher ends".to_owned()));
            }
            Happened::Arrived(Err(why)) => return Step::Lost(why),
            Happened::Arrived(Ok(payload)) => exchange.arrive(&mut self.context(&health), &payload),
            Happened::Time => exchange.tick(&mut self.context(&health)),
            Happened::Acknowledged => {
                let receipts = self.receipts();
                exchange.acknowledge(&mut self.context(&health), &receipts)
            }
            Happened::Waits => Vec::new(),
            Happened::Health => exchange.heartbeat(&mut self.context(&health)),
            Happened::Send(message) => exchange.send(&mut self.context(&health), &message),
        };
        effects.extend(exchange.fill(&mut self.context(&health)));
        Step::Effects(Effects { list: effects, since })
    }

    /// Does what the exchange wants, in its order. Gives the connection's end, if this is it.
    async fn apply(&mut self, effects: Effects, link: &mut T::Link) -> Option<Over> {
        for effect in effects.list {
            match effect {
                Effect::Publish(bytes) => link.publish(bytes),
                Effect::Acknowledge(up_to) => {
                    if let Err(error) = note(Arc::clone(&self.outgoing), up_to).await {
                        return Some(Over::Last(SessionEvent::Fatal(error.into())));
                    }
                }
                Effect::Tell(event) => self.tell(event).await,
                Effect::Refuse(refusal) => {
                    tracing::warn!(reason = sentence(&refusal), "refused a message");
                }
                Effect::End(End::Lost(why)) => {
                    return Some(Over::Lost { why, held: held(effects.since) });
                }
                Effect::End(End::Refused(refused)) => {
                    return Some(Over::Last(SessionEvent::Refused(refused)));
                }
                Effect::End(End::Fatal(error)) => {
                    return Some(Over::Last(SessionEvent::Fatal(error)));
                }
            }
        }
        None
    }

    async fn farewell(&mut self, mut exchange: Exchange, mut link: T::Link, reason: &str) {
        let health = self.ends.health.borrow().clone();
        let receipts = self.receipts();
        let mut effects = exchange.acknowledge(&mut self.context(&health), &receipts);
        effects.extend(exchange.leave(&mut self.context(&health), reason));
        for effect in effects {
            if let Effect::Publish(bytes) = effect {
                link.publish(bytes);
            }
        }
        match timeout(self.timing.farewell, link.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(reason = sentence(&why), "the farewell may be lost"),
            Err(_) => tracing::debug!("the farewell may be lost: the broker does not answer"),
        }
    }

    /// Waits for room, unless the launcher leaves.
    async fn tell(&mut self, event: SessionEvent) {
        tokio::select! {
            _ = self.ends.events.send(event) => {}
            () = leave(&mut self.leaving, &self.ends.events) => {}
        }
    }

    async fn wants_to_leave(&mut self) {
        leave(&mut self.leaving, &self.ends.events).await;
    }

    fn receipts(&self) -> BTreeSet<Receipt> {
        let shared = &self.ends.shared.acknowledged;
        std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn context<'a>(&'a mut self, health: &'a Health) -> Context<'a> {
        Context {
            identity: &mut self.identity,
            outgoing: &*self.outgoing,
            health,
            now: Instant::now(),
            room: self.ends.events.capacity(),
        }
    }
}

/// What one step came to.
enum Step {
    Effects(Effects),
    Leave(String),
    Lost(LinkError),
}

/// Effects, and since when the session was open before them: an end forgets it.
struct Effects {
    list: Vec<Effect>,
    since: Option<Instant>,
}

/// What a step waited for.
enum Happened {
    Leave,
    Time,
    Arrived(Result<Bytes, LinkError>),
    Acknowledged,
    Waits,
    Health,
    Send(FromLauncher),
}

/// The journal writes to a disk, which must not hold up the runtime.
async fn note(outgoing: Arc<dyn Outgoing>, up_to: u64) -> Result<(), OutgoingError> {
    match tokio::task::spawn_blocking(move || outgoing.acknowledge(up_to)).await {
        Ok(noted) => noted,
        Err(failed) => Err(OutgoingError(failed.into())),
    }
}

/// Resolves when the launcher leaves, or nobody listens any more.
async fn leave(leaving: &mut watch::Receiver<Option<String>>, events: &mpsc::Sender<SessionEvent>) {
    tokio::select! {
        left = leaving.wait_for(Option::is_some) => drop(left),
        () = events.closed() => {}
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// A value whose owner is gone changes no more.
async fn next_change<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        pending::<()>().await;
    }
}

fn held(since: Option<Instant>) -> Option<Duration> {
    since.map(|since| since.elapsed())
}
