//! Stacks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::Cli;

/// A stack for what happens in an apply. Its first resource is made, the second one is in the making until
/// a test gives `go`, the third comes after it.
pub const SLOW_APPLY: &str = r#"
resource "terraform_data" "first" { input = "first" }
resource "terraform_data" "slow" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = <<-EOT
      trap 'echo interrupt >> /count/interrupts; exit 1' INT
      echo apply >> /count/applies
      touch /count/applying
      while [ ! -e /count/go ]; do sleep 0.1; done
      echo let go
      touch /count/gone
    EOT
  }
}
resource "terraform_data" "third" {
  input      = "third"
  depends_on = [terraform_data.slow]
}
"#;

/// A stack to be made.
#[derive(Debug)]
pub struct StackSetup {
    cli: Cli,
    name: String,
    pool: String,
    source: PathBuf,
    arguments: Vec<String>,
    secrets: Vec<(String, String)>,
    captured: Vec<&'static str>,
    hooks: Vec<(&'static str, String)>,
}

impl StackSetup {
    pub(crate) fn new(cli: &Cli, pool: &str, dir: &Path, name: &str) -> Self {
        let source = dir.join(format!("source-{name}"));
        fs::create_dir_all(&source).expect("a source directory can be made");
        Self {
            cli: cli.clone(),
            name: name.to_owned(),
            pool: pool.to_owned(),
            source,
            arguments: Vec::new(),
            secrets: Vec::new(),
            captured: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Puts a file into the source.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.source.join(name), content).expect("a source file can be written");
        self
    }

    /// Takes the source from a directory of this repository.
    #[must_use]
    pub fn source(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.source);
        self
    }

    /// Gives it to another pool.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        pool.clone_into(&mut self.pool);
        self
    }

    /// A secret variable.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable in the clear.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.argument("--env", &format!("{name}={value}"))
    }

    /// A hook, such as `before-plan`.
    #[must_use]
    pub fn hook(mut self, place: &'static str, command: &str) -> Self {
        self.hooks.push((place, command.to_owned()));
        self
    }

    /// An option with its value.
    #[must_use]
    pub fn argument(mut self, option: &str, value: &str) -> Self {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// An option without a value.
    #[must_use]
    pub fn flag(mut self, option: &str) -> Self {
        self.arguments.push(option.to_owned());
        self
    }

    /// Copies everything that the phases `init`, `plan` and `apply` write to `/count/<phase>-<run>`, so that a
    /// test knows what the log must be.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.captured = vec!["init", "plan", "apply"];
        self
    }

    /// Makes it.
    #[must_use]
    pub fn create(mut self) -> Stack {
        let mut hooks = Vec::new();
        for phase in &self.captured {
            hooks.push((format!("--before-{phase}"), capture(phase)));
        }
        hooks.extend(self.hooks.drain(..).map(|(place, command)| (format!("--{place}"), command)));
        for phase in &self.captured {
            hooks.push((format!("--after-{phase}"), UNCAPTURE.to_owned()));
        }
        let mut arguments = vec!["stack", "create", &self.name, "--pool", &self.pool, "--source"];
        arguments.push(self.source.to_str().expect("paths of tests are UTF-8"));
        arguments.extend(self.arguments.iter().map(String::as_str));
        arguments.extend(hooks.iter().flat_map(|(option, command)| [option.as_str(), command]));
        for (name, _) in &self.secrets {
            arguments.extend(["--secret", name]);
        }
        arguments.extend(["--output", "json"]);
        let mut command = self.cli.command(&arguments);
        command.envs(self.secrets.iter().cloned());
        let ended =
            crate::program::finished("gantry", std::time::Duration::from_secs(60), &mut command);
        assert_eq!(ended.code, Some(0), "gantry {}: {}", arguments.join(" "), ended.complaint());
        let made: serde_json::Value =
            serde_json::from_slice(&ended.stdout).expect("gantry prints JSON");
        Stack {
            id: made["id"].as_str().expect("a stack has an id").to_owned(),
            source: self.source,
        }
    }
}

/// From here on, everything that the phase's shell and its children write goes through `tee`.
fn capture(phase: &str) -> String {
    format!(
        "exec 3>&1; rm -f /tmp/captured; mkfifo /tmp/captured; \
         tee \"/count/{phase}-$TF_VAR_spacelift_run_id\" </tmp/captured >&3 & exec >/tmp/captured 2>&1"
    )
}

/// Waits until `tee` has passed everything on.
const UNCAPTURE: &str = "exec >&3 2>&1; wait; exec 3>&-";

/// A stack.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its id.
    pub id: String,
    /// Where its source lies.
    pub source: PathBuf,
}
