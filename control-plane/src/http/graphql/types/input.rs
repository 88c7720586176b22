//! What mutations take. Public clients send every field of an input, so all that they know is here;
//! what this version does not do is refused when it is asked for, and not when it is merely named.

use async_graphql::{Error, ID, InputObject};

use super::tool::{FOREIGN, VendorConfigInput};
use crate::http::graphql::error::invalid;
use crate::http::graphql::types::Long;
use crate::stacks::{Hooks, HooksChange, Repository};

/// What a stack is made of.
#[derive(InputObject)]
pub(crate) struct StackInput {
    pub(crate) name: String,
    #[graphql(default)]
    pub(crate) administrative: bool,
    pub(crate) after_apply: Option<Vec<String>>,
    pub(crate) after_destroy: Option<Vec<String>>,
    pub(crate) after_init: Option<Vec<String>>,
    pub(crate) after_perform: Option<Vec<String>>,
    pub(crate) after_plan: Option<Vec<String>>,
    pub(crate) after_run: Option<Vec<String>>,
    pub(crate) additional_project_globs: Option<Vec<String>>,
    pub(crate) allow_run_promotion: Option<bool>,
    #[graphql(default)]
    pub(crate) autodeploy: bool,
    #[graphql(default)]
    pub(crate) autoretry: bool,
    pub(crate) before_apply: Option<Vec<String>>,
    pub(crate) before_destroy: Option<Vec<String>>,
    pub(crate) before_init: Option<Vec<String>>,
    pub(crate) before_perform: Option<Vec<String>>,
    pub(crate) before_plan: Option<Vec<String>>,
    /// Kept and shown; sources are uploaded.
    pub(crate) branch: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) enable_sensitive_output_upload: Option<bool>,
    pub(crate) enable_well_known_secret_masking: Option<bool>,
    #[graphql(name = "githubActionDeploy")]
    pub(crate) github_action_deploy: Option<bool>,
    pub(crate) is_disabled: Option<bool>,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) local_preview_enabled: Option<bool>,
    /// Kept and shown; sources are uploaded.
    pub(crate) namespace: Option<String>,
    pub(crate) project_root: Option<String>,
    pub(crate) protect_from_deletion: Option<bool>,
    /// Kept and shown; sources are uploaded.
    pub(crate) provider: Option<String>,
    /// Kept and shown; sources are uploaded.
    pub(crate) repository: Option<String>,
    #[graphql(name = "repositoryURL")]
    pub(crate) repository_url: Option<String>,
    pub(crate) runner_image: Option<String>,
    pub(crate) space: Option<String>,
    pub(crate) terraform_version: Option<String>,
    #[graphql(name = "vcsIntegrationId")]
    pub(crate) vcs_integration_id: Option<ID>,
    pub(crate) vendor_config: Option<VendorConfigInput>,
    /// The pool that runs it. Needed: there is no public one.
    pub(crate) worker_pool: Option<ID>,
}

impl StackInput {
    /// Refuses what this version does not do.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let asked = [
            ("administrative stacks", self.administrative),
            ("retries by themselves", self.autoretry),
            ("the promotion of runs", self.allow_run_promotion == Some(true)),
            ("the upload of sensitive outputs", self.enable_sensitive_output_upload == Some(true)),
            (
                "the masking of well-known secrets",
                self.enable_well_known_secret_masking == Some(true),
            ),
            ("deployment from GitHub's actions", self.github_action_deploy == Some(true)),
            ("disabled stacks", self.is_disabled == Some(true)),
            ("local previews", self.local_preview_enabled == Some(true)),
            ("protection from deletion", self.protect_from_deletion == Some(true)),
            ("sources from a repository", is_given(self.repository_url.as_ref())),
            (
                "spaces other than root",
                self.space.as_ref().is_some_and(|it| !it.is_empty() && it != "root"),
            ),
            ("tools of a version", is_given(self.terraform_version.as_ref())),
            ("VCS integrations", self.vcs_integration_id.as_ref().is_some_and(|id| !id.is_empty())),
            (
                "project globs",
                self.additional_project_globs.as_ref().is_some_and(|it| !it.is_empty()),
            ),
            (FOREIGN, self.vendor_config.as_ref().is_some_and(VendorConfigInput::is_foreign)),
        ];
        match asked.iter().find(|(_, is_asked)| *is_asked) {
            Some((what, _)) => {
                Err(invalid(format!("this version does not do {what}: leave that out")))
            }
            None => Ok(()),
        }
    }

    /// Where its source comes from.
    pub(crate) fn repository(&mut self) -> Repository {
        let take = |text: &mut Option<String>| text.take().unwrap_or_default();
        Repository {
            provider: take(&mut self.provider),
            namespace: take(&mut self.namespace),
            name: take(&mut self.repository),
            branch: take(&mut self.branch),
        }
    }

    /// The commands around the phases.
    pub(crate) fn hooks(&mut self) -> Hooks {
        let take = |hook: &mut Option<Vec<String>>| hook.take().unwrap_or_default();
        Hooks {
            before_init: take(&mut self.before_init),
            after_init: take(&mut self.after_init),
            before_plan: take(&mut self.before_plan),
            after_plan: take(&mut self.after_plan),
            before_apply: take(&mut self.before_apply),
            after_apply: take(&mut self.after_apply),
            before_perform: take(&mut self.before_perform),
            after_perform: take(&mut self.after_perform),
            before_destroy: take(&mut self.before_destroy),
            after_destroy: take(&mut self.after_destroy),
            after_run: take(&mut self.after_run),
        }
    }
}

