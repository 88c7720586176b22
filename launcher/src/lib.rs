//! Takes runs from a pool and runs each in a fresh container.
//!
//! [`launch`] is the main loop, [`stage`] drives one stage, [`session`] is the standing with the pool,
//! [`journal`] what survives a crash. Only [`engine::docker`], [`transport::mqtt`] and [`blob`] know
//! Docker, MQTT and HTTP.

pub mod blob;
pub mod check;
pub mod config;
pub mod engine;
pub mod explain;
pub mod fitness;
pub mod health;
pub mod host;
pub mod http;
pub mod journal;
pub mod launch;
pub mod limits;
pub mod log;
pub mod mask;
pub mod policy;
pub mod reaper;
pub mod report;
pub mod session;
pub mod stage;
pub mod start;
pub mod tls;
pub mod tool;
pub mod transport;
pub mod uploads;
pub mod workspace;
