//! Numbers of the tool's, which have as many digits as they like.
//!
//! What reads JSON here has 64 bits for a number. One that does not fit becomes the string of its digits:
//! exact, and seen to be something special.

/// Puts numbers that 64 bits do not hold into quotes. `json` is valid JSON.
pub(super) fn quoted(json: &str) -> String {
    let mut result = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string(rest),
            '-' | '0'..='9' => {
                let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                rest.find(|c| !is_part(c)).unwrap_or(rest.len())
            }
            other => other.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        let is_number = first == '-' || first.is_ascii_digit();
        if is_number && !fits(token) {
            result.extend(["\"", token, "\""]);
        } else {
            result.push_str(token);
        }
        rest = behind;
    }
    result
}

/// The length of the string that a text begins with, its quotes included.
fn string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a number is the same after it was read.
fn fits(number: &str) -> bool {
    if number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return true;
    }
    let read = number.parse::<f64>().ok().filter(|read| read.is_finite());
    read.is_some_and(|read| digits(number) == digits(&format!("{read:e}")))
}

/// A number's digits without zeros around them, and the place of the first one's decimal point.
fn digits(number: &str) -> (bool, String, i64) {
    let (number, is_negative) = match number.strip_prefix('-') {
        Some(number) => (number, true),
        None => (number, false),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    let zeros = all.len() - significant.len();
    let place = i64::try_from(whole.len()).unwrap_or(i64::MAX / 2)
        - i64::try_from(zeros).unwrap_or(0)
        + exponent;
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return (false, String::new(), 0);
    }
    (is_negative, significant.to_owned(), place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_the_same_after_reading_keeps_its_digits() {
        for same in [
            "0",
            "-0",
            "1",
            "1.0",
            "0.1",
            "-2.50",
            "1e3",
            "1E+3",
            "123456789.125",
            "1e300",
            "18446744073709551615",
            "-9223372036854775808",
            "0.000001",
            "[1,\"2 3 99999999999999999999999\"]",
        ] {
            assert_eq!(quoted(same), same);
        }
        for other in [
            "123456789012345678901234567890",
            "1e999",
            "0.1234567890123456789012345",
            "-18446744073709551617",
            "1e-400",
        ] {
            assert_eq!(quoted(other), format!("\"{other}\""));
        }
        let nested = r#"{"a\"1":[99999999999999999999999,{"b":1}]}"#;
        assert_eq!(quoted(nested), r#"{"a\"1":["99999999999999999999999",{"b":1}]}"#);
    }
}
