//! Rules that all texts from outside have in common.

use unicode_normalization::UnicodeNormalization;

use super::Invalid;

/// A line as people type one: trimmed, NFC, `1..=longest` Unicode scalar values, no control characters.
pub(super) fn parse_line(raw: &str, longest: usize) -> Result<String, Invalid> {
    parse(raw, longest, |c| !c.is_control())
}

/// Like [`parse_line`], with newlines and tabs inside. Windows line ends become `\n`.
pub(super) fn parse_lines(raw: &str, longest: usize) -> Result<String, Invalid> {
    parse(&raw.replace("\r\n", "\n"), longest, |c| !c.is_control() || c == '\n' || c == '\t')
}

fn parse(raw: &str, longest: usize, allowed: impl Fn(char) -> bool) -> Result<String, Invalid> {
    let text: String = raw.trim().nfc().collect();
    let length = text.chars().count();
    if length == 0 {
        return Err(Invalid::because("must not be empty"));
    }
    if longest < length {
        return Err(Invalid(format!("must be at most {longest} characters long, not {length}").into()));
    }
    if !text.chars().all(allowed) {
        return Err(Invalid::because("must not contain control characters"));
    }
    if text.chars().any(is_noncharacter) {
        return Err(Invalid::because("must not contain Unicode noncharacters"));
    }
    Ok(text)
}

/// The 66 code points that Unicode keeps for itself (Unicode 16, section 23.7). SQS refuses or alters two of them,
/// U+FFFE and U+FFFF, and nobody types any.
pub(super) fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{FDD0}'..='\u{FDEF}') || matches!(u32::from(c) & 0xFFFF, 0xFFFE | 0xFFFF)
}
