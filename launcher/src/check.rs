//! `gantry-launcher --check`: everything that a run needs of this host, looked at once, without taking one.
//!
//! Each finding is a line. What fails says why and what to do, and does not keep the rest from being
//! looked at; the first failure picks the exit code. The pool hears of a connection, and no launcher.

use gantry_model::WorkerId;
use ulid::Ulid;

use crate::config::day::Day;
use crate::config::{Config, Wire};
use crate::engine::{Engine, EngineError};
use crate::explain::{Exit, Explain, explain};
use crate::policy::Policy;
use crate::session::Timing;
use crate::start::{StartError, connect};
use crate::transport::mqtt::Mqtt;
use crate::transport::poll::Poll;
use crate::transport::{Address, Link as _, Transport};

/// What was found, and with which code the program ends.
#[derive(Debug, Default)]
pub struct Findings {
    first: Option<Exit>,
}

impl Findings {
    /// With which code the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.first.unwrap_or(Exit::Done)
    }

    fn good(say: &mut impl FnMut(&str), what: &str, found: &str) {
        say(&format!("ok    {what}: {found}"));
    }

    fn bad(&mut self, say: &mut impl FnMut(&str), what: &str, error: &dyn Explain) {
        self.first = self.first.or(Some(error.exit_code()));
        let text = explain(error).replace('\n', "\n    ");
        say(&format!("FAIL  {what}: {text}"));
    }
}

/// Looks at everything; `say` gets a line for each finding. Token, key and certificate were looked at when `config`
/// was made.
pub async fn check(config: &Config, mut say: impl FnMut(&str)) -> Findings {
    let mut findings = Findings::default();
    let say = &mut say;
    let (from, until) = config.token.validity();
    let token = &config.token;
    Findings::good(
        say,
        "token",
        &format!("pool {}, {} at {}", token.pool, what(&config.transport), config.server()),
    );
    Findings::good(say, "key", "it is the private key of the token's certificate");
    Findings::good(
        say,
        "certificate",
        &format!("good from {} to {}", Day::of(from), Day::of(until)),
    );
    if let Some(path) = &config.policy {
        match Policy::read(path).await {
            Ok(_) => Findings::good(say, "policy", "it compiles"),
            Err(error) => findings.bad(say, "policy", &error),
        }
    }
    match connect(config).await {
        Ok(engine) => check_engine(&engine, config, &mut findings, say).await,
        Err(error) => {
            findings.bad(say, "engine", &StartError::from(error));
            say("      image: not looked at, because the container engine is missing");
        }
    }
    match reach_server(config).await {
        Ok(()) => Findings::good(say, what(&config.transport), "it admits this pool's workers"),
        Err(error) => findings.bad(say, what(&config.transport), error.as_ref()),
    }
    findings
}

/// What the launcher connects to.
const fn what(wire: &Wire) -> &'static str {
    match wire {
        Wire::Mqtt => "broker",
        Wire::Poll(_) => "server",
    }
}

async fn check_engine<E: Engine>(
    engine: &E,
    config: &Config,
    findings: &mut Findings,
    say: &mut impl FnMut(&str),
) {
    match engine.ping().await {
        Ok(version) => Findings::good(say, "engine", &version),
        Err(error) => findings.bad(say, "engine", &StartError::from(error)),
    }
    match has_image(engine, &config.runner_image).await {
        Ok(found) => Findings::good(say, "image", &format!("{} {found}", config.runner_image)),
        Err(error) => findings.bad(say, "image", &ImageError { error }),
    }
}

async fn has_image<E: Engine>(engine: &E, name: &str) -> Result<&'static str, EngineError> {
    if engine.image(name).await?.is_some() {
        return Ok("is here");
    }
    engine.pull(name, &|_| {}).await?;
    Ok("was pulled")
}

/// The image that runs use by default is not to be had.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct ImageError {
    error: EngineError,
}

impl Explain for ImageError {
    fn help(&self) -> Option<&'static str> {
        Some(
            "check SPACELIFT_DEFAULT_RUNNER_IMAGE, and that this host reaches the image's registry and may pull from it",
        )
    }

    fn exit_code(&self) -> Exit {
        Exit::Engine
    }
}

/// Connects as a worker that nobody knows and leaves again without a word.
async fn reach_server(config: &Config) -> Result<(), Box<dyn Explain>> {
    let address = Address {
        namespace: config.token.namespace.clone(),
        pool: config.token.pool,
        worker: WorkerId::from_ulid(Ulid::generate()),
    };
    let timing = Timing::default();
    match &config.transport {
        Wire::Mqtt => visit(Mqtt::new(config, &timing).map_err(boxed)?, &address).await,
        Wire::Poll(base) => visit(Poll::new(config, base, &timing).map_err(boxed)?, &address).await,
    }
}

async fn visit(mut transport: impl Transport, address: &Address) -> Result<(), Box<dyn Explain>> {
    let link = transport.connect(address, bytes::Bytes::new()).await.map_err(boxed)?;
    link.close().await.map_err(boxed)
}

fn boxed(error: impl Explain + 'static) -> Box<dyn Explain> {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_first_failure_picks_the_exit_code_and_each_says_what_to_do() {
        let mut findings = Findings::default();
        let mut said = String::new();
        let mut say = |line: &str| writeln!(said, "{line}").unwrap();
        let refused = || EngineError::Refused {
            engine: "Fake",
            what: "pull a".into(),
            message: "denied".into(),
        };
        findings.bad(&mut say, "image", &ImageError { error: refused() });
        findings.bad(
            &mut say,
            "broker",
            &crate::transport::LinkError::NotAdmitted("revoked".into()),
        );
        assert_eq!(findings.exit(), Exit::Engine);
        assert!(said.starts_with("FAIL  image: Fake cannot pull a: denied\n"), "{said}");
        assert_eq!(said.matches("next: ").count(), 2, "{said}");
    }

    #[test]
    fn without_a_failure_it_ends_well() {
        assert_eq!(Findings::default().exit(), Exit::Done);
    }
}
