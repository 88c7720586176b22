//! The environment becomes one checked [`Config`].
//!
//! Past it, nothing validates, guesses a default or reads the environment. All mistakes are found at
//! once, each with the variable, the reason and what to do. Secrets are zeroed when dropped and show
//! up as `[redacted]`.

mod amount;
pub mod day;
mod environment;
mod help;
mod mount;
mod problem;
mod proxy;
mod reader;
mod variable;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_model::Stage;
use gantry_protocol::{Endpoint, PoolKey, PoolToken};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use self::amount::{Amounts, Limit};
pub use self::day::Day;
pub use self::environment::{Passed, Secret};
pub use self::help::help;
pub use self::mount::{InvalidMount, MAX_MOUNTS, Mount, Stages};
pub use self::problem::{ConfigError, ConfigErrors, Problem, Warning};
pub use self::proxy::Proxy;
use self::reader::Reader;
pub use self::variable::{HOST, REQUIRED, RUNS, Variable, all as variables};
pub use self::wire::{BaseUrl, Wire};
pub use gantry_model::{GoDuration, InvalidDuration, LONGEST_DURATION};

/// The most keys of metadata.
const MAX_METADATA: usize = 64;
/// The most bytes of all of it: it has to fit a message.
const MAX_METADATA_BYTES: usize = 16 * 1024;
/// The longest key, and the longest value, of metadata in bytes.
const MAX_METADATA_KEY: usize = 128;
const MAX_METADATA_VALUE: usize = 512;
/// The most former keys of the pool.
const MAX_FORMER_KEYS: usize = 16;

/// Everything the launcher can be told, checked and complete.
#[expect(clippy::struct_excessive_bools, reason = "each is one variable that somebody sets or not")]
pub struct Config {
    /// The pool: broker, certificate and authority. `SPACELIFT_TOKEN`.
    pub token: PoolToken,
    /// Checked against the certificate in `token`; zeroed when dropped. `SPACELIFT_POOL_PRIVATE_KEY`.
    pub key: PoolKey,
    /// What earlier keys of the pool sealed can be opened with these. `GANTRY_FORMER_POOL_KEYS`.
    pub former_keys: Vec<PoolKey>,
    /// How long a stage may take. `SPACELIFT_LAUNCHER_RUN_TIMEOUT`, 70 minutes unless set.
    pub run_timeout: GoDuration,
    /// How long a stage may be silent. `SPACELIFT_LAUNCHER_LOGS_TIMEOUT`, 7 minutes unless set.
    pub logs_timeout: GoDuration,
    /// How long an interrupted write stage has to end by itself. `GANTRY_STOP_GRACE`, 5 minutes
    /// unless set.
    pub stop_grace: GoDuration,
    /// What the environment passes on to runs: see [`Config::passed_to`]. `SPACELIFT_WHITELIST_ENVS`.
    pub passed: Vec<Passed>,
    /// Values that no log may show, with the names they came from. `SPACELIFT_MASK_ENVS`.
    pub masked: Vec<Secret>,
    /// Files and directories of the host that stages get. `SPACELIFT_WORKER_*EXTRA_MOUNTS`.
    pub mounts: Vec<Mount>,
    /// The network of containers. `SPACELIFT_WORKER_NETWORK`, `bridge` unless set.
    pub network: String,
    /// The OCI runtime of containers; the engine's own if none. `SPACELIFT_WORKER_RUNTIME`.
    pub runtime: Option<String>,
    /// The image of runs whose stack names none. `SPACELIFT_DEFAULT_RUNNER_IMAGE`.
    pub runner_image: String,
    /// The file of the run initialization policy. `SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY`.
    pub policy: Option<PathBuf>,
    /// Whether masked logs of runs are printed too. `SPACELIFT_RUN_LOGS_ON_STANDARD_OUTPUT_ENABLED`.
    pub prints_run_logs: bool,
    /// Whether logs of runs show the exact commands. `SPACELIFT_DEBUG`.
    pub shows_commands: bool,
    /// The worker's metadata. `SPACELIFT_METADATA_<key>`, without what stands before the key.
    pub metadata: BTreeMap<String, String>,
    /// How the control plane is reached. `SPACELIFT_WORKER_COMMS_PROTOCOL`,
    /// `SPACELIFT_WORKER_COMMS_URL`.
    pub transport: Wire,
    /// Whose certificates are believed besides the token's authority. `ADDITIONAL_ROOT_CAS`.
    pub additional_roots: Vec<CertificateDer<'static>>,
    /// The proxy to broker and objects, if there is one. `HTTPS_PROXY`, `NO_PROXY`.
    pub proxy: Option<Proxy>,
    /// Where the engine listens; Docker's usual place if none. `DOCKER_HOST`.
    pub docker_host: Option<DockerHost>,
    /// What must outlive the launcher. `GANTRY_STATE_DIR`, `/opt/spacelift/gantry` unless set.
    pub state_dir: PathBuf,
    /// A directory in memory. `GANTRY_SECRETS_DIR`, `/dev/shm` unless set.
    pub secrets_dir: PathBuf,
    /// How the log is written. `GANTRY_LOG`, `json` unless set.
    pub log_format: LogFormat,
    /// How much is logged. `GANTRY_LOG_LEVEL`, `info` unless set.
    pub log_level: LogLevel,
    /// Whether a backend that a source declares may be replaced. `GANTRY_REPLACE_BACKEND`.
    pub replaces_backend: bool,
    /// A directory with the tool, for images that have none. `GANTRY_TOOL_DIR`.
    pub tool_dir: Option<PathBuf>,
    /// How much a run may take from this host. `GANTRY_MEMORY_LIMIT` and others.
    pub amounts: Amounts,
    /// Whether phases may be root, or in root's group, where their image says so. `GANTRY_ALLOW_ROOT`.
    pub allows_root: bool,
    /// What is worth a line in the log but no reason to refuse.
    pub warnings: Vec<Warning>,
}

