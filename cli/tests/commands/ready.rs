//! What a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::server::Server;

/// A unit of `Type=notify` counts as started when clients are answered, not before.
#[test]
fn the_service_manager_hears_when_the_server_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut server = Server::command(folder.path()).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut said = [0; 64];
    let length = socket.recv(&mut said);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(&said[..length.unwrap()], b"READY=1");
}
