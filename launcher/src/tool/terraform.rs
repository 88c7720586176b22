//! Terraform: its commands, its plan, its outputs, and the backend that we put in its place.
//!
//! The worker binary answers Terraform's state requests, so the source must not name a backend of its
//! own. A generated override file holds an empty `http` backend and nothing else; address and
//! password are variables of the stage and stand in no file. It is made in the container just before
//! the tool runs, and only beside a configuration: alone it would be one, and one without resources.

mod blocks;
mod command;
mod plan;
mod source;

pub use command::{Commands, TOOL_DIR, show_outputs, show_plan};
pub use plan::{Planned, read_plan};
pub use source::{BackendError, look_for_backend};