/// How the launcher's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

/// How much is logged: this and everything above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may become a failure.
    Warn,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

/// Where a container engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// A Unix socket.
    Socket(PathBuf),
    /// `host:port`, by TLS with the files in this directory.
    Tls(String, PathBuf),
    /// `host:port`, in the clear.
    Tcp(String),
}

/// What is asked of the host while the environment is checked.
pub struct Host<'a> {
    /// Now, in seconds since 1970.
    pub now_unix: i64,
    /// Whether what is stored in a directory stays in memory.
    pub is_in_memory: &'a dyn Fn(&Path) -> std::io::Result<bool>,
}

impl Config {
    /// Checks the environment on this host.
    ///
    /// # Errors
    /// All mistakes that it has.
    pub fn from_environment(environment: &BTreeMap<String, String>) -> Result<Self, ConfigErrors> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now_unix = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Self::on_host(environment, &Host { now_unix, is_in_memory: &is_tmpfs })
    }

    /// Checks the environment on the host that `host` describes.
    ///
    /// # Errors
    /// All mistakes that it has.
    ///
    /// # Panics
    /// Never: what could not be read is an error.
    pub fn on_host(
        environment: &BTreeMap<String, String>,
        host: &Host<'_>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(environment);
        let pool = pool(&mut reader, host.now_unix);
        let secrets_dir = secrets_dir(&mut reader, host);
        let state_dir = reader.parsed("GANTRY_STATE_DIR", directory);
        let own: Vec<_> = state_dir.iter().chain(&secrets_dir).map(PathBuf::as_path).collect();
        let mounts = mounts(&mut reader, &own);
        let (passed, masked) = environment::read(&mut reader);
        let fields = Fields {
            former_keys: former_keys(&mut reader),
            run_timeout: reader.duration("SPACELIFT_LAUNCHER_RUN_TIMEOUT"),
            logs_timeout: reader.duration("SPACELIFT_LAUNCHER_LOGS_TIMEOUT"),
            stop_grace: reader.duration("GANTRY_STOP_GRACE"),
            mounts,
            network: reader.parsed("SPACELIFT_WORKER_NETWORK", engine_name),
            runtime: reader.optional("SPACELIFT_WORKER_RUNTIME", engine_name),
            runner_image: reader.parsed("SPACELIFT_DEFAULT_RUNNER_IMAGE", image),
            policy: reader
                .optional("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", |t| Ok(PathBuf::from(t))),
            prints_run_logs: reader.flag("SPACELIFT_RUN_LOGS_ON_STANDARD_OUTPUT_ENABLED"),
            shows_commands: reader.flag("SPACELIFT_DEBUG"),
            metadata: metadata(&mut reader),
            transport: wire::read(&mut reader, pool.as_ref().map(|(token, _)| token)),
            additional_roots: wire::roots(&mut reader),
            proxy: proxy(&mut reader),
            docker_host: by_tls(&mut reader),
            log_format: reader.parsed("GANTRY_LOG", log_format),
            log_level: reader.parsed("GANTRY_LOG_LEVEL", log_level),
            replaces_backend: reader.flag("GANTRY_REPLACE_BACKEND"),
            tool_dir: reader.optional("GANTRY_TOOL_DIR", directory),
            amounts: amount::read(&mut reader),
            allows_root: reader.flag("GANTRY_ALLOW_ROOT"),
        };
        let warnings = reader.finish(&passed)?;
        let complete = "no error was found, so every field was read";
        let (token, key) = pool.expect(complete);
        Ok(Self {
            token,
            key,
            former_keys: fields.former_keys,
            run_timeout: fields.run_timeout.expect(complete),
            logs_timeout: fields.logs_timeout.expect(complete),
            stop_grace: fields.stop_grace.expect(complete),
            passed,
            masked,
            mounts: fields.mounts,
            network: fields.network.expect(complete),
            runtime: fields.runtime,
            runner_image: fields.runner_image.expect(complete),
            policy: fields.policy,
            prints_run_logs: fields.prints_run_logs,
            shows_commands: fields.shows_commands,
            metadata: fields.metadata,
            transport: fields.transport.expect(complete),
            additional_roots: fields.additional_roots,
            proxy: fields.proxy,
            docker_host: fields.docker_host,
            state_dir: state_dir.expect(complete),
            secrets_dir: secrets_dir.expect(complete),
            log_format: fields.log_format.expect(complete),
            log_level: fields.log_level.expect(complete),
            replaces_backend: fields.replaces_backend,
            tool_dir: fields.tool_dir,
            amounts: fields.amounts.expect(complete),
            allows_root: fields.allows_root,
            warnings,
        })
    }

    /// Where the launcher connects to, by whatever transport.
    #[must_use]
    pub fn server(&self) -> Endpoint {
        let token = || self.token.broker.clone();
        match &self.transport {
            Wire::Mqtt => token(),
            Wire::Poll(base) => base.endpoint().parse().unwrap_or_else(|_| token()),
        }
    }

    /// The variables of the launcher's environment that a stage of this kind gets.
    pub fn passed_to(&self, stage: Stage) -> impl Iterator<Item = &Secret> {
        self.passed.iter().filter(move |it| it.stages.include(stage)).map(|it| &it.variable)
    }

    /// The mounts that a stage of this kind gets.
    pub fn mounts_of(&self, stage: Stage) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(move |mount| mount.stages.include(stage))
    }
}

