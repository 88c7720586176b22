//! Only here: what one adapter adapts is named in its own folder and nowhere else.
//!
//! Looked at are the names and the texts of the code, not what comments say.

use proc_macro2::{Span, TokenTree};
use quote::ToTokens as _;

use super::exceptions::{CLOCKS, HERE, RANDOM, SQL};
use super::source::{SourceFile, Sources, flat};

/// What is named in one place only.
struct Rule {
    /// What it is, for people.
    what: &'static str,
    /// Where the rule holds.
    within: &'static [&'static str],
    /// How the words are found.
    words: Words,
    /// Folders and files that may name it.
    home: &'static [&'static str],
    /// Files that still do, and should not.
    exceptions: &'static [&'static str],
}

enum Words {
    /// Names, as they are.
    Names(&'static [&'static str]),
    /// Names and texts that contain one of these, in whatever case.
    Texts(&'static [&'static str]),
    /// A name with `::` and another one behind it.
    Call(&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        what: "SQL",
        within: &["cli", "control-plane", "launcher", "worker", "crates", "policy"],
        words: Words::Names(&["sqlx"]),
        home: &["control-plane/src/store.rs", "control-plane/src/store/"],
        exceptions: SQL,
    },
    Rule {
        what: "MQTT",
        within: &["control-plane", "launcher"],
        words: Words::Names(&["rmqtt", "rmqtt_net", "rmqtt_codec", "rumqttc"]),
        home: &["control-plane/src/transport/mqtt", "launcher/src/transport/mqtt"],
        exceptions: &[],
    },
    Rule {
        what: "the Docker API",
        within: &["cli", "control-plane", "launcher", "worker"],
        words: Words::Names(&["bollard"]),
        home: &["launcher/src/engine/docker"],
        exceptions: &[],
    },
    Rule {
        what: "S3",
        within: &["cli", "control-plane", "launcher", "worker"],
        words: Words::Names(&[
            "aws_sdk_s3",
            "aws_smithy_runtime_api",
            "aws_smithy_http_client",
            "s3s",
        ]),
        home: &["control-plane/src/objects/"],
        exceptions: &[],
    },
    Rule {
        what: "Terraform",
        within: &["launcher"],
        words: Words::Texts(&["terraform", "tofu", "tf_", "tfstate", "tfplan"]),
        // The list of tools names each once.
        home: &["launcher/src/tool/terraform", "launcher/src/tool.rs"],
        exceptions: &[],
    },
    Rule {
        what: "the wall clock",
        within: &["cli", "control-plane", "launcher", "worker", "crates", "policy"],
        words: Words::Call("SystemTime", "now"),
        home: &["control-plane/src/clock.rs", "crates/e2e/"],
        exceptions: CLOCKS,
    },
    Rule {
        what: "randomness",
        within: &["cli", "control-plane", "launcher", "worker", "crates", "policy"],
        words: Words::Names(&["rand_bytes", "getrandom"]),
        home: &[
            "control-plane/src/ids.rs",
            // Keys and nonces of what is sealed.
            "crates/protocol/src/seal/",
        ],
        exceptions: RANDOM,
    },
];

/// What is named where it should not be.
pub fn broken(sources: &Sources) -> Vec<String> {
    RULES.iter().flat_map(|rule| rule.judge(&sources.0)).collect()
}

impl Rule {
    fn judge(&self, files: &[SourceFile]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut needed = Vec::new();
        for file in files {
            let holds = self
                .within
                .iter()
                .any(|part| file.folder == *part || file.folder.starts_with(&format!("{part}/")));
            let is_home = self.home.iter().any(|home| file.name.starts_with(home));
            if !holds || is_home {
                continue;
            }
            let found = self.find(file);
            if self.exceptions.contains(&file.name.as_str()) {
                if !found.is_empty() {
                    needed.push(file.name.as_str());
                }
                continue;
            }
            broken.extend(found.into_iter().map(|(span, word)| {
                format!(
                    "{}:{}: `{word}` is named here, and {} belongs to {} alone",
                    file.name,
                    span.start().line,
                    self.what,
                    self.home.join(", ")
                )
            }));
        }
        let gone = self.exceptions.iter().filter(|name| !needed.contains(name));
        broken.extend(gone.map(|name| {
            format!(
                "{HERE}: {name} does not name {} any more: remove it from the exceptions",
                self.what
            )
        }));
        broken
    }

    /// Where a file names it; one place for each line.
    fn find(&self, file: &SourceFile) -> Vec<(Span, String)> {
        let mut found: Vec<(Span, String)> = Vec::new();
        for item in &file.items {
            let tokens = flat(item.to_token_stream());
            for (at, token) in tokens.iter().enumerate() {
                let word = token.to_string();
                let is_one = match (&self.words, token) {
                    (Words::Names(names), TokenTree::Ident(_)) => names.contains(&word.as_str()),
                    (Words::Texts(texts), TokenTree::Ident(_) | TokenTree::Literal(_)) => {
                        let lower = word.to_lowercase();
                        texts.iter().any(|text| lower.contains(text))
                    }
                    (Words::Call(owner, name), TokenTree::Ident(_)) => {
                        let behind = tokens.get(at + 3).map(ToString::to_string);
                        word == *owner && behind.as_deref() == Some(name)
                    }
                    (_, _) => false,
                };
                let line = token.span().start().line;
                if is_one && found.last().is_none_or(|(last, _)| last.start().line != line) {
                    found.push((token.span(), word.chars().take(60).collect()));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile::parse("launcher", name, Vec::new(), text).unwrap()
    }

    fn rule(words: Words, exceptions: &'static [&'static str]) -> Rule {
        Rule { what: "it", within: &["launcher"], words, home: &["launcher/src/home/"], exceptions }
    }

    #[test]
    fn a_name_outside_of_its_home_is_told_with_its_place() {
        let rule = rule(Words::Names(&["sqlx"]), &[]);
        let text = "/// sqlx is what this does not say\nfn one() {\n    sqlx::query(\"\");\n}\n\
                    #[cfg(test)]\nmod tests { use sqlx::Row; }\n";
        let told =
            rule.judge(&[file("launcher/src/a.rs", text), file("launcher/src/home/a.rs", text)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("launcher/src/a.rs:3: `sqlx` is named here"), "{told:?}");
    }

    #[test]
    fn texts_and_macros_are_looked_at() {
        let rule = rule(Words::Texts(&["terraform"]), &[]);
        let text =
            "fn one() {\n    format!(\"the Terraform of {}\", 1);\n    terraform_plan();\n}\n";
        assert_eq!(rule.judge(&[file("launcher/src/a.rs", text)]).len(), 2);
    }

    #[test]
    fn a_call_is_found_by_both_its_names() {
        let rule = rule(Words::Call("SystemTime", "now"), &[]);
        let text = "fn one() { std::time::SystemTime::now(); }\nfn two() { SystemTime::UNIX_EPOCH; Instant::now(); }\n";
        assert_eq!(rule.judge(&[file("launcher/src/a.rs", text)]).len(), 1);
    }

    #[test]
    fn an_exception_that_nothing_needs_is_told() {
        let rule = rule(Words::Names(&["sqlx"]), &["launcher/src/a.rs", "launcher/src/b.rs"]);
        let told = rule.judge(&[file("launcher/src/a.rs", "use sqlx::Row;")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("launcher/src/b.rs does not name it any more"), "{told:?}");
    }
}
