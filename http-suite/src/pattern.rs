//! What must be seen, in one line.
//!
//! Alternatives stand between ` | `. In each, `x` after a digit is any digit (`4xx`), `*` is anything, and everything else is
//! itself. `stream-error(1, CODE)` and `connection-error(CODE)` are the ways of RFC 9113 §5.4 to say no.

use regex::Regex;

/// Whether a line is one of the alternatives.
///
/// # Errors
/// A macro without its closing parenthesis.
pub fn matches(pattern: &str, line: &str) -> Result<bool, String> {
    for alternative in pattern.split(" | ") {
        for pattern in expanded(alternative.trim())? {
            if Regex::new(&expression(&pattern)).map_err(|e| e.to_string())?.is_match(line) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn expanded(alternative: &str) -> Result<Vec<String>, String> {
    let arguments = |name: &str| {
        alternative.strip_prefix(name).map(|rest| {
            rest.strip_suffix(')').ok_or_else(|| format!("{alternative:?} does not end in a parenthesis"))
        })
    };
    if let Some(code) = arguments("connection-error(") {
        // What was answered before is no part of the error.
        let code = code?;
        return Ok(vec![format!("goaway({code}) close"), format!("*:* goaway({code}) close")]);
    }
    if let Some(arguments) = arguments("stream-error(") {
        let (stream, code) = arguments?
            .split_once(", ")
            .ok_or_else(|| format!("{alternative:?} wants a stream and a code"))?;
        return Ok(vec![
            format!("{stream}:rst({code}) open"),
            format!("{stream}:4xx open"),
            format!("{stream}:4xx/rst(*) open"),
            format!("goaway({code}) close"),
            format!("{stream}:* goaway({code}) close"),
        ]);
    }
    Ok(vec![alternative.to_owned()])
}

fn expression(pattern: &str) -> String {
    let mut out = String::from("^");
    let mut after_digit = false;
    for c in pattern.chars() {
        match c {
            '*' => out.push_str(".*"),
            'x' if after_digit => out.push_str("[0-9]"),
            _ => out.push_str(&regex::escape(&c.to_string())),
        }
        after_digit = c.is_ascii_digit() || (after_digit && c == 'x');
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alternative_has_classes_of_status_and_gaps() {
        for (pattern, line, wanted) in [
            ("400 close", "400 close", true),
            ("400 close | close", "close", true),
            ("400 close", "1400 close", false),
            ("4xx close", "431 close", true),
            ("4xx *", "431 open", true),
            ("1:4xx open", "1:400 open", true),
            ("stream-error(1, CANCEL)", "1:rst(CANCEL) open", true),
            ("stream-error(1, CANCEL)", "1:400 open", true),
            ("stream-error(1, CANCEL)", "1:200 open", false),
            ("connection-error(CANCEL)", "1:200 goaway(CANCEL) close", true),
            ("connection-error(CANCEL)", "goaway(CANCEL) open", false),
        ] {
            assert_eq!(matches(pattern, line), Ok(wanted), "{pattern} {line}");
        }
        assert!(matches("stream-error(1", "").is_err());
    }
}
