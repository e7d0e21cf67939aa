//! A frame as it comes in: `ref`, `action`, and what belongs to the action.

use shared::{Error, Result, domain::Invalid, protocol::Form};

use crate::actions::Action;

/// The longest `ref`, in Unicode scalar values.
const LONGEST_REFERENCE: usize = 64;

/// A frame that was read, or why it cannot be. `ref` is kept also if the rest is bad, so that the error finds its sender.
pub(crate) struct Frame {
    pub(crate) reference: Option<String>,
    pub(crate) action: Result<Action>,
}

impl Frame {
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut form = match Form::parse(body) {
            Ok(form) => form,
            Err(error) => return Self { reference: None, action: Err(error) },
        };
        let reference = form.optional("ref", parse_reference);
        let name = form.required("action", |raw| Ok(raw.to_owned()));
        let action = match name.as_deref() {
            Some(name) => Action::parse(name, form),
            // `action` is missing or no string, which the form has noted.
            None => Err(form.check().err().unwrap_or(Error::UnknownAction)),
        };
        Self { reference, action }
    }
}

fn parse_reference(raw: &str) -> Result<String, Invalid> {
    if raw.chars().count() <= LONGEST_REFERENCE {
        Ok(raw.to_owned())
    } else {
        Err(Invalid::because("must be at most 64 characters long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<&str, &str>, reference: Option<&str>) {
        let frame = Frame::parse(body.as_bytes());
        assert_eq!(frame.action.as_ref().map(Action::name).map_err(Error::code), expected, "{body}");
        assert_eq!(frame.reference.as_deref(), reference, "{body}");
    }

    #[test]
    fn every_action_is_read() {
        check(r#"{"action":"join","room":"general","ref":"1"}"#, Ok("join"), Some("1"));
        check(r#"{"action":"join","room":"general","after":"5-0","generation":"00ff"}"#, Ok("join"), None);
        check(r#"{"action":"leave","room":"general"}"#, Ok("leave"), None);
        check(r#"{"action":"send","room":"general","text":"hi","id":"1"}"#, Ok("send"), None);
        check(r#"{"action":"history","room":"general","before":"5-0","limit":7}"#, Ok("history"), None);
        check(r#"{"action":"ping","positions":{"general":"5-0"}}"#, Ok("ping"), None);
        check(r#"{"action":"ping"}"#, Ok("ping"), None);
    }

    #[test]
    fn a_bad_frame_is_refused_with_its_code_and_keeps_its_ref() {
        check("nonsense", Err("bad_json"), None);
        check("", Err("bad_json"), None);
        check("[]", Err("validation_failed"), None);
        check(r#"{"ref":"1"}"#, Err("validation_failed"), Some("1"));
        check(r#"{"action":7,"ref":"1"}"#, Err("validation_failed"), Some("1"));
        check(r#"{"action":"fly","ref":"1"}"#, Err("unknown_action"), Some("1"));
        check(r#"{"action":"join","ref":"1"}"#, Err("validation_failed"), Some("1"));
        check(r#"{"action":"join","room":"No Such Room"}"#, Err("validation_failed"), None);
        check(r#"{"action":"join","room":"general","after":"soon"}"#, Err("validation_failed"), None);
        check(r#"{"action":"send","room":"general"}"#, Err("validation_failed"), None);
        check(r#"{"action":"send","room":"general","text":" "}"#, Err("validation_failed"), None);
        check(r#"{"action":"send","room":"general","text":"hi","id":""}"#, Err("validation_failed"), None);
        check(r#"{"action":"history","room":"general","limit":201}"#, Err("validation_failed"), None);
        check(
            r#"{"action":"history","room":"general","before":"5-0","after":"1-0"}"#,
            Err("validation_failed"),
            None,
        );
        check(r#"{"action":"ping","positions":{"general":5}}"#, Err("validation_failed"), None);
        check(r#"{"action":"ping","positions":[]}"#, Err("validation_failed"), None);
    }

    #[test]
    fn a_ref_that_is_too_long_is_not_echoed() {
        let long = "x".repeat(65);
        check(&format!(r#"{{"action":"ping","ref":"{long}"}}"#), Err("validation_failed"), None);
        check(r#"{"action":"ping","ref":7}"#, Err("validation_failed"), None);
    }
}
