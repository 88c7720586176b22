//! Run initialization policies, written in Rego.
//!
//! A [`Policy`] is compiled once, when the program starts, and evaluated before a stage does
//! anything else. One element in its `deny` set ends the run. It decides from its input alone: no
//! network, no disk, no clock; the time is handed in. An evaluation that does not end in a clear
//! answer is an error, and the caller denies the run then.
//!
//! [`Input`] is what a policy sees, in the shape that published policies for private workers rely
//! on, together with the older server-side one.

mod builtins;
mod compile;
mod input;
mod jwt;
mod policy;
mod recursion;
mod source;

pub use compile::{CompileError, Place};
pub use input::{
    Change, Command, Commit, Content, Entity, Execution, Image, Input, Mount, Request, Role, Run,
    RuntimeConfig, Stack, StaticRunEnvironment, Variable, VendorSpecificConfig,
};
pub use policy::{Decision, EvaluateError, LONGEST_SOURCE, Policy, RegoVersion, TIME_LIMIT};
