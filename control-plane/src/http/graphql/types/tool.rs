//! The tool of a stack, as clients name it and see it.

use async_graphql::{Enum, Error, InputObject, SimpleObject, Union};
use gantry_model::Interrupt;

use super::input::is_given;
use crate::http::graphql::error::invalid;
use crate::stacks::{Commands, Tool};

/// What is not done here.
pub(super) const FOREIGN: &str = "tools other than Terraform and custom ones";

/// The tool of a stack.
#[derive(InputObject)]
pub(crate) struct VendorConfigInput {
    pub(crate) ansible: Option<AnsibleInput>,
    pub(crate) cloud_formation: Option<CloudFormationInput>,
    /// Gantry: commands of the stack's own.
    pub(crate) custom: Option<CustomInput>,
    pub(crate) kubernetes: Option<KubernetesInput>,
    pub(crate) pulumi: Option<PulumiInput>,
    pub(crate) terraform: Option<TerraformInput>,
    pub(crate) terragrunt: Option<TerragruntInput>,
}

impl VendorConfigInput {
    /// The tool; none if none is named.
    pub(crate) fn tool(self) -> Result<Option<Tool>, Error> {
        if self.is_foreign() {
            let what = FOREIGN;
            return Err(invalid(format!("this version does not do {what}: leave that out")));
        }
        match (self.terraform, self.custom) {
            (None, None) => Ok(None),
            (Some(_), None) => Ok(Some(Tool::Terraform)),
            (None, Some(custom)) => Ok(Some(Tool::Custom(custom.commands()?))),
            (Some(_), Some(_)) => Err(invalid("a stack has one tool: name one")),
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.ansible.is_some()
            || self.cloud_formation.is_some()
            || self.kubernetes.is_some()
            || self.pulumi.is_some()
            || self.terragrunt.is_some()
            || self.terraform.as_ref().is_some_and(|it| is_given(it.version.as_ref()))
    }
}

/// Ansible's settings. Not done here.
#[derive(InputObject)]
pub(crate) struct AnsibleInput {
    pub(crate) playbook: String,
}

/// `CloudFormation`'s settings. Not done here.
#[derive(InputObject)]
pub(crate) struct CloudFormationInput {
    pub(crate) entry_template_file: String,
    pub(crate) region: String,
    pub(crate) stack_name: String,
    pub(crate) template_bucket: String,
}

/// Gantry: the commands of a tool that only its stack knows.
#[derive(InputObject)]
pub(crate) struct CustomInput {
    /// Of initialize; nothing is done without it.
    pub(crate) initialize: Option<String>,
    /// Of plan.
    pub(crate) plan: String,
    /// Of apply.
    pub(crate) apply: String,
    /// Of destroy; nothing can be destroyed without it.
    pub(crate) destroy: Option<String>,
    /// The exit code of a plan that has something to apply, from 1 to 125; null if no code says so.
    pub(crate) changes_exit_code: Option<i32>,
    /// The one signal by which a command is asked to leave; SIGINT unless given.
    pub(crate) interrupt: Option<InterruptSignal>,
}

impl CustomInput {
    fn commands(self) -> Result<Commands, Error> {
        let code = self.changes_exit_code.map(u8::try_from).transpose();
        Ok(Commands {
            initialize: self.initialize.filter(|command| !command.is_empty()),
            plan: self.plan,
            apply: self.apply,
            destroy: self.destroy.filter(|command| !command.is_empty()),
            changes_exit_code: code.map_err(|_| invalid("changesExitCode is from 1 to 125"))?,
            interrupt: self.interrupt.map(Interrupt::from).unwrap_or_default(),
        })
    }
}

/// Kubernetes' settings. Not done here.
#[derive(InputObject)]
pub(crate) struct KubernetesInput {
    pub(crate) namespace: String,
    pub(crate) kubectl_version: Option<String>,
    pub(crate) kubernetes_workflow_tool: Option<String>,
}

/// Pulumi's settings. Not done here.
#[derive(InputObject)]
pub(crate) struct PulumiInput {
    #[graphql(name = "loginURL")]
    pub(crate) login_url: String,
    pub(crate) stack_name: String,
}

/// Terraform's settings. The version is that of the image.
#[derive(InputObject)]
pub(crate) struct TerraformInput {
    pub(crate) version: Option<String>,
    pub(crate) workspace: Option<String>,
    pub(crate) workflow_tool: Option<String>,
    pub(crate) use_smart_sanitization: Option<bool>,
    pub(crate) external_state_access_enabled: Option<bool>,
}

/// Terragrunt's settings. Not done here.
#[derive(InputObject)]
pub(crate) struct TerragruntInput {
    pub(crate) terraform_version: Option<String>,
    pub(crate) terragrunt_version: Option<String>,
    pub(crate) use_run_all: Option<bool>,
    pub(crate) use_smart_sanitization: Option<bool>,
    pub(crate) tool: Option<String>,
}

/// The tool and its settings.
#[derive(Union)]
pub(crate) enum StackConfigVendor {
    /// Terraform.
    Terraform(StackConfigVendorTerraform),
    /// Gantry: commands of the stack's own.
    Custom(StackConfigVendorCustom),
}

/// Gantry: the commands of a tool that only its stack knows.
#[derive(SimpleObject)]
pub(crate) struct StackConfigVendorCustom {
    /// Of initialize; null if there is nothing to do.
    initialize: Option<String>,
    /// Of plan.
    plan: String,
    /// Of apply.
    apply: String,
    /// Of destroy; null if nothing can be destroyed.
    destroy: Option<String>,
    /// The exit code of a plan that has something to apply; null if no code says so.
    changes_exit_code: Option<i32>,
    /// The one signal by which a command is asked to leave.
    interrupt: InterruptSignal,
}

impl From<Commands> for StackConfigVendorCustom {
    fn from(commands: Commands) -> Self {
        Self {
            initialize: commands.initialize,
            plan: commands.plan,
            apply: commands.apply,
            destroy: commands.destroy,
            changes_exit_code: commands.changes_exit_code.map(i32::from),
            interrupt: commands.interrupt.into(),
        }
    }
}

/// Gantry: the one signal by which a tool is asked to leave.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "Interrupt")]
pub(crate) enum InterruptSignal {
    /// As a terminal sends it on ctrl-c.
    Sigint,
    /// As service managers send it.
    Sigterm,
}

/// Terraform's settings.
#[derive(Default, SimpleObject)]
pub(crate) struct StackConfigVendorTerraform {
    /// The version; null for the image's.
    version: Option<String>,
    /// The workspace.
    workspace: Option<String>,
    /// Which tool; null for the image's.
    workflow_tool: Option<String>,
    /// Whether outputs are shortened.
    use_smart_sanitization: bool,
    /// Whether others may read the state. Nobody without a key can.
    external_state_access_enabled: bool,
}

impl From<Tool> for StackConfigVendor {
    fn from(tool: Tool) -> Self {
        match tool {
            Tool::Terraform => Self::Terraform(StackConfigVendorTerraform::default()),
            Tool::Custom(commands) => Self::Custom(commands.into()),
        }
    }
}
