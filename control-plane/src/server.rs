//! A server: every part of a control plane, wired and running in one process.
//!
//! [`start`](Server::start) returns when everything answers; [`Running::stop`] ends it gently: requests
//! are finished, launchers are let go and connect to whoever comes next. A server that is killed
//! instead loses nothing either; it only takes longer to be noticed.

mod files;
mod moving;
mod renewal;
mod services;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum_server::Handle;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::renewal::Renewal;
use crate::authority::{self, Issuer, IssuerError};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, ServerFile};
use crate::error::OperationError;
use crate::http::{self, ApiConfig};
use crate::ids::Ids;
use crate::objects::local::{Credentials, endpoint};
use crate::objects::{LocalObjects, ObjectsError};
use crate::store::StoreError;
use crate::tls::{Bound, TlsError, TlsSettings};
use crate::transport::mqtt::BoundBroker;
use crate::transport::{
    BrokerConfig, EmbeddedBroker, PollTransport, Transport, TransportError, Transports,
};

pub use self::moving::{MoveError, bring_over};
pub use self::services::{Parts, Services};

/// How long a connection to the API may stand still: longer than any phase may be silent in a log
/// that is followed.
const API_IDLE: Duration = Duration::from_mins(15);

/// How long a connection to the object store may stand still.
const OBJECTS_IDLE: Duration = Duration::from_mins(2);

/// How long requests have to finish when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The authority.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The address of a listener cannot be had.
    #[error("cannot listen on {address} for {part}: {}", next_address(source, option))]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What was to listen there.
        part: &'static str,
        /// The option that says where.
        option: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A listener.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The broker.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory has a database of its own that the one of the URL may know nothing of.
    #[error(
        "the data directory has a database of its own, {}: bring it to PostgreSQL with --migrate-from, or move it away",
        own.display()
    )]
    NotMoved {
        /// Where it is.
        own: PathBuf,
    },
    /// The data directory's database was brought to PostgreSQL.
    #[error(
        "the database of this data directory was brought to PostgreSQL, and {} is what it was before: set \
         GANTRY_DATABASE_URL",
        moved.display()
    )]
    Moved {
        /// What is left of it.
        moved: PathBuf,
    },
    /// What the database holds could not be taken up.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The address under which launchers would find the broker is none.
    #[error("{0:?} cannot be the broker's address: give --host a name or an address")]
    Endpoint(String),
}

impl ServerError {
    /// What the process exits with: 3 if another server has the data directory or the database, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(DataDirError::Locked { .. }) | Self::Store(StoreError::Held { .. }) => 3,
            Self::DataDir(
                DataDirError::Open { .. }
                | DataDirError::Foreign { .. }
                | DataDirError::Occupied { .. }
                | DataDirError::Io { .. },
            )
            | Self::Issuer(_)
            | Self::Listen { .. }
            | Self::Tls(_)
            | Self::Transport(_)
            | Self::Objects(_)
            | Self::Store(_)
            | Self::NotMoved { .. }
            | Self::Moved { .. }
            | Self::Operation(_)
            | Self::Endpoint(_) => 1,
        }
    }
}

