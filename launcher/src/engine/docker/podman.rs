//! What Podman does otherwise than Docker behind the same API. Version 4.3 is Debian 12's.

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, SystemVersion,
};

use super::super::{EngineName, Mount, Spec};
use super::failure::Failure;

const DOCKER: EngineName = "Docker";
const PODMAN: EngineName = "Podman";

/// Which of the engines that speak this API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Podman,
}

impl Kind {
    /// Which one answered. Both give their own version; Podman lists itself among its parts.
    pub(super) fn of(version: &SystemVersion) -> Self {
        let parts = version.components.iter().flatten();
        let mut names = parts.map(|part| part.name.as_str());
        if names.any(|name| name.starts_with(PODMAN)) { Self::Podman } else { Self::Docker }
    }

    /// Which one should be there, before it answers.
    pub(super) fn expected(at: &str) -> Self {
        if at.contains("podman") { Self::Podman } else { Self::Docker }
    }

    pub(super) const fn name(self) -> EngineName {
        match self {
            Self::Docker => DOCKER,
            Self::Podman => PODMAN,
        }
    }

    /// Whether a call failed because the name of a container is taken. Podman has no status for that.
    pub(super) fn says_taken(self, failure: &Failure) -> bool {
        match (self, failure) {
            (_, Failure::Said { status: 409, .. }) => true,
            (Self::Podman, Failure::Said { status: 500, error }) => {
                error.to_string().contains("that name is already in use")
            }
            (_, Failure::Said { .. } | Failure::Other(_)) => false,
        }
    }

    /// Whether a call failed because there is no such container, or because it does not run.
    pub(super) fn says_at_rest(self, failure: &Failure) -> bool {
        match (self, failure) {
            (_, Failure::Said { status: 404 | 409, .. }) => true,
            (Self::Podman, Failure::Said { status: 500, error }) => {
                error.to_string().contains("container state improper")
            }
            (_, Failure::Said { .. } | Failure::Other(_)) => false,
        }
    }

    /// What it would make on this host where a mount has no source, and Docker would refuse: in words.
    pub(super) fn would_make(self, at: &str, spec: &Spec) -> Option<String> {
        if self == Self::Docker || !at.starts_with("unix:") {
            return None;
        }
        let is_missing = |mount: &&Mount| !mount.source.try_exists().unwrap_or(true);
        let missing = spec.mounts.iter().find(is_missing)?;
        Some(format!("bind source path does not exist: {}", missing.source.display()))
    }

    /// Whether it has this network without listing it among the others.
    pub(super) fn has_always(self, network: &str) -> bool {
        self == Self::Podman && ["none", "host"].contains(&network)
    }
}

/// What a container is that Podman has between two of Docker's states, which the library takes for an answer that
/// makes no sense: one that is ready to be started was not, and one that has stopped runs until its exit code is known.
pub(super) fn between(kind: Kind, error: Error) -> Result<ContainerInspectResponse, Error> {
    let Error::JsonDataError { message, .. } = &error else { return Err(error) };
    let says = |state: &str| message.contains(&format!("unknown variant `{state}`"));
    let status = if kind == Kind::Docker {
        return Err(error);
    } else if says("configured") || says("initialized") {
        ContainerStateStatusEnum::CREATED
    } else if says("stopped") {
        ContainerStateStatusEnum::RUNNING
    } else {
        return Err(error);
    };
    let state = ContainerState { status: Some(status), ..ContainerState::default() };
    Ok(ContainerInspectResponse { state: Some(state), ..ContainerInspectResponse::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(state: &str) -> Error {
        let message = format!("unknown variant `{state}`, expected one of ``, `created`");
        Error::JsonDataError { message, column: 1 }
    }

    fn status(kind: Kind, state: &str) -> Option<ContainerStateStatusEnum> {
        between(kind, unknown(state)).ok()?.state?.status
    }

    #[test]
    fn a_state_that_only_podman_has_is_one_of_docker_s() {
        use ContainerStateStatusEnum::{CREATED, RUNNING};
        assert_eq!(status(Kind::Podman, "initialized"), Some(CREATED));
        assert_eq!(status(Kind::Podman, "stopped"), Some(RUNNING));
        assert_eq!(status(Kind::Podman, "unknown"), None);
        assert_eq!(status(Kind::Docker, "stopped"), None);
    }

    #[test]
    fn an_engine_is_called_by_what_it_says_it_is() {
        let version = |json| serde_json::from_str::<SystemVersion>(json).unwrap();
        let podman =
            r#"{"Version":"4.3.1","Components":[{"Name":"Podman Engine","Version":"4.3.1"}]}"#;
        assert_eq!(Kind::of(&version(podman)).name(), "Podman");
        let docker = r#"{"Version":"28.2.2","Components":[{"Name":"Engine","Version":"28.2.2"}]}"#;
        assert_eq!(Kind::of(&version(docker)).name(), "Docker");
        assert_eq!(Kind::expected("unix:///run/podman/podman.sock").name(), "Podman");
        assert_eq!(Kind::expected("unix:///var/run/docker.sock").name(), "Docker");
    }
}
