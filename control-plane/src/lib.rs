//! control-plane

pub mod authority;
pub mod broker;
pub mod clock;
pub mod control_plane;
pub mod credentials;
pub mod data_dir;
pub mod error;
pub mod ids;
pub mod objects;
pub mod pools;
pub mod runs;
pub mod stacks;
pub mod store;
pub mod workers;

mod admitted;
mod watchers;
