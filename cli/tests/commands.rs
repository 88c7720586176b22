//! The real command against a real server on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands {
    mod documents;
    mod freeze;
    mod help;
    mod operate;
    mod ready;
    mod server;
    mod serving;
    mod way;
    mod wrong;
}
