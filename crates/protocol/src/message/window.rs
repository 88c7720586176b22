//! In what order sequenced messages are taken in.

use std::collections::BTreeMap;

/// The most messages that wait behind a gap.
const MAX_WAITING: usize = 64;

/// What to do with a message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival<T> {
    /// Take these in, in this order: the one that arrived and those that waited for it.
    Next(Vec<(u64, T)>),
    /// It was taken in before: acknowledge it again.
    Repeated,
    /// An earlier one is missing. It waits, or was dropped if too many wait; the sender sends it again.
    Early,
}

/// Brings the messages of one sender into their order and drops repeated ones.
#[derive(Debug, Clone)]
pub struct Window<T> {
    received: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> Window<T> {
    /// A window behind the last message that was taken in; 0 if none was.
    #[must_use]
    pub const fn after(received: u64) -> Self {
        Self { received, waiting: BTreeMap::new() }
    }

    /// The last message that was taken in.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Takes a message that arrived.
    pub fn arrive(&mut self, seq: u64, message: T) -> Arrival<T> {
        if seq <= self.received {
            return Arrival::Repeated;
        }
        if seq != self.received + 1 {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.insert(seq, message);
            }
            return Arrival::Early;
        }
        let mut next = vec![(seq, message)];
        self.received = seq;
        while let Some(message) = self.waiting.remove(&(self.received + 1)) {
            self.received += 1;
            next.push((self.received, message));
        }
        self.waiting.retain(|waiting, _| *waiting > self.received);
        Arrival::Next(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However messages are doubled and reordered, each is taken in once and in order, as long as
        /// the sender goes on sending what is missing.
        #[test]
        fn each_is_taken_in_once_and_in_order(order in prop::collection::vec(1u64..40, 0..300)) {
            let mut window = Window::after(0);
            let mut taken = Vec::new();
            for seq in order.into_iter().chain(1..40) {
                if let Arrival::Next(next) = window.arrive(seq, seq) {
                    taken.extend(next.into_iter().map(|(_, message)| message));
                }
            }
            prop_assert_eq!(taken, (1..40).collect::<Vec<_>>());
        }
    }
}
