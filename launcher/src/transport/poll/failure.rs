//! What failed requests mean.

use std::error::Error;
use std::io;

use gantry_protocol::poll::{Code, Refusal};
use reqwest::StatusCode;

use super::super::LinkError;

/// How much of the control plane's own words is told.
const MAX_WORDS: usize = 200;

/// Where requests go, for messages.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: String,
    /// The proxy on the way.
    pub(super) proxy: Option<String>,
}

/// Why no session was opened.
pub(super) fn on_connect(target: &Target, error: reqwest::Error) -> LinkError {
    let error = error.without_url();
    let endpoint = target.endpoint.clone();
    if error.is_timeout() {
        return late(target);
    }
    if let Some(source) = tls_of(&error) {
        return in_handshake(endpoint, source);
    }
    match &target.proxy {
        Some(proxy) if error.is_connect() => {
            LinkError::Proxy { proxy: proxy.clone(), endpoint, source: error.into() }
        }
        _ if error.is_connect() => {
            LinkError::Unreachable { endpoint, source: io::Error::other(error) }
        }
        _ => LinkError::Failed(error.into()),
    }
}

/// Somebody takes the connection and says nothing.
pub(super) fn late(target: &Target) -> LinkError {
    let endpoint = target.endpoint.clone();
    match &target.proxy {
        Some(proxy) => {
            let source = "it does not answer".into();
            LinkError::Proxy { proxy: proxy.clone(), endpoint, source }
        }
        None => LinkError::TimedOut(endpoint),
    }
}

/// Why a session ended.
pub(super) fn on_session(error: reqwest::Error) -> LinkError {
    if error.is_timeout() {
        LinkError::Silent
    } else {
        LinkError::Failed(error.without_url().into())
    }
}

/// What a refusal means. Without words of the control plane's somebody on the way has refused.
pub(super) fn refused(status: StatusCode, refusal: Option<Refusal>) -> LinkError {
    let Some(Refusal { code, message, .. }) = refusal else {
        return LinkError::Refused(format!("status {}", status.as_u16()));
    };
    let words = || message.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    match code {
        Code::NotAdmitted => LinkError::NotAdmitted(words()),
        Code::TakenOver => LinkError::TakenOver,
        Code::NoSession => LinkError::Ended("it does not know it any more".to_owned()),
        Code::Busy => LinkError::Ended("it is busy or stopping".to_owned()),
        Code::Prove
        | Code::ForeignWorker
        | Code::Invalid
        | Code::TooLarge
        | Code::TooMany
        | Code::Other => LinkError::Refused(words()),
    }
}

/// Until the handshake is over nobody has proven to be the control plane, so an alert is no word of its own.
fn in_handshake(endpoint: String, error: rustls::Error) -> LinkError {
    let is_foreign = matches!(
        error,
        rustls::Error::AlertReceived(_)
            | rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidMessage(_)
    );
    if is_foreign {
        LinkError::Foreign { endpoint, source: error }
    } else {
        LinkError::Failed(error.into())
    }
}

fn tls_of(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.clone());
        }
        // An error of I/O hands on the source of what it holds, and not that itself.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = held.and_then(|held| held.downcast_ref::<rustls::Error>()) {
            return Some(tls.clone());
        }
        cause = error.source();
    }
    None
}
