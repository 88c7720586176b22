//! Messages in their order: what comes again is dropped, what comes early waits.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_protocol::message::{Arrival, FromLauncher, Window};

use super::verify::{Said, Sender, Verified, VerifiedHello};
use crate::core::sessions::LauncherSession;
use crate::store::WorkerKey;

/// How far the messages of each worker's session were received.
#[derive(Default)]
pub(crate) struct Positions {
    of_workers: HashMap<WorkerKey, Position>,
}

/// How far the messages of a session were received.
pub(super) struct Position {
    nonce: String,
    /// None stands for a message that nobody here understands: it takes its place in the order.
    window: Window<Option<FromLauncher>>,
    /// What of that is durable.
    durable: u64,
    /// A message came that only this session's launcher can have sent.
    is_proven: bool,
}

impl Position {
    /// Nothing of the session came yet; of its journal everything up to `received` did.
    pub(super) fn new(nonce: String, received: u64) -> Self {
        Self { nonce, window: Window::after(received), durable: received, is_proven: false }
    }
}

/// What is to be done about messages, step by step.
#[derive(Default)]
pub(super) struct Ordered {
    pub(super) steps: Vec<Step>,
    /// Whose messages are acknowledged, in which session.
    pub(super) acknowledge: HashMap<WorkerKey, Arc<LauncherSession>>,
}

/// One step.
pub(super) enum Step {
    /// Begin a session.
    Hello(Box<VerifiedHello>),
    /// The sender has our welcome, so its hello was not an old one: what that did not name was never
    /// started.
    Proven(Sender),
    /// A message that must not be lost.
    Sequenced(Sender, FromLauncher),
    /// A message that may be lost.
    Unsequenced(Sender, FromLauncher),
    /// Answer that nobody here knows this kind.
    Unknown(Sender, String),
}

impl Positions {
    /// A session began here.
    pub(super) fn begin(&mut self, worker: WorkerKey, position: Position) {
        self.of_workers.insert(worker, position);
    }

    /// The worker is nobody any more.
    pub(crate) fn forget(&mut self, worker: WorkerKey) {
        self.of_workers.remove(&worker);
    }

    /// Up to where the worker's messages were received, in the session that has this nonce.
    pub(super) fn received(&self, worker: WorkerKey) -> Option<u64> {
        self.of_workers.get(&worker).map(|position| position.window.received())
    }

    /// All that was received of the worker is durable.
    pub(super) fn keep(&mut self, worker: WorkerKey) {
        if let Some(position) = self.of_workers.get_mut(&worker) {
            position.durable = position.window.received();
        }
    }

    /// What is not durable was not received: the sender sends it again. What a proof led to was undone
    /// too; done a second time it changes nothing.
    pub(super) fn set_back(&mut self, worker: WorkerKey) {
        if let Some(position) = self.of_workers.get_mut(&worker) {
            position.window = Window::after(position.durable);
            position.is_proven = false;
        }
    }

    /// Puts messages in their order.
    pub(super) fn order(&mut self, messages: Vec<Verified>) -> Ordered {
        let mut ordered = Ordered::default();
        for message in messages {
            match message {
                Verified::Hello(hello) => ordered.steps.push(Step::Hello(hello)),
                Verified::Message { sender, seq, said } => {
                    self.order_one(sender, seq, said, &mut ordered);
                }
            }
        }
        ordered
    }

    fn order_one(&mut self, sender: Sender, seq: Option<u64>, said: Said, ordered: &mut Ordered) {
        let position = self.of_workers.get_mut(&sender.key());
        let mut position = position.filter(|position| position.nonce == sender.session.nonce);
        let message = match said {
            Said::Message(message) => Some(*message),
            Said::Unknown { kind } => {
                ordered.steps.push(Step::Unknown(sender.clone(), kind));
                None
            }
            Said::Unreadable => None,
        };
        if let (Some(message), Some(position)) = (&message, &mut position) {
            // A launcher says these without having a welcome, so that they may be old ones.
            let is_proof = !matches!(message, FromLauncher::Gone(_) | FromLauncher::Bye(_));
            if is_proof && !position.is_proven {
                position.is_proven = true;
                ordered.steps.push(Step::Proven(sender.clone()));
            }
        }
        let Some(seq) = seq else {
            ordered.steps.extend(message.map(|message| Step::Unsequenced(sender, message)));
            return;
        };
        let Some(position) = position else { return };
        let next = match position.window.arrive(seq, message) {
            Arrival::Next(next) => next,
            Arrival::Repeated => Vec::new(),
            Arrival::Early => return,
        };
        ordered.acknowledge.insert(sender.key(), Arc::clone(&sender.session));
        let understood = next.into_iter().filter_map(|(_, message)| message);
        ordered.steps.extend(understood.map(|message| Step::Sequenced(sender.clone(), message)));
    }
}
