//! The masker against a brute-force reference, and against the leaks found in other maskers.

use gantry_launcher::mask::{LONGEST, MASK, Masker, Refusal, RefusalReason, Secrets, TOTAL};
use proptest::prelude::*;

/// All of them, and those that will not be masked.
fn gather<'a>(named: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> (Secrets, Vec<Refusal>) {
    let mut secrets = Secrets::new();
    let named = named.into_iter();
    let refusals = named.filter_map(|(name, value)| secrets.insert(name, value).err()).collect();
    (secrets, refusals)
}

fn secrets(values: &[&[u8]]) -> Secrets {
    let (secrets, refusals) = gather(values.iter().map(|value| ("SECRET", *value)));
    assert_eq!(refusals, []);
    secrets
}

/// Masks `pieces` as one stream.
fn masked<'a>(secrets: &Secrets, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut masker = Masker::new(secrets);
    let mut out = Vec::new();
    for piece in pieces {
        masker.push(piece, &mut out);
    }
    masker.finish(&mut out);
    assert_eq!(masker.held(), 0);
    out
}

/// Masks `text` whole, byte by byte and split at every place, and demands the same each time.
fn everywhere(values: &[&str], text: &str) -> String {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    let (secrets, text) = (secrets(&values), text.as_bytes());
    let whole = masked(&secrets, [text]);
    assert_eq!(masked(&secrets, text.chunks(1)), whole, "byte by byte");
    for split in 0..=text.len() {
        assert_eq!(masked(&secrets, [&text[..split], &text[split..]]), whole, "split at {split}");
    }
    String::from_utf8(whole).expect("a mask never cuts a character of this text")
}

/// The definition: every occurrence of every value, merged where they overlap.
fn reference(values: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut hits: Vec<(usize, usize)> = Vec::new();
    for value in values {
        hits.extend(
            text.windows(value.len())
                .enumerate()
                .filter(|(_, window)| window == value)
                .map(|(start, _)| (start, start + value.len())),
        );
    }
    hits.sort_unstable();
    let mut unions: Vec<(usize, usize)> = Vec::new();
    for (start, end) in hits {
        match unions.last_mut() {
            Some(last) if start < last.1 => last.1 = last.1.max(end),
            Some(_) | None => unions.push((start, end)),
        }
    }
    let (mut out, mut copied) = (Vec::new(), 0);
    for (start, end) in unions {
        out.extend_from_slice(&text[copied..start]);
        out.extend_from_slice(MASK);
        copied = end;
    }
    out.extend_from_slice(&text[copied..]);
    out
}

#[test]
fn a_secret_split_across_writes_is_masked() {
    assert_eq!(everywhere(&["hunter2hunter3"], "password hunter2hunter3.\n"), "password *****.\n");
}

#[test]
fn a_self_overlapping_secret_split_across_writes_is_masked() {
    assert_eq!(everywhere(&["121213secret"], "x12121213secret"), "x12*****");
}

#[test]
fn a_repeat_run_before_a_secret_is_kept() {
    assert_eq!(everywhere(&["aaab"], "aaaaab"), "aa*****");
}

#[test]
fn overlapping_secrets_become_one_mask_in_place() {
    assert_eq!(everywhere(&["alphabeta", "betagamma"], "alphabetagamma"), "*****");
    assert_eq!(everywhere(&["abcdef", "cdefghij"], "-abcdefghij-"), "-*****-");
}

#[test]
fn a_secret_that_begins_another_one_leaves_no_tail() {
    let (short, long) = ("sk-live", "sk-live-9d3f0a1b");
    assert_eq!(everywhere(&[short, long], "key=sk-live-9d3f0a1b;"), "key=*****;");
    assert_eq!(everywhere(&[long, short], "key=sk-live-9d3f0a1b;"), "key=*****;");
    assert_eq!(everywhere(&[short, long], "key=sk-live-9d3f0a1;"), "key=*****-9d3f0a1;");
}

