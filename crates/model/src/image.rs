//! Names of container images.

/// Why a text is no name of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not the name of an image: {problem}; give one such as `registry.example.com/team/runner:1.2`"
)]
pub struct InvalidImage {
    problem: &'static str,
}

/// The longest name without tag and digest.
const MAX_NAME: usize = 255;
/// The longest tag.
const MAX_TAG: usize = 128;

/// Checks the name of an image as container engines read it: host, path, tag and digest.
///
/// # Errors
/// When an engine would not take it.
pub fn check_image(text: &str) -> Result<(), InvalidImage> {
    let invalid = |problem| Err(InvalidImage { problem });
    if text.is_empty() {
        return invalid("it is empty");
    }
    if text.contains("://") {
        return invalid("it has a scheme such as https://, which images' names do not have");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return invalid("it has a blank or a line feed in it");
    }
    if text.starts_with(['/', '.', '-']) {
        return invalid("it begins like a path or an option");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return invalid("what follows @ is no digest, such as sha256: and 64 of 0-9 and a-f");
    }
    // A colon before the last slash is a port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        Some(_) | None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return invalid("its tag is not 1 to 128 of A-Z, a-z, 0-9, _, . and -");
    }
    if name.len() > MAX_NAME {
        return invalid("it is longer than 255 characters");
    }
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if first == "localhost" || first.contains(['.', ':']) => {
            (Some(first), path)
        }
        Some(_) | None => (None, name),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return invalid("its registry is no host with an optional port");
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return invalid("it has upper-case letters before the tag");
    }
    if path.split('/').all(is_component) {
        return Ok(());
    }
    invalid("its parts are a-z and 0-9, with ., _, __ or - between them")
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_known =
        algorithm == "sha256" && hex.len() == 64 || algorithm == "sha512" && hex.len() == 128;
    is_known && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte))
        && port.is_none_or(is_port)
}

fn is_component(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.into_iter().all(|end| end.is_some_and(is_inner))
        && text.bytes().all(|byte| is_inner(byte) || b"._-".contains(&byte))
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_name_is_what_an_engine_takes() {
        let digest = format!("a/b@sha256:{}", "0a".repeat(32));
        for name in [
            "runner",
            "runner:latest",
            "team/runner:1.2",
            "localhost:5000/runner",
            "registry.example.com:5000/team/the__runner-x.y:V1_2",
            "a--b/c",
            &digest,
        ] {
            assert_eq!(check_image(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_no_images_name_is_refused_with_the_reason() {
        for (name, part) in [
            ("", "empty"),
            ("https://registry/runner", "scheme"),
            ("my runner", "blank"),
            ("runner\n", "line feed"),
            ("./runner.tar", "path"),
            ("-v", "option"),
            ("Runner", "upper-case"),
            ("runner:", "tag"),
            ("runner:a b", "blank"),
            ("runner@sha256:12", "digest"),
            ("host:port/runner", "registry"),
            ("a//b", "parts"),
            ("a_/b", "parts"),
        ] {
            let said = check_image(name).unwrap_err().to_string();
            assert!(said.contains(part), "{name:?}: {said}");
        }
        assert!(check_image(&"a".repeat(256)).is_err());
    }
}
