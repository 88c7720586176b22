//! `gantry server`: a control plane in this process.
//!
//! It says `ready:` on standard output when clients are answered, and logs to standard error. SIGTERM
//! and SIGINT let it finish what is under way; a second one does not.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gantry_control_plane::config::{Config, DatabaseUrl, DatabaseUrlError};
use gantry_control_plane::server::{Server, ServerError, bring_over};
use gantry_control_plane::store::Progress;
use gantry_model::{GoDuration, LeaseTerms};
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::config::Environment;
use crate::failure::{Code, Explain as _, Failure};
use crate::file;
use crate::log;
use crate::notify;
use crate::output::Output;

/// Arguments of `gantry server`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where everything is kept; made by the first start. One server at a time
    #[arg(long, env = "GANTRY_DATA", value_name = "DIR", default_value = "gantry-data")]
    data: PathBuf,
    /// The PostgreSQL database that is used instead of a file in the data directory:
    /// `postgres://user@host/database`. A password in an argument is seen by everybody on the machine:
    /// give it in the environment or in a file
    #[arg(long, env = "GANTRY_DATABASE_URL", value_name = "URL", hide_env_values = true,
          value_parser = Hidden::take)]
    database_url: Option<Hidden>,
    /// A file that holds that URL
    #[arg(
        long,
        env = "GANTRY_DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "database_url"
    )]
    database_url_file: Option<PathBuf>,
    /// Bring the database of this data directory to the empty PostgreSQL database, check it there, and
    /// end. Its server must be stopped; what was there is left as gantry.db.moved
    #[arg(long, value_name = "DIR")]
    migrate_from: Option<PathBuf>,
    /// Where the HTTPS API listens; port 0 takes any free one and keeps it
    #[arg(long, env = "GANTRY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:1983",
          value_parser = address)]
    listen: SocketAddr,
    /// Where the MQTT broker listens
    #[arg(long, env = "GANTRY_MQTT_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:1984",
          value_parser = address)]
    mqtt_listen: SocketAddr,
    /// Where the S3 endpoint listens
    #[arg(long, env = "GANTRY_OBJECTS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:1985",
          value_parser = address)]
    objects_listen: SocketAddr,
    /// A name or address by which this server is reached, for its certificate; may be repeated.
    /// Tokens and URLs have the first one that means this machine elsewhere too
    #[arg(
        long = "host",
        env = "GANTRY_HOST",
        value_name = "NAME",
        value_delimiter = ',',
        default_values = ["localhost", "127.0.0.1"]
    )]
    hosts: Vec<String>,
    /// How long a launcher may be silent before its read stage is given to another one
    #[arg(long, env = "GANTRY_LEASE", value_name = "DURATION", default_value = "60s",
          value_parser = duration)]
    lease: GoDuration,
    /// After how long a write stage of which nothing is heard is given up, its outcome unknown:
    /// more than the launchers' run timeout and stop grace together
    #[arg(long, env = "GANTRY_WRITE_DEADLINE", value_name = "DURATION", default_value = "80m",
          value_parser = duration)]
    write_deadline: GoDuration,
}

/// The shortest lease: a launcher must get several heartbeats through in it.
const SHORTEST: Duration = Duration::from_secs(4);

fn duration(text: &str) -> Result<GoDuration, String> {
    let duration: GoDuration = text.parse().map_err(|error| format!("it {error}"))?;
    if duration.get() < SHORTEST {
        return Err(format!("it must be {}s at least", SHORTEST.as_secs()));
    }
    Ok(duration)
}

/// A text that may hold a password. An error of the argument parser would quote it, so that it is looked at later.
#[derive(Clone)]
struct Hidden(Zeroizing<String>);

