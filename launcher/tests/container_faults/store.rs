//! An object store on loopback that takes everything.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use gantry_protocol::Authority;
use gantry_protocol::message::{PutUrl, UrlPurpose};
use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub struct Store {
    address: SocketAddr,
    objects: Objects,
    listener: Option<JoinHandle<()>>,
}

impl Store {
    pub fn start(authority: &Authority, now_unix: i64) -> Self {
        let own = authority.issue_server(&["127.0.0.1"], now_unix).unwrap();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&X509::from_pem(own.pem.as_bytes()).unwrap()).unwrap();
        acceptor.set_private_key(&PKey::private_key_from_pem(&own.key).unwrap()).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let objects = Objects::default();
        let kept = Arc::downgrade(&objects);
        let listener = thread::spawn(move || {
            // One after the other: a launcher's stage stores nothing at once.
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(objects) = kept.upgrade() else { return };
                // A connection that is broken off is the launcher's to try again.
                let _ = take(&acceptor, stream, &objects);
            }
        });
        Self { address, objects, listener: Some(listener) }
    }

    /// Urls for a whole stage.
    pub fn urls(&self) -> Vec<PutUrl> {
        let url = |number: usize| PutUrl {
            purpose: UrlPurpose::Log,
            key: format!("log/{number:03}"),
            url: format!("https://{}/log/{number:03}", self.address),
            valid_ms: 3_600_000,
        };
        (0..100).map(url).collect()
    }

    /// An object's content.
    pub fn object(&self, key: &str) -> Vec<u8> {
        self.objects.lock().unwrap()[&format!("/{key}")].clone()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.objects = Objects::default();
        // Wakes the listener, which then sees that nobody holds its objects any more.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Takes one object.
fn take(acceptor: &SslAcceptor, stream: TcpStream, objects: &Objects) -> Option<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).ok()?);
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.strip_prefix("PUT ")?.split(' ').next()?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    objects.lock().unwrap().insert(path, body);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.get_mut().write_all(answer).ok()?;
    let _ = stream.get_mut().shutdown();
    Some(())
}
