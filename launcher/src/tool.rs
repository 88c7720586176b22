//! The tools that stages run.

mod bounded;
mod number;
mod outputs;
pub mod terraform;

pub use outputs::{Outputs, in_messages, read_outputs};
