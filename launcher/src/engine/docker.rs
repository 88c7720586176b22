//! Docker, through its API, and Podman, through the same: which of the two it is, the engine is asked.

mod body;
mod failure;
mod podman;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::ContainerStateStatusEnum;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptionsBuilder,
    InspectNetworkOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures::{Stream, StreamExt as _};

use self::body::body;
use self::failure::{Failure, bounded, said, unless_missing};
use self::podman::Kind;
pub use self::tls::TlsError;
use super::{Engine, EngineError, EngineName, Image, Needs, Signal, Spec, State};
use crate::limits::Capacity;

/// Where an engine listens that was not told otherwise.
const USUAL: &str = "unix:///var/run/docker.sock";
/// How long a call may take that only asks.
const ASK: Duration = Duration::from_secs(30);
/// How long a call may take that makes, starts or removes.
const ACT: Duration = Duration::from_secs(120);
/// How long nothing may come of an image that is being pulled.
const PULL_SILENCE: Duration = Duration::from_secs(120);
/// How long one wait is kept open before the state is asked for.
const WAIT: Duration = Duration::from_secs(60);
/// The pause before an engine is asked again that answered too early.
const PAUSE: Duration = Duration::from_millis(200);

/// An engine with Docker's API.
#[derive(Clone)]
pub struct Docker {
    api: bollard::Docker,
    kind: Kind,
    /// Where it is, as `DOCKER_HOST` spells it.
    at: Arc<str>,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Docker")
    }
}

impl Docker {
    /// The engine at `host`, as `DOCKER_HOST` spells it, or at the usual socket.
    ///
    /// # Errors
    /// When `host` is no address of an engine or nothing answers there.
    pub async fn connect(host: Option<&str>) -> Result<Self, EngineError> {
        let at = host.unwrap_or(USUAL);
        let api = bollard::Docker::connect_with_host(at);
        let engine = Kind::expected(at).name();
        let api = api.map_err(|error| EngineError::from(said(engine, at, "connect", error)))?;
        Self::negotiated(api, at).await
    }

    /// The engine at `host:port`, by TLS with the files in a directory: `ca.pem`, and `cert.pem` with `key.pem`.
    ///
    /// # Errors
    /// When the files cannot be used or nothing answers there.
    pub async fn connect_by_tls(address: &str, files: &Path) -> Result<Self, EngineError> {
        let api = tls::connect(address, files).map_err(|error| EngineError::Setup(error.into()))?;
        Self::negotiated(api, &format!("tcp://{address}")).await
    }

    async fn negotiated(api: bollard::Docker, at: &str) -> Result<Self, EngineError> {
        let docker = Self { api, kind: Kind::expected(at), at: at.into() };
        let api = docker.within("answer", ASK, docker.api.clone().negotiate_version()).await?;
        let version = docker.within("say its version", ASK, api.version()).await?;
        Ok(Self { api, kind: Kind::of(&version), ..docker })
    }

    async fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        // Boxed: these futures are of many kilobytes, and every caller's would be larger by them.
        let call = Box::pin(async { Ok(call.await.map_err(|error| self.said(what, error))) });
        self.in_time(what, limit, call).await.unwrap_or_else(|late| Err(Failure::Other(late)))
    }

    async fn in_time<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(self.late(what, limit)))
    }

    async fn next<S: Stream + Unpin>(
        &self,
        what: &str,
        limit: Duration,
        stream: &mut S,
    ) -> Result<Option<S::Item>, EngineError> {
        tokio::time::timeout(limit, stream.next()).await.map_err(|_| self.late(what, limit))
    }

    fn late(&self, what: &str, limit: Duration) -> EngineError {
        EngineError::Late {
            engine: self.name(),
            at: self.at.to_string(),
            what: what.to_owned(),
            limit,
        }
    }

    fn said(&self, what: &str, error: Error) -> Failure {
        said(self.name(), &self.at, what, error)
    }

    fn failed(&self, what: &str, error: Error) -> EngineError {
        self.said(what, error).into()
    }
}

impl Engine for Docker {
    fn name(&self) -> EngineName {
        self.kind.name()
    }

