//! What can be wrong with the environment, in words.

use std::fmt;
use std::path::PathBuf;

use gantry_model::InvalidImage;
use gantry_protocol::{KeyError, KeyMismatch, TokenError, ValidityError};

use super::InvalidDuration;
use super::day::Day;
use super::mount::InvalidMount;
use super::variable::Unknown;
use crate::explain::{Exit, Explain};

/// What is wrong with a variable: one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No token.
    #[error(
        "it is not set: set it to the pool's token, which `gantry pool create` wrote to a file"
    )]
    NoToken,
    /// No key.
    #[error("it is not set: set it to the output of `base64 -w0 pool.key`")]
    NoKey,
    /// The name of a file where its content is expected.
    #[error(
        "it looks like the path of a file, and takes the file's content: set it to the output of `{0}`"
    )]
    IsPath(&'static str),
    /// The key in the token's place.
    #[error(
        "it holds the pool's private key: swap it with SPACELIFT_POOL_PRIVATE_KEY, and set this one to the pool's token"
    )]
    IsKey,
    /// The token in the key's place.
    #[error(
        "it holds the pool's token: swap it with SPACELIFT_TOKEN, and set this one to the output of `base64 -w0 pool.key`"
    )]
    IsToken,
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificate is not good now.
    #[error("{error} (it is valid from {from} to {until})")]
    Validity {
        /// In which way.
        error: ValidityError,
        /// Its first day.
        from: Day,
        /// Its last day.
        until: Day,
    },
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is another one's.
    #[error(transparent)]
    Mismatch(#[from] KeyMismatch),
    /// A former key is none.
    #[error("the key in place {place} is unusable")]
    FormerKey {
        /// Which of the list, from 1.
        place: usize,
        /// What is wrong with it.
        #[source]
        error: KeyError,
    },
    /// Too many former keys.
    #[error("it has more than 16 keys: leave out those that nothing is sealed to any more")]
    TooManyKeys,
    /// No duration.
    #[error("{text:?} {error}")]
    Duration {
        /// What was given.
        text: String,
        /// What is wrong with it.
        error: InvalidDuration,
    },
    /// No mount, or no directory.
    #[error(transparent)]
    Mount(#[from] InvalidMount),
    /// No size, or too little of it.
    #[error(
        "it is not a size of at least {0}: give a whole number with a unit, such as 512MiB or 6GiB, or `none`"
    )]
    Size(&'static str),
    /// No number of processors.
    #[error("it is not a number of processors from 0.01 on: give one such as 2 or 1.5, or `none`")]
    Processors,
    /// No number of processes.
    #[error("it is not a number from 16 to 4000000: give one, or `none`")]
    Count,
    /// Not one of a few words.
    #[error("it has an unknown value: give {0}")]
    OneOf(&'static str),
    /// Not a name that engines take.
    #[error(
        "it is not a name that container engines accept: use letters, digits and `_.-`, and begin with a letter or digit"
    )]
    EngineName,
    /// No image.
    #[error(transparent)]
    Image(#[from] InvalidImage),
    /// TLS without certificates.
    #[error(
        "it is not set, and DOCKER_TLS_VERIFY is: set it to the directory of ca.pem, cert.pem and key.pem"
    )]
    NoCertificates,
    /// No engine.
    #[error(
        "it is not an address that can be used: give unix:///path/to/docker.sock or tcp://host:port; for ssh, forward it to a local socket"
    )]
    DockerHost,
    /// No proxy.
    #[error(
        "it is no proxy that we can use: give http://host:port, or http://user:password@host:port; a proxy that is itself reached over TLS or SOCKS cannot be used"
    )]
    Proxy,
    /// A transport that does not exist.
    #[error("it is not a way to reach a control plane: set it to `mqtt` or `poll`")]
    Transport,
    /// Polls need a URL.
    #[error(
        "it is not set, SPACELIFT_WORKER_COMMS_PROTOCOL is `poll`, and the token names no URL: set it to the control plane's, such as https://gantry.example.com"
    )]
    NoCommsUrl,
    /// Not a URL.
    #[error(
        "it is not a URL that can be polled: give https://host or https://host:port, without a user name or a query"
    )]
    CommsUrl,
    /// Not certificates.
    #[error(
        "it is not a list of CA certificates: set it to the PEM text, to the output of `base64 -w0 ca.pem`, or to base64 of {{\"caCertificates\": [\"...\"]}} with each certificate in base64"
    )]
    Roots,
    /// Not a variable's name.
    #[error(
        "{0:?} is not the name of a variable: separate names by commas, and use letters, digits and `_`"
    )]
    Name(String),
    /// Too many names.
    #[error("it lists more than 256 names: pass a file by SPACELIFT_WORKER_EXTRA_MOUNTS instead")]
    TooManyNames,
    /// Runs would get what is the launchers' own.
    #[error(
        "{0} cannot be passed to runs, because it belongs to the pool's launchers alone: take it off the list"
    )]
    WouldGiveAway(String),
    /// Metadata that does not fit.
    #[error(
        "it does not fit: keys have at most 128 bytes, values 512, both without control characters; shorten it"
    )]
    Metadata,
    /// Too much metadata.
    #[error("it has more than 64 keys or 16 KiB in all: remove some")]
    TooMuchMetadata,
    /// Too long a value.
    #[error("it is longer than 8 KiB: check what it is set to")]
    TooLong,
    /// Secrets would reach a disk.
    #[error("{} is not in memory, so secrets would reach a disk: give a directory in a tmpfs, such as /dev/shm", .0.display())]
    NotInMemory(PathBuf),
    /// The directory cannot be looked at.
    #[error("{} cannot be used: create it, or give another directory in a tmpfs", path.display())]
    SecretsDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A mistake.