#[test]
fn secrets_that_only_touch_are_two_masks() {
    assert_eq!(everywhere(&["abcd", "wxyz"], "abcdwxyz"), "**********");
    assert_eq!(everywhere(&["abcd", "wxyz", "cdwx"], "abcdwxyz"), "*****");
}

const KEY: &str = "-----BEGIN KEY-----\n  MIIEvQIBADAN\nBgkqhkiG9w0B\n}\n-----END KEY-----\n";

#[test]
fn a_multi_line_secret_is_masked_whole() {
    assert_eq!(everywhere(&[KEY], &format!("<{KEY}>")), "<*****>");
}

#[test]
fn a_multi_line_secret_with_crlf_is_masked_whole() {
    let crlf = KEY.replace('\n', "\r\n");
    assert_eq!(everywhere(&[KEY], &format!("<{crlf}>")), "<*****>");
    assert_eq!(everywhere(&[&crlf], &format!("<{KEY}>")), "<*****>");
}

#[test]
fn a_multi_line_secret_printed_indented_is_masked_by_line() {
    let indented: Vec<String> =
        KEY.lines().map(|line| format!("      {}\n", line.trim())).collect();
    let expected = "      *****\n      *****\n      *****\n      }\n      *****\n";
    assert_eq!(everywhere(&[KEY], &indented.concat()), expected);
}

#[test]
fn one_line_of_a_multi_line_secret_is_masked_alone() {
    assert_eq!(everywhere(&[KEY], "got BgkqhkiG9w0B here"), "got ***** here");
}

#[test]
fn short_and_blank_lines_of_a_secret_mask_nothing_else() {
    let json = "{\n      \n\"a\": \"hunter2\"\n}\n";
    assert_eq!(everywhere(&[json], "{ }       {\n}\n"), "{ }       {\n}\n");
}

#[test]
fn a_value_ending_in_a_line_end_is_masked_without_it_too() {
    assert_eq!(everywhere(&["hunter22\n"], "hunter22 and hunter22\r\n"), "***** and *****");
}

/// Each as Terraform 1.x prints `p<a>s&s"w\d ${x} %{y}`: in a plan, in its JSON, as JSON in a plan, as
/// generated configuration, and as JSON in JSON.
#[test]
fn a_secret_is_masked_as_terraform_prints_it() {
    let secret = "p<a>s&s\"w\\d${x}%{y}";
    for printed in [
        r#"p<a>s&s"w\d${x}%{y}"#,
        r#"p<a>s&s\"w\\d${x}%{y}"#,
        r#"p\u003ca\u003es\u0026s\"w\\d${x}%{y}"#,
        r#"p\\u003ca\\u003es\\u0026s\\\"w\\\\d${x}%{y}"#,
        r#"p<a>s&s\\\"w\\\\d${x}%{y}"#,
        r#"p<a>s&s\"w\\d$${x}%%{y}"#,
        r#"p<a>s&s"w\d$${x}%%{y}"#,
    ] {
        assert_eq!(everywhere(&[secret], &format!("+ v = \"{printed}\"")), "+ v = \"*****\"");
    }
}

/// A key as one line with `\n`, as `jsonencode` and every JSON output write it.
#[test]
fn a_multi_line_secret_in_one_line_is_masked() {
    for spelled in
        [KEY.replace('\n', "\\n"), KEY.replace('\n', "\\\\n"), KEY.replace('\n', "\\r\\n")]
    {
        let masked = everywhere(&[KEY], &format!("\"{spelled}\""));
        assert!(!masked.contains("MIIE") && !masked.contains("Bgkq"), "{masked}");
    }
}

#[test]
fn what_is_in_a_secret_that_is_json_is_masked_alone() {
    let account = r#"{"id": 7, "key": "a\"b\nhunter2", "list": ["deep-one", {"x": "true", "y": "no"}],
        "inner": "{\"token\": \"inner-token\"}"}"#;
    assert_eq!(everywhere(&[account], account), "*****");
    let text = "key a\\\"b\\nhunter2, hunter2, deep-one, inner-token; true, no, 7";
    assert_eq!(everywhere(&[account], text), "key *****, *****, *****, *****; true, no, 7");
}

