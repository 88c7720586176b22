//! control-plane

pub mod broker;
pub mod objects;