/// What was read so far. A field is none when its variable has a mistake.
#[expect(clippy::struct_excessive_bools, reason = "as in `Config`")]
struct Fields {
    former_keys: Vec<PoolKey>,
    run_timeout: Option<GoDuration>,
    logs_timeout: Option<GoDuration>,
    stop_grace: Option<GoDuration>,
    mounts: Vec<Mount>,
    network: Option<String>,
    runtime: Option<String>,
    runner_image: Option<String>,
    policy: Option<PathBuf>,
    prints_run_logs: bool,
    shows_commands: bool,
    metadata: BTreeMap<String, String>,
    transport: Option<Wire>,
    additional_roots: Vec<CertificateDer<'static>>,
    proxy: Option<Proxy>,
    docker_host: Option<DockerHost>,
    log_format: Option<LogFormat>,
    log_level: Option<LogLevel>,
    replaces_backend: bool,
    tool_dir: Option<PathBuf>,
    amounts: Option<Amounts>,
    allows_root: bool,
}

fn pool(reader: &mut Reader<'_>, now_unix: i64) -> Option<(PoolToken, PoolKey)> {
    let token = reader.required("SPACELIFT_TOKEN", Problem::NoToken, |text| {
        let token = PoolToken::parse(text).map_err(|error| {
            if is_path(text) {
                Problem::IsPath("cat main.token")
            } else if PoolKey::from_environment(text).is_ok() {
                Problem::IsKey
            } else {
                error.into()
            }
        })?;
        let (from, until) = token.validity();
        token.check_validity(now_unix).map_err(|error| Problem::Validity {
            error,
            from: Day::of(from),
            until: Day::of(until),
        })?;
        Ok(token)
    });
    let key = reader.required("SPACELIFT_POOL_PRIVATE_KEY", Problem::NoKey, |text| {
        PoolKey::from_environment(text).map_err(|error| {
            if is_path(text) {
                Problem::IsPath("base64 -w0 pool.key")
            } else if PoolToken::parse(text).is_ok() {
                Problem::IsToken
            } else {
                error.into()
            }
        })
    });
    let (token, key) = (token?, key?);
    if let Err(mismatch) = token.check_key(&key) {
        reader.refuse("SPACELIFT_POOL_PRIVATE_KEY", mismatch);
    }
    Some((token, key))
}

