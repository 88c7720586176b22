//! The spool: files through which the worker binary hands output, events and state to the launcher.
//!
//! One writer, the worker binary inside the container, appends frames to numbered segments; one
//! reader, the launcher outside, follows them and removes what it has stored elsewhere. Either may
//! die at any instant: what was written stays, and a reader resumes at any [`Position`] without a
//! lost or doubled byte.
//!
//! The reader trusts nothing that it finds: names are fixed, links and special files are refused,
//! every length is bounded, every frame carries a checksum. `docs/spool.md` has the format.

mod begun;
mod carried;
mod environment;
mod error;
mod event;
mod frame;
mod layout;
pub mod order;
mod reader;
mod side;
mod time;
mod watch;
mod writer;

pub use begun::{Begun, BegunError, has_begun, make_begun};
pub use carried::{Carried, MAX_CARRIED};
pub use environment::{DEFAULT_PATH, Layers, Variables, merged};
pub use error::SpoolError;
pub use event::{Event, MAX_STATES, MAX_TEXT, Outcome, StopReason};
pub use frame::{Body, Frame, MAX_EVENT, MAX_OUTPUT, MAX_PAYLOAD, Position, SEGMENT_SIZE, VERSION};
pub use layout::{ANSWERS, InvalidSideName, SideName, is_stored, lay_out, mark_stored};
pub use reader::{Reader, held};
pub use side::{SideFile, SideFileWriter, open_side_file, sha256, sha256_of};
pub use time::BootTime;
pub use watch::Watch;
pub use writer::{Accepted, Limits, WhenFull, Writer};
