//! What does not hold yet, rule by rule. Nothing is added here but with a reason; what is not needed any more goes.

/// This file, for what is told about it.
pub const HERE: &str = "xtask/src/walls/exceptions.rs:1";

/// Files that name `sqlx` outside of the store.
pub const SQL: &[&str] = &[];

/// Files that ask for the time of the wall clock themselves.
pub const CLOCKS: &[&str] = &[
    "control-plane/src/server.rs",
    "launcher/src/config.rs",
    "launcher/src/policy/evaluator.rs",
    "launcher/src/report.rs",
    "launcher/src/session/identity.rs",
    "launcher/src/stage/policy.rs",
];

/// Files that make randomness themselves.
pub const RANDOM: &[&str] = &[
    "control-plane/src/keys.rs",
    "control-plane/src/objects/local.rs",
    "control-plane/src/server/files.rs",
    "control-plane/src/transport/poll/challenges.rs",
    "control-plane/src/transport/poll/sessions.rs",
    "launcher/src/session/identity.rs",
];

/// Files with more than 500 lines.
pub const LONG: &[&str] = &[
    "crates/protocol/src/message/body.rs",
    "launcher/src/config.rs",
    "launcher/src/engine/fake.rs",
    "launcher/src/launch.rs",
    "launcher/src/session/exchange.rs",
];

/// Modules in a circle: the crate's folder, their parent, and their names.
pub const CIRCLES: &[(&str, &str, &[&str])] = &[
    ("control-plane", "crate", &["runs", "stacks"]),
    ("control-plane", "crate::http::graphql::types", &["input", "run", "stack", "tool"]),
    ("control-plane", "crate::store", &["connection", "postgres"]),
    ("crates/protocol", "crate", &["key", "seal"]),
    ("crates/protocol", "crate::seal", &["header", "open", "payload"]),
    (
        "crates/spool",
        "crate",
        &["carried", "environment", "error", "event", "frame", "layout", "order", "side", "writer"],
    ),
    ("launcher", "crate", &["engine", "limits", "session", "transport"]),
    ("launcher", "crate::config", &["environment", "reader"]),
    ("launcher", "crate::journal", &["file", "record"]),
    ("launcher", "crate::mask", &["forms", "leaves"]),
    (
        "launcher",
        "crate::stage",
        &["blame", "container", "ending", "follow", "order", "policy", "prepare", "state", "waits"],
    ),
    ("policy", "crate", &["builtins", "compile", "jwt", "policy", "recursion", "source"]),
    ("xtask", "crate", &["process", "undo"]),
];
