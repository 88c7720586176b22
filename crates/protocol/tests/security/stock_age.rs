//! The stock programs `age` and `openssl` are the judges of our formats.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use gantry_protocol::{CertificateRequest, PoolKey, SealedBytes, open, rewrap, seal_bytes, split};
use tempfile::TempDir;

use crate::support::{KEY, OTHER_KEY, recipient, run};

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn key(&self, name: &str, key: &PoolKey) -> PathBuf {
        self.put(name, &key.to_pem().unwrap())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn decrypt(key: &Path, file: &Path) -> Output {
    run("age", &["-d", "-i", text(key), text(file)])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Sizes with and without a short last chunk.
const SIZES: [usize; 5] = [0, 1, 65_536, 65_537, 300_000];

#[test]
fn stock_age_opens_what_we_seal() {
    let files = Files::new();
    let (key, other) = (files.key("pool.key", &KEY), files.key("other.key", &OTHER_KEY));
    for len in SIZES {
        let sealed = seal_bytes(&[recipient(&KEY)], &bytes(len)).unwrap();
        let file = files.put("sealed", &sealed.to_file());
        let output = decrypt(&key, &file);
        assert!(output.status.success(), "{len}: {}", said(&output));
        assert_eq!(output.stdout, bytes(len));
        assert!(!decrypt(&other, &file).status.success());
    }
}

#[test]
fn we_open_what_stock_age_seals() {
    let files = Files::new();
    let ours = KEY.public().to_ssh().unwrap();
    let other = OTHER_KEY.public().to_ssh().unwrap();
    for len in SIZES {
        let plain = files.put("plain", &bytes(len));
        let sealed = files.path("sealed");
        let args = ["-r", &other, "-r", &ours, "-o", text(&sealed), text(&plain)];
        let output = run("age", &args);
        assert!(output.status.success(), "{}", said(&output));
        let sealed = SealedBytes::from_file(&fs::read(sealed).unwrap()).unwrap();
        assert_eq!(sealed.header.tags(), [recipient(&OTHER_KEY).tag(), recipient(&KEY).tag()]);
        assert_eq!(*sealed.open(&[&KEY]).unwrap(), bytes(len));
        assert_eq!(*sealed.open(&[&OTHER_KEY]).unwrap(), bytes(len));
    }
}

#[test]
fn recipients_of_other_kinds_are_passed_over() {
    let files = Files::new();
    let (identity, plain, sealed) =
        (files.path("x25519"), files.put("plain", b"x"), files.path("sealed"));
    let made = run("age-keygen", &["-o", text(&identity)]);
    assert!(made.status.success(), "{}", said(&made));
    let line = fs::read_to_string(&identity).unwrap();
    let x25519 = line.split_whitespace().find(|word| word.starts_with("age1")).unwrap();
    let ours = KEY.public().to_ssh().unwrap();
    let output = run("age", &["-r", x25519, "-r", &ours, "-o", text(&sealed), text(&plain)]);
    assert!(output.status.success(), "{}", said(&output));
    let sealed = SealedBytes::from_file(&fs::read(sealed).unwrap()).unwrap();
    assert_eq!(*sealed.open(&[&KEY]).unwrap(), b"x");
}

#[test]
fn stock_age_opens_what_was_rewrapped() {
    let files = Files::new();
    let (key, other) = (files.key("pool.key", &KEY), files.key("other.key", &OTHER_KEY));
    let sealed = seal_bytes(&[recipient(&KEY)], b"state").unwrap();
    let header = rewrap(&sealed.header, &[&KEY], &[recipient(&OTHER_KEY)]).unwrap();
    let file = files.put("sealed", &SealedBytes { header, ..sealed }.to_file());
    assert_eq!(decrypt(&other, &file).stdout, b"state");
    assert!(!decrypt(&key, &file).status.success());
}

#[test]
fn the_key_and_request_of_the_public_instructions_do() {
    let files = Files::new();
    let (key_file, request) = (files.path("pool.key"), files.path("pool.csr"));
    let subject = "/CN=workers.spacelift.io";
    let output = run(
        "openssl",
        &[
            "req",
            "-new",
            "-newkey",
            "rsa:4096",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            text(&key_file),
            "-out",
            text(&request),
        ],
    );
    assert!(output.status.success(), "{}", said(&output));
    let key = PoolKey::from_pem(&fs::read(&key_file).unwrap()).unwrap();
    let request = CertificateRequest::parse(&fs::read_to_string(request).unwrap()).unwrap();
    assert_eq!(request.public_key(), key.public());
    assert_eq!(key.public().bits(), 4096);

    let sealed = seal_bytes(&[recipient(&key)], b"workspace").unwrap();
    let file = files.put("sealed", &sealed.to_file());
    let output = decrypt(&key_file, &file);
    assert_eq!(output.stdout, b"workspace", "{}", said(&output));

    let sealed = files.path("theirs");
    let ssh = key.public().to_ssh().unwrap();
    let output = run("age", &["-r", &ssh, "-o", text(&sealed), text(&file)]);
    assert!(output.status.success(), "{}", said(&output));
    let (header, payload) =
        split(std::io::BufReader::new(fs::File::open(sealed).unwrap())).unwrap();
    let mut plain = Vec::new();
    std::io::copy(&mut open(&[&key], &header, payload).unwrap(), &mut plain).unwrap();
    assert_eq!(plain, fs::read(file).unwrap());
}