/// Whether a value that is not what it should be looks like the name of a file: a dot is in no base64.
fn is_path(text: &str) -> bool {
    let is_one_line = text.len() <= 4096 && !text.contains(char::is_whitespace);
    let names_a_file = [".token", ".key", ".pem", ".txt"].iter().any(|end| text.ends_with(end));
    is_one_line && (names_a_file || text.starts_with("./") || text.starts_with("~/"))
        || Path::new(text).is_absolute() && text.len() <= 256
}

fn former_keys(reader: &mut Reader<'_>) -> Vec<PoolKey> {
    const NAME: &str = "GANTRY_FORMER_POOL_KEYS";
    let mut keys = Vec::new();
    for (place, text) in reader.list(NAME).into_iter().enumerate() {
        if place == MAX_FORMER_KEYS {
            reader.refuse(NAME, Problem::TooManyKeys);
            break;
        }
        match PoolKey::from_environment(text) {
            Ok(key) => keys.push(key),
            Err(error) => reader.refuse(NAME, Problem::FormerKey { place: place + 1, error }),
        }
    }
    keys
}

fn mounts(reader: &mut Reader<'_>, own: &[&Path]) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for (name, stages) in [
        ("SPACELIFT_WORKER_EXTRA_MOUNTS", Stages::All),
        ("SPACELIFT_WORKER_RO_EXTRA_MOUNTS", Stages::Only(Stage::Read)),
        ("SPACELIFT_WORKER_WO_EXTRA_MOUNTS", Stages::Only(Stage::Write)),
    ] {
        if let Some(text) = reader.text(name) {
            let known = mounts.len();
            mount::read(text, stages, &mut mounts, |problem| reader.refuse(name, problem));
            for problem in mount::reveal(&mounts[known..], own) {
                reader.refuse(name, problem);
            }
        }
    }
    mounts
}

fn metadata(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let (mut metadata, mut bytes) = (BTreeMap::new(), 0);
    for (key, value) in reader.family("SPACELIFT_METADATA_") {
        bytes += key.len() + value.len();
        let fits = key.len() <= MAX_METADATA_KEY
            && value.len() <= MAX_METADATA_VALUE
            && !key.chars().chain(value.chars()).any(char::is_control);
        if !fits {
            reader.refuse(&format!("SPACELIFT_METADATA_{key}"), Problem::Metadata);
        } else if metadata.len() == MAX_METADATA || bytes > MAX_METADATA_BYTES {
            reader.refuse("SPACELIFT_METADATA_<key>", Problem::TooMuchMetadata);
            break;
        } else {
            metadata.insert(key.to_owned(), value.to_owned());
        }
    }
    metadata
}

