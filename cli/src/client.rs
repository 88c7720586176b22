//! The server's API, as the commands use it.
//!
//! TLS trusts only the certificates that came with the credentials. A session is opened with the API
//! key at the first question, and again when the server does not know it any more. Every wait has an
//! end and every answer a limit.

use std::fs::File;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::config::Credentials;
use crate::failure::{Code, Explain as _, Failure};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_mins(1);
/// How long a transfer may stand still.
const STALL: Duration = Duration::from_mins(1);
/// The longest answer.
const MAX_ANSWER: usize = 32 << 20;
const LOGIN: &str = "mutation($id:ID!$secret:String!){apiKeyUser(id:$id,secret:$secret){jwt}}";

/// A standing with one server.
pub struct Client {
    http: reqwest::Client,
    credentials: Credentials,
    token: Mutex<Option<Zeroizing<String>>>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Value>,
    #[serde(default)]
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
    #[serde(default)]
    extensions: Hint,
}

#[derive(Default, Deserialize)]
struct Hint {
    next: Option<String>,
}

/// Whether a server's address is one of this host alone.
fn is_here(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Client {
    /// Prepares for `credentials`; asks nothing yet.
    pub fn new(credentials: Credentials) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            // A bearer token goes where it is meant to go and nowhere else.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(ca) = &credentials.ca {
            let trusted = reqwest::Certificate::from_pem_bundle(ca.as_bytes())
                .or_say(|| "cannot read the certificates to trust".into())?;
            builder = builder.tls_certs_only(trusted);
        }
        // As for a launcher: what is on this host is not behind a proxy.
        if is_here(&credentials.endpoint) {
            builder = builder.no_proxy();
        }
        let http = builder.build().or_say(|| "cannot prepare for TLS".into())?;
        Ok(Self { http, credentials, token: Mutex::new(None) })
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &str {
        &self.credentials.endpoint
    }

    /// Asks the GraphQL API.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        query: &str,
        variables: Value,
    ) -> Result<T, Failure> {
        self.ask_with(query, variables, None).await
    }

    /// The same, with metadata for the run that it makes or changes.
    pub async fn ask_with<T: DeserializeOwned>(
        &self,
        query: &str,
        variables: Value,
        metadata: Option<&str>,
    ) -> Result<T, Failure> {
        let body = json!({ "query": query, "variables": variables });
        let token = self.token().await?;
        let answer = match self.post(&body, Some(&token), metadata).await {
            // The session may have ended, or the server been set up afresh.
            Err(failure) if failure.code() == Code::Unauthorized => {
                self.forget(&token).await;
                let token = self.token().await?;
                self.post(&body, Some(&token), metadata).await?
            }
            answer => answer?,
        };
        serde_json::from_value(answer)
            .or_say(|| {
                format!("{} answers with something other than this gantry expects", self.endpoint())
            })
            .map_err(|failure| failure.next("use a `gantry` of the server's version"))
    }

    async fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let body = json!({ "query": LOGIN, "variables": {
            "id": self.credentials.key_id,
            "secret": self.credentials.key_secret.as_str(),
        }});
        let answer = self.post(&body, None, None).await?;
        let jwt = answer["apiKeyUser"]["jwt"].as_str().ok_or_else(|| self.refused())?;
        Ok(token.insert(Zeroizing::new(jwt.to_owned())).clone())
    }

    async fn forget(&self, old: &str) {
        let mut token = self.token.lock().await;
        if token.as_ref().is_some_and(|token| token.as_str() == old) {
            *token = None;
        }
    }

    fn refused(&self) -> Failure {
        Failure::new(format!("{} refuses the API key {}", self.endpoint(), self.credentials.key_id))
            .with(Code::Unauthorized)
            .next(
                "run `gantry login` with a key of this server; its first one is in DATA/admin.json",
            )
    }

    async fn post(
        &self,
        body: &Value,
        token: Option<&Zeroizing<String>>,
        metadata: Option<&str>,
    ) -> Result<Value, Failure> {
        let url = format!("{}/graphql", self.endpoint());
        let mut request = self.http.post(url).timeout(ANSWER).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token.as_str());
        }
        if let Some(metadata) = metadata {
            request = request.header("Spacelift-User-Provided-Run-Metadata", metadata);
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let content =
            bounded(response, MAX_ANSWER).await.map_err(|error| self.unreachable(error))?;
        if status != StatusCode::OK {
            return Err(self.strange(status, &content));
        }
        let answer: Answer = serde_json::from_slice(&content).map_err(|_| {
            Failure::new(format!("{} is not a Gantry server", self.endpoint()))
                .next("check the address that you logged in to")
        })?;
        match answer.errors.into_iter().next() {
            None => Ok(answer.data.unwrap_or(Value::Null)),
            Some(complaint) if complaint.message.contains("unauthorized") => Err(self.refused()),
            Some(Complaint { message, extensions: Hint { next } }) => {
                let next = next.or_else(|| where_to_look(&message).map(str::to_owned));
                let failure = Failure::new(message);
                Err(match next {
                    Some(next) => failure.next(next),
                    None => failure,
                })
            }
        }
    }

    /// Starts to read a run's log and states as server-sent events, from byte `from` of the log.
    pub async fn follow(&self, run: &str, from: u64) -> Result<Response, Failure> {
        self.get_log(run, from, "text/event-stream").await
    }

    /// Starts to read what is stored of a run's log, from byte `from`.
    pub async fn log(&self, run: &str, from: u64) -> Result<Response, Failure> {
        self.get_log(run, from, "application/octet-stream").await
    }

    async fn get_log(
        &self,
        run: &str,
        from: u64,
        accept: &'static str,
    ) -> Result<Response, Failure> {
        let url = format!("{}/runs/{run}/log?from={from}", self.endpoint());
        for is_last in [false, true] {
            let token = self.token().await?;
            let request = self.http.get(&url).bearer_auth(token.as_str()).header(ACCEPT, accept);
            let response = request.send().await.map_err(|error| self.unreachable(error))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::UNAUTHORIZED if !is_last => self.forget(&token).await,
                StatusCode::UNAUTHORIZED => break,
                StatusCode::NOT_FOUND => {
                    return Err(
                        Failure::new(format!("run {run} not found")).next("see `gantry run list`")
                    );
                }
                status => {
                    let content = bounded(response, 4096).await.unwrap_or_default();
                    return Err(self.strange(status, &content));
                }
            }
        }
        Err(self.refused())
    }

    /// Puts a file at a pre-signed url.
    pub async fn put(
        &self,
        url: &str,
        headers: &[(String, String)],
        file: File,
        size: u64,
    ) -> Result<(), Failure> {
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            let name =
                HeaderName::try_from(name).or_say(|| "the server names a wrong header".into())?;
            let value =
                HeaderValue::try_from(value).or_say(|| "the server names a wrong header".into())?;
            sent.insert(name, value);
        }
        sent.insert(CONTENT_LENGTH, HeaderValue::from(size));
        let body = reqwest::Body::from(tokio::fs::File::from_std(file));
        let request = self.http.put(url).headers(sent).body(body);
        let response = request.send().await.map_err(|error| store_unreachable(url, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let content = bounded(response, 4096).await.unwrap_or_default();
        Err(store_refused(url, status, &content))
    }

    /// Begins to get an object of exactly `size` bytes from a pre-signed url.
    pub async fn get(&self, url: &str, size: u64) -> Result<Coming, Failure> {
        let answer = self.http.get(url).send().await;
        let response = answer.map_err(|error| store_unreachable(url, error))?;
        let status = response.status();
        if !status.is_success() {
            let content = bounded(response, 4096).await.unwrap_or_default();
            return Err(store_refused(url, status, &content));
        }
        Ok(Coming { url: url.to_owned(), response, left: size })
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let cause = root(error);
        let next = if cause.contains("peer certificate") {
            "log in again with the server's own CA: `gantry login --from DATA/admin.json`"
        } else {
            "check that `gantry server` runs there, and the address that you logged in with"
        };
        Failure::new(format!("cannot reach {}", self.endpoint()))
            .with(Code::Unreachable)
            .next(next)
            .because(cause)
    }

    fn strange(&self, status: StatusCode, content: &[u8]) -> Failure {
        let said: String = String::from_utf8_lossy(content).trim().chars().take(200).collect();
        let text = format!("{} answers with status {status}: {said}", self.endpoint());
        let failure = Failure::new(text.trim_end_matches([':', ' ']));
        if status.is_server_error() { failure.with(Code::Unreachable) } else { failure }
    }
}