/// Gantry: what is to change about a stack; what is not given stays.
#[derive(InputObject)]
pub(crate) struct StackChangeInput {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// The pool that runs it.
    pub(crate) worker_pool: Option<ID>,
    pub(crate) project_root: Option<String>,
    /// An empty one stands for the launcher's default.
    pub(crate) runner_image: Option<String>,
    /// All of them.
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) autodeploy: Option<bool>,
    /// Its tool, whole: what is not given of it is not kept.
    pub(crate) vendor_config: Option<VendorConfigInput>,
    /// Whether its Terraform state is kept here.
    pub(crate) manage_state: Option<bool>,
    /// Variables in the clear to set.
    pub(crate) set_environment: Option<Vec<EnvVarInput>>,
    /// Names of variables in the clear to remove.
    pub(crate) unset_environment: Option<Vec<String>>,
    /// All of its secrets, sealed to the recipients of the pool that runs it from now on.
    pub(crate) secrets: Option<SealedSecretsInput>,
    /// Whether its secrets are removed.
    pub(crate) clear_secrets: Option<bool>,
    pub(crate) before_init: Option<Vec<String>>,
    pub(crate) after_init: Option<Vec<String>>,
    pub(crate) before_plan: Option<Vec<String>>,
    pub(crate) after_plan: Option<Vec<String>>,
    pub(crate) before_apply: Option<Vec<String>>,
    pub(crate) after_apply: Option<Vec<String>>,
    pub(crate) before_perform: Option<Vec<String>>,
    pub(crate) after_perform: Option<Vec<String>>,
    pub(crate) before_destroy: Option<Vec<String>>,
    pub(crate) after_destroy: Option<Vec<String>>,
    pub(crate) after_run: Option<Vec<String>>,
}

impl StackChangeInput {
    /// The commands around the phases that are replaced.
    pub(crate) fn hooks(&mut self) -> HooksChange {
        HooksChange {
            before_init: self.before_init.take(),
            after_init: self.after_init.take(),
            before_plan: self.before_plan.take(),
            after_plan: self.after_plan.take(),
            before_apply: self.before_apply.take(),
            after_apply: self.after_apply.take(),
            before_perform: self.before_perform.take(),
            after_perform: self.after_perform.take(),
            before_destroy: self.before_destroy.take(),
            after_destroy: self.after_destroy.take(),
            after_run: self.after_run.take(),
        }
    }
}

/// Whether a text is there and not empty.
pub(crate) fn is_given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

/// A variable in the clear.
#[derive(InputObject)]
pub(crate) struct EnvVarInput {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Settings of one run. Not done here: refused unless empty.
#[derive(InputObject)]
pub(crate) struct RuntimeConfigInput {
    pub(crate) yaml: Option<String>,
    pub(crate) environment: Option<Vec<EnvVarInput>>,
    pub(crate) project_root: Option<String>,
    pub(crate) runner_image: Option<String>,
    pub(crate) after_apply: Option<Vec<String>>,
    pub(crate) after_destroy: Option<Vec<String>>,
    pub(crate) after_init: Option<Vec<String>>,
    pub(crate) after_perform: Option<Vec<String>>,
    pub(crate) after_plan: Option<Vec<String>>,
    pub(crate) after_run: Option<Vec<String>>,
    pub(crate) before_apply: Option<Vec<String>>,
    pub(crate) before_destroy: Option<Vec<String>>,
    pub(crate) before_init: Option<Vec<String>>,
    pub(crate) before_perform: Option<Vec<String>>,
    pub(crate) before_plan: Option<Vec<String>>,
}

impl RuntimeConfigInput {
    /// Whether it sets nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let lists = [
            &self.after_apply,
            &self.after_destroy,
            &self.after_init,
            &self.after_perform,
            &self.after_plan,
            &self.after_run,
            &self.before_apply,
            &self.before_destroy,
            &self.before_init,
            &self.before_perform,
            &self.before_plan,
        ];
        let texts = [&self.yaml, &self.project_root, &self.runner_image];
        lists.iter().all(|list| list.as_ref().is_none_or(Vec::is_empty))
            && texts.iter().all(|text| !is_given(text.as_ref()))
            && self.environment.as_ref().is_none_or(Vec::is_empty)
    }
}

/// Gantry: a stack's secrets, sealed to its recipients: an age file in two parts.
#[derive(InputObject)]
pub(crate) struct SealedSecretsInput {
    /// The age header, base64.
    pub(crate) header: String,
    /// The age payload, base64.
    pub(crate) payload: String,
}

/// Gantry: a state that was uploaded: an age file whose header is given here, and what its pool signed.
#[derive(InputObject)]
pub(crate) struct StatePushInput {
    /// As `stateUpload` named it.
    pub(crate) id: ID,
    /// The pool that it is sealed to and signed by, if the stack shall move there.
    pub(crate) worker_pool: Option<ID>,
    /// Terraform's serial.
    pub(crate) serial: Long,
    /// Terraform's lineage.
    pub(crate) lineage: String,
    /// The age header, base64.
    pub(crate) header: String,
    /// Lower-case hex of the SHA-256 of what was uploaded, the age payload.
    pub(crate) payload_sha256: String,
    /// Its length in bytes.
    pub(crate) size: Long,
    /// The payload hash of the version that it takes the place of.
    pub(crate) predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub(crate) signature: String,
}
