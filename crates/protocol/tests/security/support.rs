//! Keys and certificates that all tests share: making an RSA key takes long.

use std::process::{Command, Output};
use std::sync::LazyLock;

use gantry_protocol::{
    Authority, CertificateRequest, Namespace, PoolKey, PoolToken, Recipient, TokenParts,
};

/// When all certificates here are issued: 2026-01-01.
pub const NOW: i64 = 1_767_225_600;
pub const POOL: &str = "01FEKAGP4AYV0DWP4QDFTANRES";

pub static KEY: LazyLock<PoolKey> = LazyLock::new(|| PoolKey::generate(2048).unwrap());
pub static OTHER_KEY: LazyLock<PoolKey> = LazyLock::new(|| PoolKey::generate(2048).unwrap());
pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::generate(NOW).unwrap());

/// The token of pool [`POOL`] with [`KEY`].
pub static TOKEN: LazyLock<PoolToken> = LazyLock::new(|| {
    let request = CertificateRequest::create(&KEY).unwrap();
    let pool = POOL.parse().unwrap();
    PoolToken::new(TokenParts {
        broker: "localhost:8883".parse().unwrap(),
        namespace: Namespace::default(),
        pool,
        certificate: AUTHORITY.issue_pool(&request, pool, NOW).unwrap().pem,
        ca: AUTHORITY.certificate_pem().to_owned(),
        api: Some("https://localhost:8443".to_owned()),
    })
    .unwrap()
});

pub fn recipient(key: &PoolKey) -> Recipient {
    Recipient::new(key.public().clone()).unwrap()
}

/// Runs a program that the tests need.
pub fn run(program: &str, args: &[&str]) -> Output {
    // starts: age, age-keygen
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("cannot run `{program}`: {error}; install {program}"))
}

/// An error and its causes, as a program prints them.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
