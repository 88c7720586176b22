//! The launchers: their sessions and leases, what they say, and what they are sent.

mod hello;
pub(crate) mod hello_limits;
pub(crate) mod ingest;
pub(crate) mod leases;
pub(crate) mod notices;
pub(crate) mod order;
pub(crate) mod outbound;
mod reconcile;
mod stages;
mod stored;
mod unsequenced;
pub(crate) mod verify;
pub(crate) mod workers;

pub(crate) use hello_limits::Hellos;
pub use outbound::Outgoing;
pub use verify::{OpenSsl, SignatureCheck};
pub use workers::Worker;
