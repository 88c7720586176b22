//! The text of a query, before it is parsed.
//!
//! Public clients write fields without arguments as `workerPools()`, which the GraphQL specification
//! forbids and Spacelift's server takes. The parentheses are taken out here, and nowhere inside of
//! strings and comments.

/// `query` without empty argument parentheses.
pub(super) fn without_empty_arguments(query: &str) -> String {
    let bytes = query.as_bytes();
    let mut kept = String::with_capacity(query.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => end_of_string(bytes, at),
            b'#' => end_of_line(bytes, at),
            b'(' => match end_of_empty(bytes, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => at + 1,
            },
            _ => {
                let rest = &bytes[at + 1..];
                let next = rest.iter().position(|byte| matches!(byte, b'"' | b'#' | b'('));
                next.map_or(bytes.len(), |next| at + 1 + next)
            }
        };
        // All ends stand before or after ASCII characters, so they split no other one.
        kept.push_str(&query[at..end]);
        at = end;
    }
    kept
}

/// Behind `(` and only what GraphQL ignores and `)`, if that is what stands at `start`.
fn end_of_empty(bytes: &[u8], start: usize) -> Option<usize> {
    let inside = &bytes[start + 1..];
    let len =
        inside.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b','))?;
    (inside[len] == b')').then_some(start + 1 + len + 1)
}

fn end_of_line(bytes: &[u8], start: usize) -> usize {
    let rest = &bytes[start..];
    rest.iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .map_or(bytes.len(), |len| start + len)
}

/// Behind the string that begins at `start`; the end of the text if it does not end.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let quotes: &[u8] = if bytes[start..].starts_with(b"\"\"\"") { b"\"\"\"" } else { b"\"" };
    let is_block = quotes.len() == 3;
    let mut at = start + quotes.len();
    while at < bytes.len() {
        if is_block && bytes[at..].starts_with(b"\\\"\"\"") {
            at += 4;
        } else if !is_block && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at..].starts_with(quotes) {
            return at + quotes.len();
        } else {
            at += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::without_empty_arguments as cleaned;

    #[test]
    fn empty_arguments_go_and_everything_else_stays() {
        for (query, expected) in [
            ("{workerPools(){id,name}}", "{workerPools{id,name}}"),
            ("{workerPools( , \n ){id}}", "{workerPools{id}}"),
            ("{workerPool(id: \"()\"){id}}", "{workerPool(id: \"()\"){id}}"),
            (r#"{a(x:"\"()"){b()}}"#, r#"{a(x:"\"()"){b}}"#),
            (r#"{a(x:"""() \""" ()"""){b()}}"#, r#"{a(x:"""() \""" ()"""){b}}"#),
            ("{a # ()\nb()}", "{a # ()\nb}"),
            ("{a(x:\"ä()\")}", "{a(x:\"ä()\")}"),
            ("{a(", "{a("),
            ("\"", "\""),
            ("\"\\", "\"\\"),
            ("", ""),
        ] {
            assert_eq!(cleaned(query), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in r#"[a(){}"\\#ä \n,]{0,40}"#) {
            let once = cleaned(&text);
            prop_assert!(once.len() <= text.len());
        }
    }
}
