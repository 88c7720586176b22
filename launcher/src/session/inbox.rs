//! Takes in the control plane's sequenced messages: in order, each once, and acknowledged only when
//! their effects are durable here.

use std::collections::BTreeSet;

use gantry_model::SessionId;
use gantry_protocol::message::{Arrival, FromControlPlane, Window};

use super::{Receipt, SessionEvent};

/// How many messages one arrival can bring forth: itself and all that waited for it.
pub(super) const MOST_AT_ONCE: usize = 66;

/// The sequenced messages of one session, which count from 1.
pub(super) struct Inbox {
    session: SessionId,
    /// None stands for a message that nobody here understands: it takes its place in the order.
    window: Window<Option<FromControlPlane>>,
    /// Everything up to this is durable.
    durable: u64,
    /// What is durable behind a gap.
    early: BTreeSet<u64>,
}

/// What came of an arrival.
pub(super) struct Taken {
    /// What the rest of the launcher is told.
    pub(super) events: Vec<SessionEvent>,
    /// What to acknowledge, if anything.
    pub(super) acknowledge: Option<u64>,
}

impl Inbox {
    pub(super) fn new(session: SessionId) -> Self {
        Self { session, window: Window::after(0), durable: 0, early: BTreeSet::new() }
    }

    pub(super) fn arrive(&mut self, seq: u64, message: Option<FromControlPlane>) -> Taken {
        let next = match self.window.arrive(seq, message) {
            Arrival::Next(next) => next,
            Arrival::Repeated => {
                // The sender did not get our acknowledgement, or the effect is not durable yet.
                let acknowledge = Some(self.durable).filter(|durable| *durable > 0);
                return Taken { events: Vec::new(), acknowledge };
            }
            Arrival::Early => return Taken { events: Vec::new(), acknowledge: None },
        };
        let mut taken = Taken { events: Vec::new(), acknowledge: None };
        for (seq, message) in next {
            match message {
                Some(message) => {
                    let receipt = Some(Receipt { session: self.session, seq });
                    taken.events.push(SessionEvent::Message { receipt, message });
                }
                None => taken.acknowledge = self.note(seq).or(taken.acknowledge),
            }
        }
        taken
    }

    /// Notes receipts; those of other sessions are worth nothing. Gives what to acknowledge, if that
    /// is more than before.
    pub(super) fn note_all(&mut self, receipts: &BTreeSet<Receipt>) -> Option<u64> {
        let session = self.session;
        let ours = receipts.iter().filter(|receipt| receipt.session == session);
        ours.fold(None, |last, receipt| self.note(receipt.seq).or(last))
    }

    fn note(&mut self, seq: u64) -> Option<u64> {
        if seq <= self.durable || seq > self.window.received() {
            return None;
        }
        self.early.insert(seq);
        let before = self.durable;
        while self.early.remove(&(self.durable + 1)) {
            self.durable += 1;
        }
        (self.durable > before).then_some(self.durable)
    }
}

#[cfg(test)]
mod tests {
    use gantry_protocol::message::Drain;
    use ulid::Ulid;

    use super::*;

    fn drain() -> FromControlPlane {
        Drain { is_drained: true }.into()
    }

    fn receipts(session: SessionId, seqs: &[u64]) -> BTreeSet<Receipt> {
        seqs.iter().map(|seq| Receipt { session, seq: *seq }).collect()
    }

    #[test]
    fn only_an_unbroken_row_of_durable_messages_is_acknowledged() {
        let session = SessionId::from_ulid(Ulid::from_parts(1, 1));
        let mut inbox = Inbox::new(session);
        for seq in 1..=4 {
            assert_eq!(inbox.arrive(seq, Some(drain())).events.len(), 1);
        }
        assert_eq!(inbox.note_all(&receipts(session, &[3])), None);
        assert_eq!(inbox.note_all(&receipts(session, &[1])), Some(1));
        assert_eq!(inbox.note_all(&receipts(session, &[2])), Some(3));
        assert_eq!(inbox.note_all(&receipts(session, &[2, 9])), None, "old, and never delivered");
        let other = SessionId::from_ulid(Ulid::from_parts(1, 2));
        assert_eq!(inbox.note_all(&receipts(other, &[4])), None);
    }

    #[test]
    fn a_repeated_message_is_acknowledged_as_far_as_it_is_durable() {
        let session = SessionId::from_ulid(Ulid::from_parts(1, 1));
        let mut inbox = Inbox::new(session);
        inbox.arrive(1, Some(drain()));
        assert_eq!(inbox.arrive(1, Some(drain())).acknowledge, None);
        inbox.note_all(&receipts(session, &[1]));
        let again = inbox.arrive(1, Some(drain()));
        assert_eq!((again.events.len(), again.acknowledge), (0, Some(1)));
    }

    #[test]
    fn what_nobody_understands_does_not_hold_up_the_rest() {
        let session = SessionId::from_ulid(Ulid::from_parts(1, 1));
        let mut inbox = Inbox::new(session);
        assert_eq!(inbox.arrive(2, Some(drain())).events.len(), 0);
        let taken = inbox.arrive(1, None);
        assert_eq!((taken.events.len(), taken.acknowledge), (1, Some(1)));
    }
}
