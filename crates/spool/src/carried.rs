//! What hooks of one stage leave to the next one in the environment.

use serde::{Deserialize, Serialize};

use crate::order::Secret;

/// The largest file of them.
pub const MAX_CARRIED: u64 = 16 * 1024 * 1024;

/// A variable that hooks set, changed or took away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// What hooks made of it; none if they took it away.
    pub value: Option<Secret>,
    /// What the stage began with; none if it had no such variable.
    pub was: Option<Secret>,
}

/// Lays what hooks of an earlier stage made of the environment over that of a later one.
///
/// A variable with which the later stage begins as the earlier one did gets what hooks made of it. Where it
/// begins with something else, because it was changed in between or is this stage's alone, that stays.
pub fn carry_on(environment: &mut Vec<(String, Secret)>, carried: Vec<Carried>) {
    for Carried { name, value, was } in carried {
        let at = environment.iter().position(|(known, _)| *known == name);
        let now = at.map(|at| &environment[at].1);
        if now != was.as_ref() {
            continue;
        }
        match (at, value) {
            (Some(at), Some(value)) => environment[at].1 = value,
            (Some(at), None) => drop(environment.remove(at)),
            (None, Some(value)) => environment.push((name, value)),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(name: &str, was: Option<&str>, value: Option<&str>) -> Carried {
        Carried { name: name.into(), value: value.map(Secret::from), was: was.map(Secret::from) }
    }

    #[test]
    fn what_hooks_export_wins_over_what_is_as_it_was_and_over_nothing_else() {
        let mut environment = vec![
            ("SAME".to_owned(), Secret::from("1")),
            ("EDITED".to_owned(), Secret::from("new")),
            ("WRITE_ONLY".to_owned(), Secret::from("w")),
            ("UNSET".to_owned(), Secret::from("u")),
        ];
        carry_on(
            &mut environment,
            vec![
                carried("SAME", Some("1"), Some("2")),
                carried("EDITED", Some("old"), Some("hook")),
                carried("WRITE_ONLY", None, Some("hook")),
                carried("UNSET", Some("u"), None),
                carried("FRESH", None, Some("f")),
                carried("GONE", Some("g"), Some("hook")),
            ],
        );
        let shown: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let expected = [("SAME", "2"), ("EDITED", "new"), ("WRITE_ONLY", "w"), ("FRESH", "f")];
        assert_eq!(shown, expected);
    }
}