    async fn ping(&self) -> Result<String, EngineError> {
        let version = self.within("say its version", ASK, self.api.version()).await?;
        let name = Kind::of(&version).name();
        Ok(format!("{name} {}", version.version.unwrap_or_default()))
    }

    async fn lacks(&self, needs: &Needs<'_>) -> Result<Vec<String>, EngineError> {
        let mut lacking = Vec::new();
        let Needs { network, runtime } = *needs;
        let name = self.name();
        let inspect = self.api.inspect_network(network, None::<InspectNetworkOptions>);
        if !self.kind.has_always(network)
            && unless_missing(self.within("inspect the network", ASK, inspect).await)?.is_none()
        {
            lacking.push(format!(
                "{name} has no network {network}: create it, or set SPACELIFT_WORKER_NETWORK to one that it has"
            ));
        }
        // Shims of containerd are found by their name alone, and no engine lists them.
        if let Some(runtime) = runtime.filter(|name| !name.contains('.')) {
            let info = self.within("describe itself", ASK, self.api.info()).await?;
            if info.runtimes.is_some_and(|known| !known.contains_key(runtime)) {
                let file = match self.kind {
                    Kind::Docker => "its daemon.json",
                    Kind::Podman => "its containers.conf",
                };
                lacking.push(format!(
                    "{name} has no runtime {runtime}: add it to {file}, or set SPACELIFT_WORKER_RUNTIME to one that it has"
                ));
            }
        }
        Ok(lacking)
    }

    async fn capacity(&self) -> Result<Capacity, EngineError> {
        let info = self.within("say what its host has", ASK, self.api.info()).await?;
        let amount = |amount: Option<i64>| u64::try_from(amount?).ok().filter(|it| *it > 0);
        Ok(Capacity {
            memory: amount(info.mem_total),
            processors: amount(info.ncpu),
            limits_memory: info.memory_limit == Some(true),
            limits_processors: info.cpu_cfs_quota == Some(true),
            limits_processes: info.pids_limit == Some(true),
            root: info.docker_root_dir.map(PathBuf::from),
        })
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let found = self.within("inspect the image", ASK, self.api.inspect_image(name)).await;
        let Some(image) = unless_missing(found)? else { return Ok(None) };
        let config = image.config.unwrap_or_default();
        Ok(Some(Image {
            id: image.id.unwrap_or_default(),
            digests: image.repo_digests.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
        }))
    }

