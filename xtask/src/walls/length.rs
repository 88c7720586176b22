//! No file has more than 500 lines, tests aside: what is longer is two things.

use super::exceptions::{HERE, LONG};
use super::source::Sources;

const MOST: usize = 500;

/// The files that are longer.
pub fn broken(sources: &Sources) -> Vec<String> {
    let long = sources.0.iter().filter(|file| file.lines > MOST);
    let long: Vec<_> = long.map(|file| (file.name.as_str(), file.lines)).collect();
    judge(&long, LONG)
}

fn judge(long: &[(&str, usize)], exceptions: &[&str]) -> Vec<String> {
    let new = long.iter().filter(|(name, _)| !exceptions.contains(name));
    let mut broken: Vec<String> = new
        .map(|(name, lines)| {
            format!("{name}:{}: it has {lines} lines without its tests, and {MOST} is the most: part it", MOST + 1)
        })
        .collect();
    let gone = exceptions.iter().filter(|name| !long.iter().any(|(long, _)| long == *name));
    broken.extend(gone.map(|name| format!("{HERE}: {name} is short enough: remove it from LONG")));
    broken
}

#[cfg(test)]
mod tests {
    use super::{super::source::SourceFile, *};

    #[test]
    fn a_long_file_is_told_and_so_is_an_exception_that_nothing_needs() {
        let told = judge(&[("a.rs", 501), ("b.rs", 900)], &["b.rs", "c.rs"]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("a.rs:501: it has 501 lines"), "{told:?}");
        assert!(told[1].contains("c.rs is short enough"), "{told:?}");
    }

    #[test]
    fn tests_do_not_count() {
        let text = "fn one() {}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn it() {}\n}\n";
        let file = SourceFile::parse("xtask", "a.rs", Vec::new(), text).unwrap();
        assert_eq!(file.lines, 2);
    }
}