fn next_address(refused: &io::Error, option: &str) -> String {
    let is_taken = refused.kind() == io::ErrorKind::AddrInUse;
    let end = if is_taken { "end what holds it, or " } else { "" };
    format!("{end}give another address with {option}")
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

/// A server that runs. Dropped without [`Running::stop`], it ends at once.
pub struct Running {
    file: ServerFile,
    broker: Arc<EmbeddedBroker>,
    poll: PollTransport,
    control_plane: Services,
    leave: CancellationToken,
    listeners: [Handle<SocketAddr>; 2],
    renewal: Arc<Renewal>,
    tasks: JoinSet<&'static str>,
    /// Unlocked last.
    dir: Arc<DataDir>,
}

/// The sockets, in the order of `server.json`. Connections wait until somebody answers.
struct Sockets {
    api: Bound,
    mqtt: BoundBroker,
    objects: Bound,
}

impl Server {
    /// Starts everything, and returns when it answers.
    ///
    /// # Errors
    /// When the data directory is another server's, an address cannot be had, or a file is damaged.
    pub async fn start(config: Config) -> Result<Running, ServerError> {
        raise_file_limit();
        let dir = Arc::new(DataDir::open(&config.data)?);
        let names = config.names();
        let now_unix = unix_now();
        let authority = authority::load_or_make(&dir, now_unix)?;
        let certificate = authority::issue_server(&dir, &authority, &names, now_unix)?;
        let sockets = Sockets::bind(&config, &dir)?;
        let file = sockets.describe(&config, &dir);

        let credentials = Credentials::load_or_make(&dir)?;
        let objects =
            LocalObjects::open(&dir.objects(), config.limits, &file.objects, &credentials)?;
        let endpoint = endpoint::router(objects.files(), &credentials);
        let broker_endpoint = file.mqtt.parse();
        let broker_endpoint =
            broker_endpoint.map_err(|_| ServerError::Endpoint(file.mqtt.clone()))?;
        let issuer = Arc::new(Issuer::new(
            authority,
            broker_endpoint,
            config.namespace,
            Some(file.api.clone()),
        ));
        let control_plane = Services::new(Parts {
            store: files::open_store(&dir, config.database.as_ref()).await?,
            clock: Arc::new(SystemClock::new()),
            objects: Arc::new(objects),
            issuer: Arc::clone(&issuer),
            ids: Ids::random(),
            terms: config.terms,
        })
        .await?;
        let session_key = files::session_key(&dir)?;
        let api_config = ApiConfig { base_url: file.api.clone(), session_key };
        let api = http::router(control_plane.operations(), api_config);
        files::write_admin(&dir, &control_plane.core, issuer.ca_pem(), &file.api).await?;

        let Sockets { api: api_socket, mqtt, objects: objects_socket } = sockets;
        let broker = Arc::new(mqtt.start(control_plane.pools.admissions()).await);
        let ca = issuer.ca_pem();
        let poll = PollTransport::new(control_plane.pools.admissions(), ca)?;
        let api = api.merge(poll.router());
        let tls = TlsSettings::new(&certificate)?;
        let api_tls = TlsSettings::with_clients_of(&certificate, ca)?;
        let renewal = Arc::new(Renewal {
            core: control_plane.core.clone(),
            issuer,
            dir: Arc::downgrade(&dir),
            names,
            tls: [tls.clone(), api_tls.clone()],
            broker: Arc::clone(&broker),
        });
        let mut running = Running {
            file,
            broker,
            poll,
            control_plane,
            leave: CancellationToken::new(),
            listeners: [Handle::new(), Handle::new()],
            renewal,
            tasks: JoinSet::new(),
            dir,
        };
        running.serve((api_socket, api_tls, api), (objects_socket, tls, endpoint));
        running.dir.write_server_file(&running.file)?;
        Ok(running)
    }
}

impl Running {
    /// Where it answers, as `server.json` says.
    #[must_use]
    pub const fn addresses(&self) -> &ServerFile {
        &self.file
    }

    /// The control plane that is served.
    #[must_use]
    pub const fn control_plane(&self) -> &Services {
        &self.control_plane
    }

    /// Resolves with the name of a part that has ended by itself: the server is of no more use then
    /// and should be stopped. Cancel safe.
    pub async fn failed(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                tracing::error!(%error, "a part of the server has failed");
                "a part of the server"
            }
            None => "the server",
        }
    }

    /// Gives all listeners a new certificate. Who is connected stays so. It happens by itself long
    /// before the present one ends.
    ///
    /// # Errors
    /// When it cannot be issued, written or used. The listeners go on with the one that they have.
    pub async fn renew_certificate(&self) -> Result<(), ServerError> {
        self.renewal.renew().await
    }

    /// Ends gently: takes no new requests, finishes those that have begun, lets the launchers go.
    pub async fn stop(mut self) {
        // What is held would hold up the listener.
        self.poll.stop();
        for listener in &self.listeners {
            listener.graceful_shutdown(Some(GRACE));
        }
        self.leave.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE * 2, ended).await.is_err() {
            tracing::warn!("a part of the server did not end in time and is cut off");
            self.tasks.shutdown().await;
        }
        if tokio::time::timeout(GRACE, self.control_plane.changes.changes_done()).await.is_err() {
            tracing::warn!("a change did not end in time and is cut off");
        }
        self.broker.stop().await;
        if tokio::time::timeout(GRACE, self.control_plane.core.store().close()).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
    }

    fn serve(
        &mut self,
        (api_socket, api_tls, api): (Bound, TlsSettings, axum::Router),
        (objects_socket, tls, endpoint): (Bound, TlsSettings, axum::Router),
    ) {
        let [api_handle, objects_handle] = self.listeners.clone();
        let listener = api_socket.serve(api_tls, api, API_IDLE, api_handle);
        self.tasks.spawn(report("the API", listener));
        let listener = objects_socket.serve(tls, endpoint, OBJECTS_IDLE, objects_handle);
        self.tasks.spawn(report("the object store", listener));
        let (control_plane, leave) = (self.control_plane.clone(), self.leave.clone());
        let transports: Vec<Arc<dyn Transport>> =
            vec![Arc::clone(&self.broker) as _, Arc::new(self.poll.clone())];
        let transports = Arc::new(Transports::new(transports));
        self.tasks.spawn(async move {
            control_plane.service.serve(transports, leave).await;
            "the control plane"
        });
        let (renewal, leave) = (Arc::clone(&self.renewal), self.leave.clone());
        self.tasks.spawn(async move {
            renewal.renew_at_times(&leave).await;
            "the renewal of certificates"
        });
    }
}