fn secrets_dir(reader: &mut Reader<'_>, host: &Host<'_>) -> Option<PathBuf> {
    reader.parsed("GANTRY_SECRETS_DIR", |text| {
        let path = directory(text)?;
        match (host.is_in_memory)(&path) {
            Ok(true) => Ok(path),
            Ok(false) => Err(Problem::NotInMemory(path)),
            Err(source) => Err(Problem::SecretsDirectory { path, source }),
        }
    })
}

pub(crate) fn is_tmpfs(path: &Path) -> std::io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    #[expect(clippy::useless_conversion, reason = "the type differs between architectures")]
    let kind = i64::from(rustix::fs::statfs(path)?.f_type);
    Ok(kind == TMPFS || kind == RAMFS)
}

fn directory(text: &str) -> Result<PathBuf, Problem> {
    Ok(mount::absolute(text)?)
}

/// What engines take as the name of a network or a runtime.
fn engine_name(text: &str) -> Result<String, Problem> {
    let fits = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(text.to_owned()) } else { Err(Problem::EngineName) }
}

fn image(text: &str) -> Result<String, Problem> {
    gantry_model::check_image(text)?;
    Ok(text.to_owned())
}

/// As other programs read them: in small letters too.
fn proxy(reader: &mut Reader<'_>) -> Option<Proxy> {
    let text = |names: [&str; 2]| names.into_iter().find_map(|name| reader.text(name));
    let (proxy, exempt) = (text(["HTTPS_PROXY", "https_proxy"]), text(["NO_PROXY", "no_proxy"]));
    match Proxy::parse(proxy?, exempt.unwrap_or_default()) {
        Ok(proxy) => Some(proxy),
        Err(problem) => {
            reader.refuse("HTTPS_PROXY", problem);
            None
        }
    }
}

fn docker_host(text: &str) -> Result<DockerHost, Problem> {
    if let Some(path) = text.strip_prefix("unix://") {
        return directory(path).map(DockerHost::Socket);
    }
    let address = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"));
    let address = address.map(|address| address.trim_end_matches('/')).filter(|address| {
        let (host, port) = address.rsplit_once(':').unwrap_or(("", ""));
        !host.is_empty()
            && port.parse::<u16>().is_ok_and(|port| port != 0)
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b))
    });
    address.map(|address| DockerHost::Tcp(address.to_owned())).ok_or(Problem::DockerHost)
}

/// As `docker` itself does: any value of `DOCKER_TLS_VERIFY` asks for TLS, except where the engine is this host's own.
fn by_tls(reader: &mut Reader<'_>) -> Option<DockerHost> {
    let host = reader.optional("DOCKER_HOST", docker_host)?;
    let DockerHost::Tcp(address) = host else { return Some(host) };
    if reader.text("DOCKER_TLS_VERIFY").is_none() {
        return Some(DockerHost::Tcp(address));
    }
    let files = reader.required("DOCKER_CERT_PATH", Problem::NoCertificates, directory)?;
    Some(DockerHost::Tls(address, files))
}

fn log_format(text: &str) -> Result<LogFormat, Problem> {
    match text {
        "json" => Ok(LogFormat::Json),
        "human" => Ok(LogFormat::Human),
        _ => Err(Problem::OneOf("json or human")),
    }
}

fn log_level(text: &str) -> Result<LogLevel, Problem> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(Problem::OneOf("error, warn, info, debug or trace")),
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("token", &self.token)
            .field("key", &"[redacted]")
            .field("former_keys", &self.former_keys.len())
            .field("run_timeout", &self.run_timeout)
            .field("logs_timeout", &self.logs_timeout)
            .field("stop_grace", &self.stop_grace)
            .field("passed", &self.passed)
            .field("masked", &self.masked)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .field("runtime", &self.runtime)
            .field("runner_image", &self.runner_image)
            .field("policy", &self.policy)
            .field("metadata", &self.metadata)
            .field("transport", &self.transport)
            .field("additional_roots", &self.additional_roots.len())
            .field("proxy", &self.proxy)
            .field("docker_host", &self.docker_host)
            .field("state_dir", &self.state_dir)
            .field("secrets_dir", &self.secrets_dir)
            .finish_non_exhaustive()
    }
}

/// The value of a variable, zeroed when dropped.
pub type Value = Zeroizing<String>;
