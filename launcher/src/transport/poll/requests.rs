//! The requests, each made twice at most, and how much of an answer is read.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::poll::{MAX_ANSWER, MAX_BATCH, MESSAGES, Opening, Refusal, SESSION, SESSIONS};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use tokio::time::{sleep, timeout};

use super::super::LinkError;
use super::failure::{self, Target};
use crate::config::BaseUrl;

/// After how long a request that broke is made once more.
const AGAIN: Duration = Duration::from_millis(250);

/// How messages stand in a body.
const FORM: &str = "application/x-ndjson";

/// Makes requests to one control plane.
#[derive(Clone)]
pub(super) struct Requests {
    client: Client,
    base: BaseUrl,
    pub(super) target: Target,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// The requests of one session.
pub(super) struct Session {
    requests: Requests,
    /// The token, marked as a secret.
    bearer: HeaderValue,
    /// How long an answer may take.
    within: Duration,
}

impl Requests {
    pub(super) fn new(client: Client, base: BaseUrl, proxy: Option<String>) -> Self {
        let target = Target { endpoint: base.endpoint(), proxy };
        Self { client, base, target }
    }

    /// Asks for a session. Not made again: the next attempt to connect is.
    pub(super) async fn open(&self, opening: &Opening) -> Result<Answer, LinkError> {
        let request = self.client.post(self.base.at(SESSIONS)).json(opening);
        answer(request).await.map_err(|error| failure::on_connect(&self.target, error))
    }

    pub(super) fn session(&self, token: &str, within: Duration) -> Result<Session, LinkError> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| LinkError::Failed(error.into()))?;
        bearer.set_sensitive(true);
        Ok(Session { requests: self.clone(), bearer, within })
    }
}

impl Session {
    /// Asks for messages, and waits for some.
    pub(super) async fn fetch(&self) -> Result<Answer, LinkError> {
        self.ask(|| self.request(Method::GET, MESSAGES)).await
    }

    /// Says this.
    pub(super) async fn say(&self, body: Bytes) -> Result<Answer, LinkError> {
        let request = || {
            let request = self.request(Method::POST, MESSAGES);
            request.header(CONTENT_TYPE, FORM).body(body.clone())
        };
        self.ask(request).await
    }

    /// Leaves in good order.
    pub(super) async fn leave(&self) -> Result<(), LinkError> {
        self.ask(|| self.request(Method::DELETE, SESSION)).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.requests.base.at(path);
        let request = self.requests.client.request(method, url);
        request.header(reqwest::header::AUTHORIZATION, self.bearer.clone())
    }

    /// Both tries together take no longer than one may.
    async fn ask(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, LinkError> {
        let asking = async {
            match answer(request()).await {
                Ok(answer) if !is_gateway(answer.status) => Ok(answer),
                Ok(_) | Err(_) => {
                    sleep(AGAIN).await;
                    answer(request()).await.map_err(failure::on_session)
                }
            }
        };
        timeout(self.within, asking).await.unwrap_or(Err(LinkError::Silent))
    }
}

impl Answer {
    /// What was refused, if the control plane said so.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        refusal(&self.body)
    }
}

pub(super) fn refusal(body: &[u8]) -> Option<Refusal> {
    serde_json::from_slice(body).ok()
}

/// Whether something on the way had trouble of its own.
const fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
}

async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let status = response.status();
    // A page of a proxy's own is no answer of the control plane's, whatever its status says.
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|form| form == FORM);
    if status == StatusCode::OK && !is_ours {
        return Ok(Answer { status: StatusCode::BAD_GATEWAY, body: Bytes::new() });
    }
    let most = if status == StatusCode::OK { MAX_BATCH } else { MAX_ANSWER };
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        if body.len() + part.len() > most {
            // Not the control plane's own words, which are never so many.
            return Ok(Answer { status: StatusCode::BAD_GATEWAY, body: Bytes::new() });
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status, body: body.into() })
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("target", &self.target).finish_non_exhaustive()
    }
}