async fn report(
    part: &'static str,
    listener: impl Future<Output = io::Result<()>>,
) -> &'static str {
    if let Err(error) = listener.await {
        tracing::error!(part, %error, "a listener has failed");
    }
    part
}

impl Sockets {
    fn bind(config: &Config, dir: &DataDir) -> Result<Self, ServerError> {
        let last = dir.last_server();
        let last = last.as_ref();
        let port = |of: fn(&ServerFile) -> &String| last.and_then(|file| port_of(of(file)));
        let bind = |address, last, part, option| {
            kept(address, last, Bound::bind).map_err(|error| match error {
                TlsError::Listen { address, source } => {
                    ServerError::Listen { address, part, option, source }
                }
                TlsError::Certificate(_) => error.into(),
            })
        };
        let mqtt = |address| {
            EmbeddedBroker::bind(BrokerConfig {
                address,
                namespace: config.namespace.clone(),
                certificate: dir.server_certificate(),
                key: dir.server_key(),
                authority: dir.ca_certificate(),
            })
        };
        let api = bind(config.api, port(|file| &file.api), "the API", "--listen")?;
        let (part, option) = ("the broker", "--mqtt-listen");
        let mqtt =
            kept(config.mqtt, port(|file| &file.mqtt), mqtt).map_err(|error| match error {
                TransportError::Listen { address, source } => {
                    ServerError::Listen { address, part, option, source }
                }
                TransportError::TooLarge { .. }
                | TransportError::Stopped
                | TransportError::Authority
                | TransportError::Random(_)
                | TransportError::Start { .. } => error.into(),
            })?;
        let (part, option) = ("the object store", "--objects-listen");
        let objects = bind(config.objects, port(|file| &file.objects), part, option)?;
        Ok(Self { api, mqtt, objects })
    }

    fn describe(&self, config: &Config, dir: &DataDir) -> ServerFile {
        ServerFile {
            pid: std::process::id(),
            api: format!("https://{}", config.reached_at(self.api.address())),
            mqtt: config.reached_at(self.mqtt.address()),
            objects: format!("https://{}", config.reached_at(self.objects.address())),
            ca: dir.ca_certificate(),
        }
    }
}

/// Binds an address; for port 0 that of the last start if it can be had, because tokens and urls that
/// were handed out name it.
fn kept<T, E>(
    address: SocketAddr,
    last: Option<u16>,
    bind: impl Fn(SocketAddr) -> Result<T, E>,
) -> Result<T, E> {
    match last.filter(|_| address.port() == 0) {
        Some(port) => bind(SocketAddr::new(address.ip(), port)).or_else(|_| bind(address)),
        None => bind(address),
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok().filter(|&port| port != 0)
}

/// Each connection and each object that moves is an open file, and the usual limit of 1024 is there for
/// programs of another time. The most that this process may have is still the administrator's to set.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
