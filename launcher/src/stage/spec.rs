//! Opens the sealed spec of a stage, and its secrets.

use std::fs;
use std::path::{Component, Path};

use gantry_model::{Phase, Stage};
use gantry_protocol::spec::{SecretBundle, Spec};
use gantry_protocol::{Digest, Header, SealedBytes, check_maskable};
use zeroize::Zeroizing;

use super::order::{Origins, Variables};
use super::{Shared, order};
use crate::mask::Secrets;
use crate::tool;
use crate::workspace::Directories;

/// A spec, opened.
pub struct Opened {
    pub spec: Spec,
    /// Lower-case hex of the SHA-256 of the sealed spec.
    pub sha256: String,
    pub secrets: Secrets,
    /// What to say of those that logs cannot hide.
    pub unmasked: Vec<String>,
    pub variables: Variables,
    pub origins: Origins,
}

/// Opens the spec that lies in the attempt's directory, and its secrets. Says why not in words that
/// hold no secret.
pub fn open_spec<E>(
    shared: &Shared<E>,
    attempt: gantry_model::Attempt,
    directories: &Directories,
) -> Result<Opened, String> {
    let config = &shared.config;
    let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
    let sealed = fs::read(&directories.spec)
        .map_err(|error| format!("the stage's spec cannot be read on this host: {error}"))?;
    let sha256 = Digest::of(&sealed).to_string();
    let plain = SealedBytes::from_file(&sealed)
        .map_err(|error| format!("the stage's spec is not sealed as it should be: {error}"))?
        .open(&keys)
        .map_err(|error| {
            format!("the stage's spec cannot be opened with this pool's key: {error}")
        })?;
    let mut spec: Spec = serde_json::from_slice(&plain).map_err(|error| {
        format!(
            "the stage's spec has a mistake at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    if spec.attempt != attempt {
        return Err("the stage's spec is another stage's".to_owned());
    }
    if !is_inner(&spec.project_root) {
        return Err(format!("the project root {:?} leaves the source", spec.project_root));
    }
    spec.phases.retain(|phase| belongs(phase.phase, attempt.stage));
    let bundle = open_bundle(&spec, &keys)?;
    let variables = order::variables(config, &spec, bundle.as_ref());
    let (mut secrets, unmasked) = secrets(config, bundle.as_ref())?;
    let tool = tool::of(&spec);
    tool.check(&spec)?;
    if let (Some(_), Some(state)) = (&spec.state, &tool.state) {
        mask_state_password(&mut secrets, state.password, &keys, attempt)?;
    }
    let origins = order::origins(config, &spec, bundle.as_ref());
    Ok(Opened { spec, sha256, secrets, unmasked, variables, origins })
}

fn open_bundle(
    spec: &Spec,
    keys: &[&gantry_protocol::PoolKey],
) -> Result<Option<SecretBundle>, String> {
    use base64::Engine as _;
    let Some(sealed) = &spec.secrets else { return Ok(None) };
    let header: Header = sealed
        .header
        .parse()
        .map_err(|error| format!("the stack's secrets are damaged: {error}"))?;
    let payload = base64::engine::general_purpose::STANDARD
        .decode(&sealed.payload)
        .map_err(|_| "the stack's secrets are not base64".to_owned())?;
    let plain = gantry_protocol::open_bytes(keys, &header, &payload).map_err(|error| {
        format!("the stack's secrets cannot be opened with this pool's key: {error}")
    })?;
    let bundle: SecretBundle = serde_json::from_slice(&plain)
        .map_err(|_| "the stack's secrets are not of this version's form".to_owned())?;
    if bundle.stack != spec.stack.as_str() {
        return Err(format!(
            "the secrets are those of another stack than {}: they were moved there; enter them again",
            spec.stack
        ));
    }
    Ok(Some(bundle))
}

/// Everything that no log may show, and what to say of what logs cannot hide.
fn secrets(
    config: &crate::config::Config,
    bundle: Option<&SecretBundle>,
) -> Result<(Secrets, Vec<String>), String> {
    let (mut secrets, mut unmasked) = (Secrets::default(), Vec::new());
    let masked = config.masked.iter().map(|secret| (secret.name.as_str(), secret.value.as_bytes()));
    let own = bundle.iter().flat_map(|bundle| &bundle.secrets);
    let own = own.map(|secret| (secret.name.as_str(), secret.value.as_bytes()));
    for (name, value) in masked.chain(own) {
        match check_maskable(value) {
            // What is too large to be masked must not run.
            Ok(()) => secrets.insert(name, value).map_err(|refusal| refusal.to_string())?,
            // Nothing is no secret.
            Err(_) if value.is_empty() => {}
            Err(why) => {
                unmasked.push(format!("the value of {name} is not masked in this log: {why}"));
            }
        }
    }
    Ok((secrets, unmasked))
}

/// Whichever of the keys the launcher had that wrote the order.
fn mask_state_password(
    secrets: &mut Secrets,
    variable: &str,
    keys: &[&gantry_protocol::PoolKey],
    attempt: gantry_model::Attempt,
) -> Result<(), String> {
    use base64::Engine as _;
    for key in keys {
        let password = order::state_password(key, attempt).map_err(|error| error.to_string())?;
        let credentials = Zeroizing::new(format!("gantry:{}", *password));
        let header = base64::engine::general_purpose::STANDARD.encode(credentials.as_bytes());
        let header = Zeroizing::new(header);
        for value in [&password, &header] {
            secrets.insert(variable, value.as_bytes()).map_err(|refusal| refusal.to_string())?;
        }
    }
    Ok(())
}

/// A read stage never changes anything, whatever its spec says: one that deploys by itself names the
/// phases of its second half too.
const fn belongs(phase: Phase, stage: Stage) -> bool {
    match (phase, stage) {
        (Phase::Initialize | Phase::Plan, Stage::Read) | (_, Stage::Write) => true,
        (Phase::Apply | Phase::Perform | Phase::Destroy, Stage::Read) => false,
    }
}

fn is_inner(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_stage_has_no_phase_that_changes_anything() {
        let phases = [Phase::Initialize, Phase::Plan, Phase::Apply, Phase::Perform, Phase::Destroy];
        let kept = phases.map(|phase| belongs(phase, Stage::Read));
        assert_eq!(kept, [true, true, false, false, false]);
        assert!(phases.iter().all(|phase| belongs(*phase, Stage::Write)));
    }

    #[test]
    fn a_project_root_stays_in_the_source() {
        assert!(is_inner("") && is_inner("a/b") && is_inner("./a"));
        assert!(!is_inner("..") && !is_inner("a/../../b") && !is_inner("/etc"));
    }
}
