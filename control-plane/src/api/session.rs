//! Sessions: a JWT that says which API key it was given for, and until when.
//!
//! A session ends when its time is over or its key is revoked, whichever comes first. Nothing of it
//! is stored.

use std::sync::Arc;

use gantry_model::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::keys::{self, KnownKey};
use crate::clock::Clock;
use crate::error::OperationError;
use crate::store::Store;

/// How long a session lasts, in seconds.
const LASTS: u64 = 10 * 60 * 60;
/// The longest token that is looked at.
const MAX_TOKEN: usize = 4096;
/// The longest id or secret that is looked at.
const MAX_CREDENTIAL: usize = 256;

/// Opens and checks sessions.
pub(super) struct Sessions {
    store: Store,
    clock: Arc<dyn Clock>,
    sign: EncodingKey,
    check: DecodingKey,
    base_url: String,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    /// The API key's id.
    pub id: String,
    /// The API key's name.
    pub name: String,
}

impl Viewer {
    /// How the audit, runs and locks name them, now and later.
    pub(super) fn actor(&self) -> String {
        format!("api::{}", self.name)
    }
}

/// A new session.
pub(super) struct Session {
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
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>, key: &[u8], base_url: String) -> Self {
        let (sign, check) = (EncodingKey::from_secret(key), DecodingKey::from_secret(key));
        Self { store, clock, sign, check, base_url }
    }

    /// Opens a session for an API key; none if id or secret are wrong.
    pub(super) async fn open(
        &self,
        id: &str,
        secret: &str,
    ) -> Result<Option<Session>, OperationError> {
        if id.len() > MAX_CREDENTIAL || secret.len() > MAX_CREDENTIAL {
            return Ok(None);
        }
        let Some(key) = keys::check(&self.store, id, secret).await? else { return Ok(None) };
        let now = seconds(self.clock.now());
        let valid_until = now + LASTS;
        let claims =
            Claims { aud: [self.base_url.clone()], sub: key.id, iat: now, exp: valid_until };
        let jwt = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
            .expect("our claims are JSON and HMAC takes keys of every length");
        Ok(Some(Session { jwt, valid_until }))
    }

    /// Whose session `token` is, if it is one.
    pub(super) async fn check(&self, token: &str) -> Result<Option<Viewer>, OperationError> {
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
        let key = keys::find(&self.store, &claims.sub).await?;
        Ok(key.map(|KnownKey { id, name }| Viewer { id, name }))
    }
}

fn seconds(at: Timestamp) -> u64 {
    at.0 / 1000
}