#[test]
fn a_secret_is_masked_without_the_white_space_at_its_ends() {
    assert_eq!(everywhere(&["  hunter2\t"], "<hunter2> <  hunter2\t>"), "<*****> <*****>");
    assert_eq!(everywhere(&["  ab"], "ab <  ab>"), "ab <*****>");
}

/// Spelled, it is longer than anything that is looked for in one piece.
#[test]
fn a_secret_whose_spelling_is_too_long_is_masked_in_pieces() {
    let secret = format!("{}end", "<&".repeat(LONGEST / 2 - 2));
    let spelled = secret.replace('<', "\\u003c").replace('&', "\\u0026");
    let out = masked(&secrets(&[secret.as_bytes()]), [spelled.as_bytes()]);
    assert!(!out.iter().any(u8::is_ascii_hexdigit), "{}", String::from_utf8_lossy(&out));
}

#[test]
fn without_secrets_nothing_is_held_or_changed() {
    let mut masker = Masker::new(&Secrets::new());
    let mut out = Vec::new();
    masker.push(b"plain \xff\x00 text", &mut out);
    assert_eq!((out.as_slice(), masker.held()), (b"plain \xff\x00 text".as_slice(), 0));
}

#[test]
fn text_that_begins_no_secret_is_given_out_at_once() {
    let mut masker = Masker::new(&secrets(&[b"hunter2hunter3"]));
    let mut out = Vec::new();
    masker.push(b"Apply complete\n", &mut out);
    assert_eq!((out.as_slice(), masker.held()), (b"Apply complete\n".as_slice(), 0));
    masker.push(b"hunt", &mut out);
    assert_eq!(masker.held(), 4);
}

#[test]
fn a_phase_that_ends_inside_a_secret_ends_the_hold() {
    let mut masker = Masker::new(&secrets(&[b"hunter2"]));
    let mut out = Vec::new();
    masker.push(b"hunt", &mut out);
    masker.finish(&mut out);
    masker.push(b"er2 hunter2", &mut out);
    masker.finish(&mut out);
    assert_eq!(out, b"hunter2 *****");
}

#[test]
fn an_endless_union_is_one_mask_and_bounded_memory() {
    let mut masker = Masker::new(&secrets(&[b"----"]));
    let (mut out, rule) = (Vec::new(), vec![b'-'; 100_000]);
    for _ in 0..30 {
        masker.push(&rule, &mut out);
    }
    assert_eq!((out.len(), masker.held()), (0, 3_000_000));
    // What is added now still reaches back as far as any value can.
    let mut late = vec![b'-'; LONGEST - 4];
    late.extend_from_slice(b"tail");
    masker.add("LATE", &late).unwrap();
    masker.push(b"tail, not more", &mut out);
    masker.finish(&mut out);
    assert_eq!(out, b"*****, not more");
}

#[test]
fn refusals_name_the_variable_and_never_the_value() {
    let long = vec![b'x'; LONGEST + 1];
    let (secrets, refusals) =
        gather([("PIN", b"q7z".as_slice()), ("CA", &long), ("TOKEN", b"  ab")]);
    assert_eq!(secrets.len(), 1);
    let reasons: Vec<_> =
        refusals.iter().map(|refusal| (refusal.name.as_str(), refusal.reason)).collect();
    assert_eq!(reasons, [("PIN", RefusalReason::TooShort), ("CA", RefusalReason::TooLong)]);
    assert_eq!(
        refusals[0].to_string(),
        "the value of PIN is not masked: it is shorter than 4 bytes and would hide ordinary text; use a longer secret"
    );
    let shown = format!("{secrets:?} {:?} {refusals:?}", Masker::new(&secrets));
    assert!(!shown.contains("ab") && !shown.contains("q7z"), "{shown}");
}