/// An object on its way here.
pub struct Coming {
    url: String,
    response: Response,
    left: u64,
}

impl Coming {
    /// The next part of it; none at its end, which comes when it should.
    pub async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        let part = self.response.chunk().await;
        let part = part.map_err(|error| store_unreachable(&self.url, error))?;
        let length = part.as_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(length) {
            Some(left) if part.is_some() || left == 0 => {
                self.left = left;
                Ok(part)
            }
            Some(_) | None => {
                Err(Failure::new("the object store gave another length than was stored")
                    .next("try again; if it stays so, the object store lost or changed the object"))
            }
        }
    }
}

/// Reads an answer of at most `limit` bytes; what is longer is cut there.
async fn bounded(mut response: Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let chunk: Bytes = chunk;
        let room = limit.saturating_add(1) - content.len();
        content.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if content.len() > limit {
            break;
        }
    }
    Ok(content)
}

/// What is behind an error of a request. The layers above it name parts of the library.
fn root(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The command that lists what a complaint of the server's says it does not have.
fn where_to_look(message: &str) -> Option<&'static str> {
    match message.strip_suffix(" not found")?.split(' ').next()? {
        "stack" => Some("see `gantry stack list`"),
        "pool" | "worker" => Some("see `gantry pool list` and `gantry pool show`"),
        "run" => Some("see `gantry run list`"),
        "API" => Some("see `gantry key list`"),
        _ => None,
    }
}

