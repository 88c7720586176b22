//! What of a source is not sent: what `.gitignore` and `.terraformignore` say.
//!
//! `.gitignore` files count as Git counts them, those above the source up to the repository's root
//! included. `.terraformignore`, at the source's root, counts as Terraform's does: the last rule that
//! fits a path or a directory above it decides, so that `*` and `!infra/` together send `infra`. What it
//! says wins, so `!prod.tfvars` there sends a file that the repository does not keep.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use globset::{GlobBuilder, GlobMatcher};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::failure::{Explain as _, Failure};
use crate::file;

/// The largest file with rules.
const MAX_RULES: u64 = 1 << 20;

/// What counts in one directory of the source, and in those above it.
pub(super) struct Level {
    git: Gitignore,
    above: Option<Rc<Level>>,
}

/// What counts everywhere in the source.
pub(super) struct Ignored {
    root: PathBuf,
    uses_git: bool,
    rules: Vec<Rule>,
}

struct Rule {
    sends: bool,
    only_directories: bool,
    matcher: GlobMatcher,
}

impl Ignored {
    /// For the source `root`; without `.gitignore` files unless `uses_git`.
    pub(super) fn of(root: &Path, uses_git: bool) -> Result<Self, Failure> {
        let cannot = || format!("cannot read the source {}", root.display());
        let root = root.canonicalize().or_say(cannot)?;
        let path = root.join(".terraformignore");
        let rules = if path.is_file() { read_rules(&path)? } else { Vec::new() };
        Ok(Self { root, uses_git, rules })
    }

    /// What counts at the root.
    pub(super) fn top(&self) -> Result<Option<Rc<Level>>, Failure> {
        let mut level = None;
        let above: Vec<_> = self.root.ancestors().skip(1).collect();
        let repository = self.root.ancestors().position(|folder| folder.join(".git").exists());
        // The source itself comes last, and directories above it only within a repository.
        for folder in above.iter().take(repository.unwrap_or(0)).rev() {
            level = self.enter_at(folder, level)?;
        }
        self.enter_at(&self.root, level)
    }

    /// What counts in `folder`, relative to the root, below `above`.
    pub(super) fn enter(
        &self,
        folder: &Path,
        above: Option<Rc<Level>>,
    ) -> Result<Option<Rc<Level>>, Failure> {
        self.enter_at(&self.root.join(folder), above)
    }

    fn enter_at(
        &self,
        folder: &Path,
        above: Option<Rc<Level>>,
    ) -> Result<Option<Rc<Level>>, Failure> {
        let mut files =
            [folder.join(".git/info/exclude"), folder.join(".gitignore")].into_iter().peekable();
        let mut builder = GitignoreBuilder::new(folder);
        let mut found = false;
        while let Some(path) = files.next_if(|_| self.uses_git) {
            if path.is_file() {
                found = true;
                // A line that is no pattern is passed over, as Git does.
                let text = text_of(&path)?;
                for line in text.lines() {
                    let _passed_over = builder.add_line(None, line);
                }
            }
        }
        if !found {
            return Ok(above);
        }
        let git =
            builder.build().or_say(|| format!("cannot use the rules of {}", folder.display()))?;
        Ok(Some(Rc::new(Level { git, above })))
    }

    /// Whether `path`, relative to the root, is left out. `inherited` is whether the directory that it is
    /// in is.
    pub(super) fn leaves_out(
        &self,
        path: &Path,
        is_folder: bool,
        level: Option<&Rc<Level>>,
        inherited: bool,
    ) -> bool {
        if let Some(sends) = self.ruled(path, is_folder) {
            return !sends;
        }
        let full = self.root.join(path);
        let mut level = level;
        while let Some(Level { git, above }) = level.map(Rc::as_ref) {
            let matched = git.matched(&full, is_folder);
            if !matched.is_none() {
                // Git sends nothing of a directory that it leaves out.
                return inherited || matched.is_ignore();
            }
            level = above.as_ref();
        }
        inherited
    }

    /// Whether something may be sent of a directory that is left out.
    pub(super) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.sends)
    }

    fn ruled(&self, path: &Path, is_folder: bool) -> Option<bool> {
        let fits = |rule: &Rule| {
            let of_itself = (is_folder || !rule.only_directories) && rule.matcher.is_match(path);
            // The root comes last, as the empty path, which `**/*` fits: it is no directory of the source.
            let mut above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
            of_itself || above.any(|above| rule.matcher.is_match(above))
        };
        self.rules.iter().rev().find(|rule| fits(rule)).map(|rule| rule.sends)
    }
}

fn text_of(path: &Path) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&file::read(path, MAX_RULES)?).into_owned())
}

fn read_rules(path: &Path) -> Result<Vec<Rule>, Failure> {
    let text = text_of(path)?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            rule(line).or_say(|| format!("{}, line {}, is no pattern", path.display(), at + 1))
        })
        .collect()
}

fn rule(line: &str) -> Result<Rule, globset::Error> {
    let (sends, pattern) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    let (only_directories, pattern) =
        pattern.strip_suffix('/').map_or((false, pattern), |rest| (true, rest));
    let pattern = match pattern.strip_prefix('/') {
        Some(anchored) => anchored.to_owned(),
        None => format!("**/{}", pattern.trim_start_matches("./")),
    };
    let glob = GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build()?;
    Ok(Rule { sends, only_directories, matcher: glob.compile_matcher() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruled(rules: &str, path: &str) -> Option<bool> {
        let lines = rules.lines().filter(|line| !line.is_empty());
        let rules = lines.map(|line| rule(line).unwrap()).collect();
        let ignored = Ignored { root: PathBuf::new(), uses_git: false, rules };
        ignored.ruled(Path::new(path.trim_end_matches('/')), path.ends_with('/'))
    }

    /// Rules with which other tools packed nothing, or failed.
    #[test]
    fn the_last_rule_that_fits_a_path_or_a_directory_above_it_decides() {
        for (rules, path, sends) in [
            ("*\n!infra/", "infra/", Some(true)),
            ("*\n!infra/", "infra/prod/main.tf", Some(true)),
            ("*\n!infra/", "docs/a.md", Some(false)),
            ("*\n!infra/\ninfra/secret", "infra/secret/a", Some(false)),
            ("dir", "dir/", Some(false)),
            ("dir", "a/dir/b/c", Some(false)),
            ("dir/", "dir", None),
            ("dir/", "dir/a", Some(false)),
            ("/dir", "a/dir", None),
            ("*.tfvars\n!prod.tfvars", "env/prod.tfvars", Some(true)),
            ("*.tfvars", "env/dev.tfvars", Some(false)),
            ("a/**/b", "a/x/y/b", Some(false)),
            ("a/*", "a/x/y", Some(false)),
            ("./build/", "build/x", Some(false)),
            ("*/", "main.tf", None),
            ("*/", "a/main.tf", Some(false)),
            ("*\n!*/", "secrets.env", Some(false)),
            ("", "main.tf", None),
        ] {
            assert_eq!(ruled(rules, path), sends, "{rules:?} {path}");
        }
    }
}