#[test]
fn more_than_the_set_can_hold_is_refused() {
    let mut secrets = Secrets::new();
    for number in 0..TOTAL / LONGEST {
        let mut value = vec![b'x'; LONGEST - 8];
        value.extend_from_slice(format!("{number:08}").as_bytes());
        secrets.insert("BIG", &value).unwrap();
        secrets.insert("BIG", &value).unwrap();
    }
    assert_eq!(secrets.insert("MORE", b"hunter2").unwrap_err().reason, RefusalReason::TooMany);
}

/// Values over a small alphabet, so that they overlap themselves and each other all the time.
fn values() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let value = prop_oneof![
        8 => prop::collection::vec(prop::sample::select(b"ab".to_vec()), 4..9),
        2 => prop::collection::vec(prop::sample::select(b"abc".to_vec()), 4..40),
    ];
    prop::collection::vec(value, 1..6)
}

/// Text that holds values, parts of values and noise.
fn case() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    values().prop_flat_map(|values| {
        let known = values.clone();
        let part = (0..values.len(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(move |(which, from, to)| {
                let value = &known[which];
                let (from, to) = (from.index(value.len()), to.index(value.len() + 1));
                value[from.min(to)..to.max(from)].to_vec()
            });
        let whole = prop::sample::select(values.clone());
        let noise = prop::collection::vec(prop::sample::select(b"abcxy z\n".to_vec()), 0..20);
        let text = prop::collection::vec(prop_oneof![part, whole, noise], 0..14)
            .prop_map(|parts| parts.concat());
        (Just(values), text)
    })
}

/// Cuts `text` into pieces whose lengths go round through `cuts`.
fn cut<'a>(mut text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in cuts.iter().cycle() {
        if text.is_empty() {
            break;
        }
        let (piece, rest) = text.split_at((*length).clamp(1, text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

fn set(values: &[Vec<u8>]) -> Secrets {
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    secrets(&values)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the stream is cut, and whether the filter or the automaton sees it.
    #[test]
    fn output_is_the_reference_at_any_split(
        (values, text) in case(),
        cuts in prop::collection::vec(1_usize..30, 1..8),
    ) {
        let out = masked(&set(&values), cut(&text, &cuts));
        prop_assert_eq!(out, reference(&values, &text));
    }

    /// After every piece: what was given out stands, and a fresh masker at the resume point gives
    /// out the rest, cut anew.
    #[test]
    fn a_fresh_masker_at_any_resume_point_gives_out_the_rest(
        (values, text) in case(),
        cuts in prop::collection::vec(1_usize..30, 1..8),
        others in prop::collection::vec(1_usize..30, 1..8),
    ) {
        let secrets = set(&values);
        let whole = reference(&values, &text);
        let mut masker = Masker::new(&secrets);
        let (mut out, mut taken) = (Vec::new(), 0);
        for piece in cut(&text, &cuts) {
            masker.push(piece, &mut out);
            taken += piece.len();
            let resume = taken - masker.held();
            let rest = masked(&secrets, cut(&text[resume..], &others));
            prop_assert_eq!([out.as_slice(), &rest].concat(), whole.clone());
        }
    }

    /// A value that is added on the way counts from the resume point on.
    #[test]
    fn an_added_value_counts_from_the_resume_point(
        (values, text) in case(),
        cuts in prop::collection::vec(1_usize..30, 1..8),
        at in any::<prop::sample::Index>(),
    ) {
        let (late, early) = values.split_last().expect("there is at least one");
        let at = at.index(text.len() + 1);
        let mut masker = Masker::new(&set(early));
        let mut out = Vec::new();
        for piece in cut(&text[..at], &cuts) {
            masker.push(piece, &mut out);
        }
        masker.add("LATE", late).unwrap();
        let resume = at - masker.held();
        let before = out.len();
        for piece in cut(&text[at..], &cuts) {
            masker.push(piece, &mut out);
        }
        masker.finish(&mut out);
        prop_assert_eq!(&out[before..], reference(&values, &text[resume..]));
    }
}
