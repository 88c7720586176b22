//! A pool, made as the public documentation says: key and request by `openssl`, token from the server.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::age::openssl_key;
use crate::cli::Cli;

/// A pool and its files.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The recovery key that came with the first pool of the server.
    pub recovery: PathBuf,
    /// Its token.
    pub token: String,
}

impl Pool {
    /// Makes key and request in `dir`, and the pool; and the server's recovery key, unless it has one.
    #[must_use]
    pub fn create(cli: &Cli, dir: &Path, name: &str, has_recovery: bool) -> Self {
        let (key, request) = openssl_key(dir, name);
        let token = dir.join(format!("{name}.token"));
        let recovery = dir.join("recovery.key");
        let path = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
        let (request, token_out, recovery_out) = (path(&request), path(&token), path(&recovery));
        let recovery_out = has_recovery.then_some(recovery_out.as_str());
        let arguments = gantry_stand::pool_create(name, &request, &token_out, recovery_out);
        let made = cli.ask(&arguments);
        Self {
            id: made["id"].as_str().expect("a pool has an id").to_owned(),
            name: name.to_owned(),
            key,
            recovery,
            token: fs::read_to_string(&token).expect("the token was written").trim().to_owned(),
        }
    }

    /// The key as `SPACELIFT_POOL_PRIVATE_KEY` holds it.
    #[must_use]
    pub fn key_text(&self) -> String {
        gantry_stand::key_text(&self.key).expect("the key was written")
    }

    /// What the token says.
    #[must_use]
    pub fn token_json(&self) -> Value {
        let json = STANDARD.decode(&self.token).expect("a token is base64");
        serde_json::from_slice(&json).expect("a token holds JSON")
    }

    /// Where the token says that the broker is.
    #[must_use]
    pub fn broker(&self) -> String {
        self.token_json()["broker"]["endpoint"]
            .as_str()
            .expect("public scripts read broker.endpoint")
            .to_owned()
    }

    /// Where the token says that the API is, which launchers poll.
    #[must_use]
    pub fn api(&self) -> String {
        self.token_json()["api"].as_str().expect("the token names the API").to_owned()
    }

    /// The same token with another address of the broker.
    #[must_use]
    pub fn token_through(&self, address: &str) -> String {
        let mut token = self.token_json();
        let real = self.broker();
        let scheme =
            real.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
        token["broker"]["endpoint"] = format!("{scheme}{address}").into();
        STANDARD.encode(token.to_string())
    }
}
