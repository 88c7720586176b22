//! A whole server: started, asked, refused a twin, stopped and started again.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage up fails")]

#[expect(dead_code, reason = "a database has more than these tests need")]
mod database;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_control_plane::config::Config;
use gantry_control_plane::server::{Running, Server, ServerError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use database::Database;

/// The databases of data directories that have none of their own; they go with the shared server.
static DATABASES: Mutex<BTreeMap<PathBuf, Database>> = Mutex::new(BTreeMap::new());

fn config(data: &Path) -> Config {
    let mut config = Config::new(data.to_owned());
    let mut databases = DATABASES.lock().unwrap();
    databases.entry(data.to_owned()).or_insert_with(Database::new).give(&mut config);
    for address in [&mut config.api, &mut config.mqtt, &mut config.objects] {
        address.set_port(0);
    }
    config
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A client that trusts the server's authority alone.
fn client(data: &Path) -> reqwest::Client {
    reqwest::Client::builder().use_preconfigured_tls(tls(data)).no_proxy().build().unwrap()
}

fn tls(data: &Path) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Opens a session with the key in `admin.json` and returns its token.
async fn log_in(running: &Running, data: &Path) -> String {
    let admin = json_file(&data.join("admin.json"));
    assert_eq!(admin["endpoint"], running.addresses().api);
    let query = "mutation($id:ID!,$secret:String!){apiKeyUser(id:$id,secret:$secret){jwt}}";
    let variables = json!({"id": admin["key_id"], "secret": admin["key_secret"]});
    let body = json!({"query": query, "variables": variables});
    let url = format!("{}/graphql", running.addresses().api);
    let request = client(data).post(url).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    answer["data"]["apiKeyUser"]["jwt"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn a_server_answers_everywhere_and_keeps_itself_to_its_owner() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let running = Server::start(config(&data)).await.unwrap();
    let file = json_file(&data.join("server.json"));
    assert_eq!(file["pid"], std::process::id());
    assert_eq!(file["api"], running.addresses().api);

    let health = client(&data).get(format!("{}/healthz", running.addresses().api));
    assert!(health.send().await.unwrap().status().is_success());
    let objects = client(&data).get(format!("{}/gantry/a", running.addresses().objects));
    assert_eq!(objects.send().await.unwrap().status(), 403);
    assert!(tokio::net::TcpStream::connect(&running.addresses().mqtt).await.is_ok());
    log_in(&running, &data).await;

    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        let expected = if found.is_dir() { 0o700 } else { 0o600 };
        let mode = found.permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{}", entry.path().display());
        names.insert(entry.file_name().into_string().unwrap());
    }
    for name in ["admin.json", "ca.key", "ca.pem", "objects", "server.json"] {
        assert!(names.contains(name), "{name}");
    }
    assert_eq!(names.contains("gantry.db"), config(&data).database.is_none());
    running.stop().await;
}

#[tokio::test]
async fn a_server_takes_as_many_files_as_it_may() {
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(256), maximum: limit.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    let root = tempfile::tempdir().unwrap();
    let running = Server::start(config(&root.path().join("data"))).await.unwrap();
    assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    running.stop().await;
}

#[tokio::test]
async fn a_second_server_on_one_data_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let running = Server::start(config(&data)).await.unwrap();
    let before = json_file(&data.join("server.json"));
    let Err(refused) = Server::start(config(&data)).await else { panic!("it was not refused") };
    assert!(matches!(refused, ServerError::DataDir(_)));
    assert_eq!(refused.exit_code(), 3);
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
    assert_eq!(json_file(&data.join("server.json")), before);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_addresses_authority_and_keys() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let first = Server::start(config(&data)).await.unwrap();
    let addresses = first.addresses().clone();
    let kept = ["ca.pem", "ca.key", "admin.json", "objects.json", "session.key"];
    let read = || kept.map(|name| std::fs::read(data.join(name)).unwrap());
    let before = read();
    // A client that stays does not hold the server up.
    let staying = client(&data);
    staying.get(format!("{}/healthz", addresses.api)).send().await.unwrap();
    let _idle = tokio::net::TcpStream::connect(&addresses.mqtt).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), first.stop()).await.unwrap();
    assert!(staying.get(format!("{}/healthz", addresses.api)).send().await.is_err());

    let second = Server::start(config(&data)).await.unwrap();
    assert_eq!(*second.addresses(), addresses);
    assert_eq!(read(), before);
    log_in(&second, &data).await;
    second.stop().await;
}

/// The certificate that a listener shows to whoever connects now.
async fn shown(data: &Path, address: &str) -> Vec<u8> {
    let address = address.trim_start_matches("https://").to_owned();
    let config = Arc::new(tls(data));
    let shake_hands = move || {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        while client.is_handshaking() {
            client.complete_io(&mut stream).unwrap();
        }
        client.peer_certificates().unwrap()[0].to_vec()
    };
    tokio::task::spawn_blocking(shake_hands).await.unwrap()
}

#[tokio::test]
async fn a_certificate_is_renewed_under_connected_clients() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let running = Server::start(config(&data)).await.unwrap();
    let addresses = running.addresses().clone();
    let all = [&addresses.api, &addresses.mqtt, &addresses.objects];
    let mut before = Vec::new();
    for address in all {
        before.push(shown(&data, address).await);
    }
    let health = format!("{}/healthz", addresses.api);
    let staying = client(&data);
    staying.get(&health).send().await.unwrap();
    let session = log_in(&running, &data).await;

    running.renew_certificate().await.unwrap();
    let written = CertificateDer::from_pem_file(data.join("server.pem")).unwrap();
    for (address, before) in all.into_iter().zip(before) {
        let now = shown(&data, address).await;
        assert_ne!(now, before, "{address}");
        assert_eq!(now, written.as_ref(), "{address}");
    }
    assert!(staying.get(&health).send().await.unwrap().status().is_success());
    assert_eq!(log_in(&running, &data).await.is_empty(), session.is_empty());
    running.renew_certificate().await.unwrap();
    running.stop().await;
    let again = Server::start(config(&data)).await.unwrap();
    assert_eq!(*again.addresses(), addresses);
    again.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it_and_the_option_for_another() {
    let root = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for option in ["--listen", "--mqtt-listen", "--objects-listen"] {
        let mut config = config(&root.path().join("data"));
        match option {
            "--listen" => config.api = address,
            "--mqtt-listen" => config.mqtt = address,
            _ => config.objects = address,
        }
        let Err(error) = Server::start(config).await else { panic!("the port is taken") };
        assert_eq!(error.exit_code(), 1);
        let next = format!("end what holds it, or give another address with {option}");
        assert!(error.to_string().contains(&format!("cannot listen on {address} ")), "{error}");
        assert!(error.to_string().ends_with(&next), "{error}");
    }
}
