//! Pools, stacks, runs, queue, broker, objects and API.
//!
//! [`Services`](server::Services) are the rules' effects: what people ask for, what
//! launchers say, what time does. The rules themselves are in `gantry-model`. [`server`] wires it to a
//! broker, an object store, a certificate authority and the API.

pub mod audit;
pub mod authority;
pub mod clock;
pub mod config;
pub mod core;
pub mod data_dir;
pub mod error;
pub mod fleet;
pub mod http;
pub mod ids;
pub mod keys;
pub mod logs;
pub mod objects;
pub mod pools;
pub mod queue;
pub mod rate;
pub mod runs;
pub mod server;
pub mod sources;
pub mod stacks;
pub mod store;
pub mod tls;
pub mod transport;

mod check;
mod retention;
mod serve;