    async fn pull(
        &self,
        name: &str,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), EngineError> {
        let (image, tag) = split_tag(name);
        let options = CreateImageOptionsBuilder::new().from_image(image).tag(tag).build();
        let what = format!("pull {name}");
        let mut steps = Box::pin(self.api.create_image(Some(options), None, None));
        while let Some(step) = self.next(&what, PULL_SILENCE, &mut steps).await? {
            let step = step.map_err(|error| self.failed(&what, error))?;
            if let Some(error) = step.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::Refused {
                    engine: self.name(),
                    what,
                    message: bounded(&error),
                });
            }
            // Bytes per layer change many times a second; that a layer came or is there is enough.
            if let (Some(status), None) =
                (step.status, step.progress_detail.and_then(|p| p.current))
            {
                progress(match step.id {
                    Some(id) => format!("{id}: {status}"),
                    None => status,
                });
            }
        }
        Ok(())
    }

    async fn create(&self, spec: &Spec) -> Result<(), EngineError> {
        let what = "create the container";
        if let Some(message) = self.kind.would_make(&self.at, spec) {
            return Err(EngineError::Refused {
                engine: self.name(),
                what: what.to_owned(),
                message,
            });
        }
        let made = async {
            loop {
                let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
                let create = self.api.create_container(Some(options), body(spec));
                match self.within(what, ACT, create).await {
                    // Our own earlier call, or one whose answer was lost. The name is derived from the
                    // attempt, so it is the same stage. The name is taken before the container is there.
                    Err(failure) if self.kind.says_taken(&failure) => {
                        if self.state(&spec.name).await?.is_some() {
                            return Ok(());
                        }
                    }
                    other => return other.map(drop).map_err(EngineError::from),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        self.in_time(what, ACT, made).await
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        let options = None::<StartContainerOptions>;
        match self.within("start the container", ACT, self.api.start_container(name, options)).await
        {
            Ok(()) | Err(Failure::Said { status: 304, .. }) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn state(&self, name: &str) -> Result<Option<State>, EngineError> {
        let inspected = async {
            match self.api.inspect_container(name, None).await {
                // Podman has states that Docker's API does not know: see `podman::between`.
                Err(error) => podman::between(self.kind, error),
                inspected => inspected,
            }
        };
        let found = self.within("inspect the container", ASK, inspected).await;
        let Some(container) = unless_missing(found)? else { return Ok(None) };
        let state = container.state.unwrap_or_default();
        Ok(Some(match state.status {
            Some(ContainerStateStatusEnum::CREATED) => State::Created,
            Some(
                ContainerStateStatusEnum::RUNNING
                | ContainerStateStatusEnum::PAUSED
                | ContainerStateStatusEnum::RESTARTING
                | ContainerStateStatusEnum::STOPPING,
            ) => State::Running,
            Some(
                ContainerStateStatusEnum::EXITED
                | ContainerStateStatusEnum::DEAD
                | ContainerStateStatusEnum::REMOVING
                | ContainerStateStatusEnum::EMPTY,
            )
            | None => State::Exited {
                code: state.exit_code.unwrap_or(-1),
                is_out_of_memory: state.oom_killed == Some(true),
            },
        }))
    }

    async fn ended(&self, name: &str) -> Result<(), EngineError> {
        loop {
            let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
            let mut waits = Box::pin(self.api.wait_container(name, Some(options)));
            // How it ended is asked for below: a wait says it in three different ways, and an engine
            // that restarts ends it early.
            let waited = tokio::time::timeout(WAIT, waits.next()).await;
            match self.state(name).await? {
                Some(State::Running) => {}
                Some(State::Created | State::Exited { .. }) | None => return Ok(()),
            }
            if waited.is_ok() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn signal(&self, name: &str, signal: Signal) -> Result<(), EngineError> {
        let signal = match signal {
            Signal::Stop => "SIGTERM",
            Signal::Kill => "SIGKILL",
        };
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self
            .within("signal the container", ASK, self.api.kill_container(name, Some(options)))
            .await
        {
            Ok(()) => Ok(()),
            Err(failure) if self.kind.says_at_rest(&failure) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let what = "remove the container";
        let removed = async {
            loop {
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                let remove = self.api.remove_container(name, Some(options));
                match self.within(what, ACT, remove).await {
                    // Another call removes it at this moment.
                    Err(Failure::Said { status: 409, .. }) => tokio::time::sleep(PAUSE).await,
                    Ok(()) | Err(Failure::Said { status: 404, .. }) => return Ok(()),
                    Err(failure) => return Err(failure.into()),
                }
            }
        };
        self.in_time(what, ACT, removed).await
    }

    async fn written(&self, name: &str) -> Result<Option<u64>, EngineError> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let asked = self.api.inspect_container(name, Some(options));
        // The engine looks at all that the container wrote.
        let found = self.within("measure the container", ACT, asked).await;
        let size = unless_missing(found)?.and_then(|container| container.size_rw);
        Ok(size.and_then(|size| u64::try_from(size).ok()))
    }

    async fn list(&self, labels: &[(&str, String)]) -> Result<Vec<String>, EngineError> {
        let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found =
            self.within("list containers", ASK, self.api.list_containers(Some(options))).await?;
        let names = found.into_iter().filter_map(|container| container.names?.into_iter().next());
        Ok(names.map(|name| name.trim_start_matches('/').to_owned()).collect())
    }
}

/// `a/b:tag` and `a/b@sha256:…` become image and tag; without either, `latest`, or all tags would be pulled.
fn split_tag(name: &str) -> (&str, &str) {
    if let Some((image, digest)) = name.split_once('@') {
        return (image, digest);
    }
    match name.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image, tag),
        Some(_) | None => (name, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port() {
        assert_eq!(split_tag("busybox"), ("busybox", "latest"));
        assert_eq!(split_tag("a/b:1"), ("a/b", "1"));
        assert_eq!(split_tag("host:5000/a"), ("host:5000/a", "latest"));
        assert_eq!(split_tag("host:5000/a:2"), ("host:5000/a", "2"));
        assert_eq!(split_tag("a@sha256:00"), ("a", "sha256:00"));
    }
}