impl Hidden {
    #[expect(clippy::unnecessary_wraps, reason = "the argument parser wants it so")]
    fn take(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The longest URL of a database.
const MAX_URL: u64 = 16 * 1024;

/// The database's URL, from one place or the other.
fn database_url(
    text: Option<&Hidden>,
    path: Option<&Path>,
) -> Result<Option<DatabaseUrl>, Failure> {
    let from_file = path.map(|path| file::read(path, MAX_URL)).transpose()?;
    let text = match (text, &from_file) {
        (Some(text), _) if !text.0.is_empty() => text.0.as_str(),
        (_, Some(content)) => std::str::from_utf8(content).unwrap_or_default(),
        (Some(_) | None, None) => return Ok(None),
    };
    let url = text.parse().map_err(|error: DatabaseUrlError| {
        Failure::usage(match path {
            Some(path) => format!("{} does not hold a database's URL", path.display()),
            None => "GANTRY_DATABASE_URL is not a database's URL".to_owned(),
        })
        .because(error)
        .next("give postgres://user@host/database")
    });
    url.map(Some)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an IP address and a port, such as 0.0.0.0:1983".to_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the server until it is told to leave.
pub fn perform(
    arguments: Arguments,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    log::start(environment, output)?;
    let url = arguments.database_url.as_ref();
    let database = database_url(url, arguments.database_url_file.as_deref())?;
    if let Some(data) = &arguments.migrate_from {
        let Some(url) = &database else {
            return Err(Failure::usage("--migrate-from needs the database to bring it to")
                .next("set GANTRY_DATABASE_URL"));
        };
        return runtime()?.block_on(migrate(data, url, output));
    }
    let config = Config {
        database,
        api: arguments.listen,
        mqtt: arguments.mqtt_listen,
        objects: arguments.objects_listen,
        hosts: arguments.hosts,
        terms: LeaseTerms {
            lease_ms: millis(arguments.lease.get()),
            heartbeat_ms: millis(arguments.lease.get() / 4).min(LeaseTerms::default().heartbeat_ms),
            write_ms: millis(arguments.write_deadline.get()),
            ..LeaseTerms::default()
        },
        ..Config::new(arguments.data)
    };
    runtime()?.block_on(serve(config, environment, output))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_say(|| "cannot start the runtime".into())
}

/// Brings a data directory's database to PostgreSQL, and says how far it is.
async fn migrate(data: &Path, url: &DatabaseUrl, output: Output) -> Result<Code, Failure> {
    let mut tables = Vec::new();
    let mut say = |progress| match progress {
        Progress::Written(table, rows) => tracing::info!(table, rows, "written"),
        Progress::Checked(table, rows, sha256) => {
            tracing::info!(table, rows, sha256, "the same on both sides");
            tables.push((table, rows, sha256));
        }
    };
    let moved = bring_over(data, url, &mut say).await;
    moved.or_say(|| format!("the database of {} was not brought over", data.display()))?;
    let rows: u64 = tables.iter().map(|(_, rows, _)| rows).sum();
    let value: Vec<_> = tables
        .iter()
        .map(|(table, rows, sha256)| {
            serde_json::json!({"table": table, "rows": rows, "sha256": sha256})
        })
        .collect();
    output.answer(&serde_json::json!({ "tables": value }), || {
        format!(
            "{rows} rows of {} tables are in PostgreSQL, the same as in {}: start the server with this database",
            tables.len(),
            data.display()
        )
    })?;
    Ok(Code::Done)
}

async fn serve(config: Config, environment: &Environment, output: Output) -> Result<Code, Failure> {
    let cannot = || "cannot wait for signals".to_owned();
    // Before the start, so that a signal in the middle of it is not lost.
    let mut terminate = signal(SignalKind::terminate()).or_say(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).or_say(cannot)?;
    for address in config.misleading() {
        let told = config.reached_at(address);
        tracing::warn!(
            "{address} is listened on for other machines, but they are told {told}, which is their own: \
             give the name or address by which they reach this machine with --host"
        );
    }
    let mut server = Server::start(config).await.map_err(refused)?;
    let file = server.addresses();
    let value = serde_json::json!({
        "pid": file.pid,
        "api": file.api,
        "mqtt": file.mqtt,
        "objects": file.objects,
        "ca": file.ca,
    });
    if output.is_json() {
        output.line(&value)?;
    } else {
        let text = format!("ready: api {}, mqtt {}, objects {}", file.api, file.mqtt, file.objects);
        output.answer(&value, || text)?;
    }
    if let Err(error) = notify::ready(environment) {
        tracing::warn!(%error, "cannot tell the service manager that the server is ready");
    }
    let failed = tokio::select! {
        name = either(&mut terminate, &mut interrupt) => {
            tracing::info!("stopping, as {name} says: what is under way is finished; a second signal ends it at once");
            None
        }
        part = server.failed() => {
            tracing::error!("stopping, because {part} has ended by itself");
            Some(part)
        }
    };
    tokio::select! {
        () = server.stop() => tracing::info!("stopped"),
        name = either(&mut terminate, &mut interrupt) => {
            tracing::warn!("stopped at once, as a second signal, {name}, says");
            return Err(Failure::new("stopped at once, because of a second signal")
                .next("start it again: nothing is lost"));
        }
    }
    if let Some(part) = failed {
        return Err(Failure::new(format!("{part} has ended by itself"))
            .next("look at the log above, then start it again: nothing is lost"));
    }
    Ok(Code::Done)
}

/// Resolves at the first of both, with its name. Cancel safe.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn refused(error: ServerError) -> Failure {
    let code = if error.exit_code() == Code::Held as u8 { Code::Held } else { Code::Failed };
    Failure::new("the server does not start").with(code).because(error)
}
