//! A wire for tests. It keeps the promises of the real one: order, at most once per publish, a close
//! that waits. Its other end decides when a connection is accepted, refused, stalled or cut.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Address, Link, LinkError, Transport};

/// How many messages wait on either end of the wire.
const CAPACITY: usize = 1024;

/// A wire and its other end.
#[must_use]
pub fn wire() -> (FakeTransport, FarEnd) {
    let (attempts, receiver) = mpsc::channel(16);
    (FakeTransport { attempts }, FarEnd { attempts: receiver })
}

/// The launcher's end.
#[derive(Debug)]
pub struct FakeTransport {
    attempts: mpsc::Sender<Attempt>,
}

/// The other end: sees every attempt to connect.
#[derive(Debug)]
pub struct FarEnd {
    attempts: mpsc::Receiver<Attempt>,
}

/// An attempt to connect, not yet answered. Dropping it refuses; keeping it stalls.
#[derive(Debug)]
pub struct Attempt {
    /// Who connects.
    pub address: Address,
    /// What is to be published if the connection breaks.
    pub will: Bytes,
    answer: oneshot::Sender<Result<FakeLink, LinkError>>,
}

/// The other end of an accepted connection. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Remote {
    received: mpsc::Receiver<Bytes>,
    deliver: mpsc::Sender<Result<Bytes, LinkError>>,
}

/// A connection.
#[derive(Debug)]
pub struct FakeLink {
    publish: mpsc::Sender<Bytes>,
    arrived: mpsc::Receiver<Result<Bytes, LinkError>>,
}

impl FarEnd {
    /// The next attempt; none once the launcher is gone.
    pub async fn attempt(&mut self) -> Option<Attempt> {
        self.attempts.recv().await
    }
}

impl Attempt {
    /// Accepts.
    #[must_use]
    pub fn accept(self) -> Remote {
        let (publish, received) = mpsc::channel(CAPACITY);
        let (deliver, arrived) = mpsc::channel(CAPACITY);
        // If nobody waits any more, the remote's first read says so.
        drop(self.answer.send(Ok(FakeLink { publish, arrived })));
        Remote { received, deliver }
    }

    /// Refuses.
    pub fn refuse(self, why: LinkError) {
        drop(self.answer.send(Err(why)));
    }
}

impl Remote {
    /// The next message of the launcher; none once it has disconnected.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.received.recv().await
    }

    /// Delivers a message, if the launcher is still there.
    pub async fn deliver(&self, payload: impl Into<Bytes>) {
        drop(self.deliver.send(Ok(payload.into())).await);
    }

    /// Ends the connection for this reason.
    pub async fn fail(self, why: LinkError) {
        drop(self.deliver.send(Err(why)).await);
    }
}

impl Transport for FakeTransport {
    type Link = FakeLink;

    async fn connect(&mut self, address: &Address, will: Bytes) -> Result<FakeLink, LinkError> {
        let (answer, answered) = oneshot::channel();
        let attempt = Attempt { address: address.clone(), will, answer };
        self.attempts.send(attempt).await.map_err(|_| LinkError::Closed)?;
        answered.await.unwrap_or(Err(LinkError::Closed))
    }
}

impl Link for FakeLink {
    fn publish(&mut self, payload: Bytes) {
        drop(self.publish.try_send(payload));
    }

    async fn next(&mut self) -> Result<Bytes, LinkError> {
        self.arrived.recv().await.unwrap_or(Err(LinkError::Closed))
    }

    async fn close(self) -> Result<(), LinkError> {
        Ok(()) // What was published is in the channel already.
    }
}
