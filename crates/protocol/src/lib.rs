//! protocol

pub mod message;
pub mod spec;
