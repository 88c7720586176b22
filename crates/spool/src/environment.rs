//! What the phases' environment is made of, and what wins over what.
//!
//! The worker binary merges it, in the container, where the image's part is what the image truly sets. The launcher
//! only foretells it to the policy, from what the image says of itself, by the same function.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::carried::Carried;
use crate::order::Secret;

/// Where phases find their programs when the image does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by name. Values are zeroed when dropped.
pub type Variables = BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>;

/// What the order adds to what the image sets.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    /// Those of the stage.
    pub own: &'a [(String, Secret)],
    /// A directory that is searched for programs behind all others.
    pub path_end: Option<&'a str>,
    /// What hooks of an earlier stage left.
    pub carried: &'a [Carried],
}

/// What the phases begin with: the image's, the stage's own over it, and over that what hooks of an earlier stage
/// made of them.
///
/// A variable with which this stage begins as the earlier one did gets what hooks made of it. Where it begins with
/// something else, because it was changed in between or is this stage's alone, that stays.
#[must_use]
pub fn merged(image: Variables, layers: Layers<'_>) -> Variables {
    let mut merged = Variables::new();
    set(&mut merged, "PATH", DEFAULT_PATH);
    merged.extend(image);
    for (name, value) in layers.own {
        set(&mut merged, name, value.expose());
    }
    // Last, so that the image's own programs win. On every host, so that what hooks make of the path on one holds
    // on another.
    if let (Some(end), Some(path)) = (layers.path_end, merged.get_mut(b"PATH".as_slice())) {
        *path = Zeroizing::new([path.as_slice(), b":", end.as_bytes()].concat());
    }
    for Carried { name, value, was } in layers.carried {
        let now = merged.get(name.as_bytes()).map(|now| now.as_slice());
        if now != was.as_ref().map(|was| was.expose().as_bytes()) {
            continue;
        }
        match value {
            Some(value) => set(&mut merged, name, value.expose()),
            None => drop(merged.remove(name.as_bytes())),
        }
    }
    merged
}

fn set(variables: &mut Variables, name: &str, value: &str) {
    variables.insert(name.as_bytes().to_vec(), Zeroizing::new(value.as_bytes().to_vec()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, Secret)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::from(*value))).collect()
    }

    fn image(pairs: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::new();
        for (name, value) in pairs {
            set(&mut variables, name, value);
        }
        variables
    }

    fn shown(variables: &Variables) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        variables.iter().map(|(name, value)| (text(name), text(value.as_slice()))).collect()
    }

    fn carried(name: &str, was: Option<&str>, value: Option<&str>) -> Carried {
        Carried { name: name.into(), value: value.map(Secret::from), was: was.map(Secret::from) }
    }

    #[test]
    fn the_stage_s_own_win_over_the_image_s_and_the_path_has_its_end() {
        let own = own(&[("A", "own")]);
        let layers = Layers { own: &own, path_end: Some("/end"), carried: &[] };
        let path = format!("{DEFAULT_PATH}:/end");
        let merge = merged(image(&[("A", "image"), ("B", "image")]), layers);
        assert_eq!(shown(&merge), [("A", "own"), ("B", "image"), ("PATH", path.as_str())]);
        let merge = merged(image(&[("PATH", "/bin")]), layers);
        assert_eq!(shown(&merge), [("A", "own"), ("PATH", "/bin:/end")]);
    }

    #[test]
    fn what_hooks_export_wins_over_what_is_as_it_was_and_over_nothing_else() {
        let own = own(&[("SAME", "1"), ("EDITED", "new"), ("WRITE_ONLY", "w"), ("UNSET", "u")]);
        let carried = [
            carried("SAME", Some("1"), Some("2")),
            carried("EDITED", Some("old"), Some("hook")),
            carried("WRITE_ONLY", None, Some("hook")),
            carried("UNSET", Some("u"), None),
            carried("FRESH", None, Some("f")),
            carried("GONE", Some("g"), Some("hook")),
        ];
        let merge = merged(
            image(&[("PATH", "/bin")]),
            Layers { own: &own, path_end: None, carried: &carried },
        );
        let expected = [
            ("EDITED", "new"),
            ("FRESH", "f"),
            ("PATH", "/bin"),
            ("SAME", "2"),
            ("WRITE_ONLY", "w"),
        ];
        assert_eq!(shown(&merge), expected);
    }
}
