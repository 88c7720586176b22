//! What went wrong with Docker, in our words: with the address, and without those of libraries.

use std::io::ErrorKind;

use bollard::errors::Error;

use super::super::{EngineError, EngineName};

const NO_SOCKET: &str = "there is no such socket";

/// Why a call failed.
pub(super) enum Failure {
    /// The engine answered with an error.
    Said { status: u16, error: EngineError },
    /// It did not answer, or not in time.
    Other(EngineError),
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Said { error, .. } | Failure::Other(error) => error,
        }
    }
}

/// None where the engine says that there is no such thing.
pub(super) fn unless_missing<T>(result: Result<T, Failure>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Said { status: 404, .. }) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The failure that an error of the library stands for.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of many errors")]
pub(super) fn said(engine: EngineName, at: &str, what: &str, error: Error) -> Failure {
    let refused = |message: &str| EngineError::Refused {
        engine,
        what: what.to_owned(),
        message: bounded(message),
    };
    match error {
        // 502 to 504: somebody before the engine, to whom it does not answer either.
        error @ (Error::DockerResponseServerError { status_code: 502..=504, .. }
        | Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HttpClientError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_)) => Failure::Other(EngineError::Unreachable {
            engine,
            at: at.to_owned(),
            what: what.to_owned(),
            why: in_words(&error),
        }),
        Error::DockerResponseServerError { status_code, message } => {
            Failure::Said { status: status_code, error: refused(&message) }
        }
        Error::DockerStreamError { error } => Failure::Other(refused(&error)),
        // Waiting does not mend an answer of another form.
        other => {
            tracing::debug!(what, error = %other, "an answer that is not understood");
            Failure::Other(refused(
                "its answer is not understood: is it Docker 20.10, or Podman 4.3, or later?",
            ))
        }
    }
}

/// Why nobody answers, without the words of libraries.
#[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums of many errors")]
fn in_words(error: &Error) -> &'static str {
    match error {
        Error::SocketNotFoundError(_) => return NO_SOCKET,
        Error::RequestTimeoutError => return "nothing came in time",
        Error::DockerResponseServerError { .. } => return "what stands before it cannot reach it",
        _ => {}
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        // It is no source of its own.
        Error::IOError { err } => Some(err),
        _ => Some(error),
    };
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                ErrorKind::NotFound => NO_SOCKET,
                ErrorKind::PermissionDenied => "this user may not use it",
                ErrorKind::ConnectionRefused => "nobody listens there",
                ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable => "there is no way to that host",
                // What TLS says of a certificate is what a person needs to know.
                ErrorKind::InvalidData => {
                    "it shows a certificate that ca.pem of DOCKER_CERT_PATH does not vouch for"
                }
                _ => "the connection broke off",
            };
        }
        cause = error.source();
    }
    "the connection broke off"
}

pub(super) fn bounded(message: &str) -> String {
    message.trim().chars().take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "unix:///var/run/docker.sock";

    fn failed(what: &str, error: Error) -> EngineError {
        said("Docker", AT, what, error).into()
    }

    #[test]
    fn what_waiting_mends_is_told_from_what_it_does_not() {
        let answer = |status_code| Error::DockerResponseServerError {
            status_code,
            message: "no".to_owned(),
        };
        let mended = [400, 404, 409, 500, 502, 503, 504]
            .map(|status| failed("do it", answer(status)).is_passing());
        assert_eq!(mended, [false, false, false, false, true, true, true]);
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(failed("do it", Error::IOError { err: broken }).is_passing());
        let nonsense = serde_json::from_str::<u8>("{").expect_err("it is no number");
        let nonsense = failed("do it", Error::JsonSerdeError { err: nonsense });
        assert!(!nonsense.is_passing());
        let words = nonsense.to_string();
        assert_eq!(
            words,
            "Docker cannot do it: its answer is not understood: is it Docker 20.10, or Podman 4.3, or later?"
        );
    }

    #[test]
    fn who_does_not_answer_is_named_with_the_reason_in_our_words() {
        let words = |error| failed("answer", error).to_string();
        let io = |kind: ErrorKind| Error::IOError { err: kind.into() };
        for (error, why) in [
            (Error::SocketNotFoundError("x".to_owned()), "there is no such socket"),
            (io(ErrorKind::NotFound), "there is no such socket"),
            (io(ErrorKind::PermissionDenied), "this user may not use it"),
            (io(ErrorKind::ConnectionRefused), "nobody listens there"),
            (io(ErrorKind::BrokenPipe), "the connection broke off"),
            (Error::RequestTimeoutError, "nothing came in time"),
        ] {
            let told =
                format!("Docker does not answer at unix:///var/run/docker.sock: {why} (answer)");
            assert_eq!(words(error), told);
        }
    }
}
