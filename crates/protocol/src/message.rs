//! The messages between launchers and the control plane, and the envelope that carries them.
//!
//! An envelope is one JSON object of at most [`MAX_ENVELOPE`] bytes: `{v, id, kind, seq?, body, sig}`.
//! The signature covers everything else together with the [`Binding`]: direction, pool, worker and
//! the nonce of the launcher's `hello`. So a message is worth nothing in another session, for another
//! worker or in the other direction. The bytes that are signed are [`signed_bytes`]; the body is
//! signed as it was spelled, so nothing needs a canonical JSON.
//!
//! A kind that must not be lost carries a `seq`, counts up by one and is kept by its sender until an
//! `ack` names it or a later one: see [`Window`].

mod body;
mod envelope;
mod shorten;
mod window;

pub use body::{
    Ack, Bye, Cancel, Carried, Claim, Closing, Cycle, Decision, Decline, Delta, Drain, Gone, Grant,
    Heartbeat, Hello, LogKey, MoreOutputs, NeedUrls, Offer, Output, PhaseEvent, PhaseReport,
    PutUrl, RefusalReason, Refused, Revoke, RunInHand, Segment, StageOutcome, StageResult,
    StateStored, Step, StopMode, Unsupported, UrlPurpose, Urls, Versions, Welcome, WorkspaceStored,
};
pub use envelope::{
    Binding, Direction, Envelope, EnvelopeError, FromControlPlane, FromLauncher, MAX_ENVELOPE,
    Message, VERSION, signed_bytes,
};
pub use window::{Arrival, Window};