#[derive(Debug)]
pub struct ConfigError {
    /// The variable that has it.
    pub variable: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.problem)?;
        let mut cause = std::error::Error::source(&self.problem);
        while let Some(why) = cause {
            write!(f, " ({why})")?;
            cause = why.source();
        }
        Ok(())
    }
}

/// All mistakes of an environment.
#[derive(Debug)]
pub struct ConfigErrors {
    /// The mistakes.
    pub errors: Vec<ConfigError>,
    /// What may be the cause of them, such as a misspelt name.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.len() {
            1 => f.write_str("the environment has a mistake")?,
            count => write!(f, "the environment has {count} mistakes")?,
        }
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  {warning}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Explain for ConfigErrors {
    fn help(&self) -> Option<&'static str> {
        Some(
            "correct the environment and start again; `gantry-launcher --help` lists all variables",
        )
    }

    fn exit_code(&self) -> Exit {
        // A clock is set in time by others, so a service manager may go on trying.
        let is_clock = |error: &ConfigError| matches!(error.problem, Problem::Validity { .. });
        if self.errors.iter().all(is_clock) { Exit::NotNow } else { Exit::Configuration }
    }
}

/// Something odd that does no harm by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A name that begins like ours and is none.
    Unknown(Unknown),
    /// A list names a variable that is not set.
    NotSet {
        /// The list.
        list: &'static str,
        /// The name in it.
        name: String,
    },
    /// A masked variable that runs do not get.
    MaskedOnly(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(Unknown { name, nearest: Some(nearest) }) => {
                write!(f, "{name}: it has no effect in this version: did you mean {nearest}?")
            }
            Self::Unknown(Unknown { name, nearest: None }) => {
                write!(
                    f,
                    "{name}: it has no effect in this version: remove it, or check its spelling"
                )
            }
            Self::NotSet { list, name } => {
                write!(
                    f,
                    "{list}: it names {name}, which is not set: set it or take it off the list"
                )
            }
            Self::MaskedOnly(name) => write!(
                f,
                "SPACELIFT_MASK_ENVS: it names {name}, which SPACELIFT_WHITELIST_ENVS does not pass to runs: its value is masked all the same"
            ),
        }
    }
}
