//! What the client's errors mean.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "foreign enums of dozens of variants: those not singled out are told as they are"
)]

use std::io;

use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode};
use rumqttc::v5::{ConnectionError, StateError, TlsError};
use rustls::{AlertDescription, Error as Tls};

use crate::config::Proxy;
use crate::transport::LinkError;

/// Why no connection came about.
pub(super) fn on_connect(
    endpoint: &str,
    proxy: Option<&Proxy>,
    error: ConnectionError,
) -> LinkError {
    if let Some(proxy) = proxy
        && let ConnectionError::Proxy(error) = error
    {
        let (proxy, endpoint) = (proxy.to_string(), endpoint.to_owned());
        return LinkError::Proxy { proxy, endpoint, source: error.into() };
    }
    let late = late(endpoint, proxy);
    let endpoint = || endpoint.to_owned();
    match error {
        ConnectionError::Timeout(_) => late,
        ConnectionError::Io(source) if tls_of(&source).is_none() => {
            LinkError::Unreachable { endpoint: endpoint(), source }
        }
        ConnectionError::Tls(TlsError::Io(error)) => match tls_of(&error) {
            Some(tls) => in_handshake(endpoint, tls.clone()),
            None => io_failure(endpoint, error),
        },
        ConnectionError::Io(error) => io_failure(endpoint, error),
        ConnectionError::Tls(TlsError::TLS(error)) => in_handshake(endpoint, error),
        ConnectionError::ConnectionRefused(code) => refused(code),
        other => on_connection(other),
    }
}

/// Somebody takes the connection and says nothing.
pub(super) fn late(endpoint: &str, proxy: Option<&Proxy>) -> LinkError {
    match proxy {
        Some(proxy) => LinkError::Proxy {
            proxy: proxy.to_string(),
            endpoint: endpoint.to_owned(),
            source: "it does not answer".into(),
        },
        None => LinkError::TimedOut(endpoint.to_owned()),
    }
}

/// Why a connection ended.
pub(super) fn on_connection(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::MqttState(StateError::ConnectionAborted)
        | ConnectionError::RequestsDone => LinkError::Closed,
        ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout)
        | ConnectionError::Timeout(_) => LinkError::Silent,
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            disconnected(reason_code, reason_string.as_deref())
        }
        ConnectionError::MqttState(StateError::ConnFail { reason }) => refused(reason),
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        ) => io_failure(String::new, error),
        ConnectionError::ConnectionRefused(code) => refused(code),
        other => LinkError::Failed(other.into()),
    }
}

fn io_failure(endpoint: impl Fn() -> String, error: io::Error) -> LinkError {
    if let Some(tls) = tls_of(&error) {
        return tls_failure(endpoint, tls.clone());
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => LinkError::Closed,
        _ => LinkError::Failed(error.into()),
    }
}

/// Until the handshake is over nobody has proven to be the broker, so an alert is no word of the pool's.
/// A broker that refuses the certificate says so after it, as TLS 1.3 has it.
fn in_handshake(endpoint: impl Fn() -> String, error: Tls) -> LinkError {
    match error {
        source @ Tls::AlertReceived(_) => LinkError::Foreign { endpoint: endpoint(), source },
        other => tls_failure(endpoint, other),
    }
}

fn tls_of(error: &io::Error) -> Option<&Tls> {
    error.get_ref()?.downcast_ref()
}

fn tls_failure(endpoint: impl Fn() -> String, error: Tls) -> LinkError {
    match error {
        Tls::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired),
        ) => LinkError::NotAdmitted(format!("TLS alert {alert:?}")),
        source @ (Tls::InvalidCertificate(_) | Tls::InvalidMessage(_)) => {
            LinkError::Foreign { endpoint: endpoint(), source }
        }
        other => LinkError::Failed(other.into()),
    }
}

fn refused(code: ConnectReturnCode) -> LinkError {
    match code {
        ConnectReturnCode::NotAuthorized
        | ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::Banned => LinkError::NotAdmitted(format!("{code:?}")),
        other => LinkError::Refused(format!("{other:?}")),
    }
}

/// How much of a broker's own words is told.
const MAX_WORDS: usize = 200;

/// Why the broker ended the session.
fn disconnected(code: DisconnectReasonCode, words: Option<&str>) -> LinkError {
    match code {
        DisconnectReasonCode::SessionTakenOver => LinkError::TakenOver,
        DisconnectReasonCode::NotAuthorized => LinkError::NotAdmitted("NotAuthorized".to_owned()),
        DisconnectReasonCode::NormalDisconnection => LinkError::Closed,
        DisconnectReasonCode::ServerShuttingDown => LinkError::Ended("it is stopping".to_owned()),
        DisconnectReasonCode::KeepAliveTimeout => {
            LinkError::Ended("it heard nothing from here for too long".to_owned())
        }
        DisconnectReasonCode::AdministrativeAction => {
            LinkError::Ended("somebody ended it there".to_owned())
        }
        other => {
            let words: String = words.unwrap_or_default().chars().take(MAX_WORDS).collect();
            let told = if words.is_empty() { String::new() } else { format!(", {words:?}") };
            LinkError::Ended(format!("{other:?}{told}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_the_broker_ended_a_session_is_told() {
        let told = |reason_code, words: Option<&str>| {
            let reason_string = words.map(str::to_owned);
            let ended = StateError::ServerDisconnect { reason_code, reason_string };
            on_connection(ConnectionError::MqttState(ended)).to_string()
        };
        assert!(told(DisconnectReasonCode::SessionTakenOver, None).contains("another launcher"));
        assert!(told(DisconnectReasonCode::ServerShuttingDown, None).ends_with("it is stopping"));
        let quota = told(DisconnectReasonCode::QuotaExceeded, Some("full\nof it"));
        assert!(quota.ends_with("QuotaExceeded, \"full\\nof it\""), "{quota}");
    }
}
