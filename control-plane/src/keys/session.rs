//! Sessions: a JWT that says which API key it was given for, and until when.
//!
//! A session ends when its time is over or its key is revoked, whichever comes first. Nothing of it
//! is stored. Whoever fails to open one leaves a line in the log, and soon has to wait.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use gantry_model::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::KnownKey;
use super::role::Role;
use crate::clock::Clock;
use crate::error::OperationError;
use crate::rate::Rate;
use crate::store::Store;

/// How long a session lasts, in seconds.
const LASTS: u64 = 10 * 60 * 60;
/// The longest token that is looked at.
const MAX_TOKEN: usize = 4096;
/// The longest id or secret that is looked at.
const MAX_CREDENTIAL: usize = 256;

/// How many logins from one address may fail at once, and how often one more, in milliseconds.
const FAILURES: (u32, u64) = (10, 6_000);
/// How many addresses are watched. Of those beyond, the lines alone are limited.
const SOURCES: usize = 10_000;
/// How many lines about failed logins there are at once, and how often one more, in milliseconds.
const LINES: (u32, u64) = (50, 1_000);
/// How much of an id that is none is quoted.
const QUOTED: usize = 64;

/// Opens and checks sessions.
pub(crate) struct Sessions {
    store: Store,
    clock: Arc<dyn Clock>,
    sign: EncodingKey,
    check: DecodingKey,
    base_url: String,
    failures: Rate<Option<IpAddr>>,
    lines: Rate<()>,
}

/// From where a request comes, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From(pub Option<IpAddr>);

impl From {
    /// What stands for everybody who shares it: of IPv6 a whole network, whose addresses cost nothing.
    fn source(self) -> Option<IpAddr> {
        match self.0?.to_canonical() {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Some(Ipv6Addr::from_bits(network).into())
            }
        }
    }
}

/// What became of a login.
pub(crate) enum Login {
    /// There is a session.
    Opened(Session),
    /// Id or secret are wrong.
    Wrong,
    /// Too many others failed from there: it was not looked at.
    TooMany {
        /// When one more may be tried, in seconds.
        wait: u64,
    },
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Viewer {
    /// The API key's id.
    pub id: String,
    /// The API key's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Viewer {
    /// How the audit, runs and locks name them, now and later.
    pub(crate) fn actor(&self) -> String {
        format!("api::{}", self.name)
    }
}

/// A new session.
pub(crate) struct Session {
    /// The token that goes with every request.
    pub jwt: String,
    /// When it ends, in seconds since 1970.
    pub valid_until: u64,
}

/// What a token says. Public clients look for exactly one audience and an end.
#[derive(Serialize, Deserialize)]
struct Claims {
    aud: [String; 1],
    sub: String,
    iat: u64,
    exp: u64,
}

impl Sessions {
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>, key: &[u8], base_url: String) -> Self {
        let (sign, check) = (EncodingKey::from_secret(key), DecodingKey::from_secret(key));
        let failures = Rate::new(FAILURES.0, FAILURES.1, SOURCES);
        let lines = Rate::new(LINES.0, LINES.1, 1);
        Self { store, clock, sign, check, base_url, failures, lines }
    }

    /// Opens a session for an API key.
    pub(crate) async fn open(
        &self,
        id: &str,
        secret: &str,
        from: From,
    ) -> Result<Login, OperationError> {
        let source = from.source();
        if let Some(wait) = self.failures.wait_ms(&source, self.clock.now().0) {
            return Ok(Login::TooMany { wait: wait.div_ceil(1000) });
        }
        let is_possible = id.len() <= MAX_CREDENTIAL && secret.len() <= MAX_CREDENTIAL;
        let key = if is_possible { super::check(&self.store, id, secret).await? } else { None };
        let Some(key) = key else {
            self.failed(id, from);
            return Ok(Login::Wrong);
        };
        let now = seconds(self.clock.now());
        let valid_until = now + LASTS;
        let claims =
            Claims { aud: [self.base_url.clone()], sub: key.id, iat: now, exp: valid_until };
        let jwt = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
            .expect("our claims are JSON and HMAC takes keys of every length");
        Ok(Login::Opened(Session { jwt, valid_until }))
    }

    /// Says that a login failed, and counts it.
    fn failed(&self, id: &str, from: From) {
        let now = self.clock.now().0;
        self.failures.take(from.source(), now);
        if let Some(turn) = self.lines.take((), now) {
            let (from, unsaid) = (from.0.map(|from| from.to_string()), turn.held_back);
            let key: String = id.chars().take(QUOTED).collect();
            tracing::warn!(
                from,
                key,
                unsaid,
                "a login failed: there is no such API key, or its secret is another one"
            );
        }
    }

    /// Whose session `token` is, if it is one.
    pub(crate) async fn check(&self, token: &str) -> Result<Option<Viewer>, OperationError> {
        if token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[&self.base_url]);
        // By our own clock, below.
        validation.validate_exp = false;
        let claims = match jsonwebtoken::decode::<Claims>(token, &self.check, &validation) {
            Ok(decoded) => decoded.claims,
            Err(_) => return Ok(None),
        };
        if claims.exp <= seconds(self.clock.now()) {
            return Ok(None);
        }
        let key = super::find(&self.store, &claims.sub).await?;
        Ok(key.map(|KnownKey { id, name, role }| Viewer { id, name, role }))
    }
}

fn seconds(at: Timestamp) -> u64 {
    at.0 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_those_who_share_it() {
        let source = |text: &str| From(Some(text.parse().unwrap())).source().unwrap().to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