/// The host of a pre-signed url: the rest of it is a credential and is not shown.
fn host(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let host = parsed.as_ref().and_then(reqwest::Url::host_str).unwrap_or("?");
    match parsed.as_ref().and_then(reqwest::Url::port) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn store_unreachable(url: &str, error: reqwest::Error) -> Failure {
    let (what, next) = if error.is_connect() {
        (
            "cannot reach the object store",
            "check that this machine can reach it; `gantry server --objects-listen` sets where it listens",
        )
    } else {
        (
            "the transfer broke off at the object store",
            "look at the server's log: its disk may be full",
        )
    };
    Failure::new(format!("{what} {}", host(url)))
        .with(Code::Unreachable)
        .because(root(error))
        .next(next)
}

fn store_refused(url: &str, status: StatusCode, content: &[u8]) -> Failure {
    let content = String::from_utf8_lossy(content);
    let code = code_of(&content).map_or(String::new(), |code| format!(" ({code})"));
    Failure::new(format!("the object store {} answers with status {status}{code}", host(url)))
        .next("try again, and look at the server's log")
}

/// The word with which S3 says what is wrong.
fn code_of(answer: &str) -> Option<&str> {
    let (code, _) = answer.split_once("<Code>")?.1.split_once("</Code>")?;
    Some(code).filter(|code| code.len() <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_object_store_says_is_found() {
        assert_eq!(code_of("<?xml?><Error><Code>NoSuchKey</Code></Error>"), Some("NoSuchKey"));
        assert_eq!(code_of("<html>"), None);
    }

    #[test]
    fn what_is_missing_can_be_looked_up() {
        assert_eq!(where_to_look("stack net not found"), Some("see `gantry stack list`"));
        assert_eq!(where_to_look("cannot stop a run that is FINISHED"), None);
    }

    #[test]
    fn a_signed_url_is_not_shown() {
        assert_eq!(host("https://s:1985/gantry/a?X-Amz-Signature=hush"), "s:1985");
        assert_eq!(host("nonsense"), "?");
    }
}
