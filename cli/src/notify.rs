//! Tells the service manager that started us how far we are, where there is one that asks.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::config::Environment;

/// Says that the server answers, to whom `NOTIFY_SOCKET` names: systemd, for a unit of `Type=notify`.
pub fn ready(environment: &Environment) -> io::Result<()> {
    let Some(name) = environment.get("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
