//! Reading a JSON object field by field, so that one answer names everything that is wrong with it.

use serde_json::{Map, Value};

use crate::{
    domain::Invalid,
    error::{Error, Fields, Result},
};

/// A JSON object from outside. Fields are taken out one by one, each with its parser; [`Form::check`] then tells of all
/// that failed. Unknown fields are ignored, `null` counts as absent.
#[derive(Debug)]
pub struct Form {
    object: Map<String, Value>,
    failed: Fields,
}

impl Form {
    /// Reads the object.
    ///
    /// # Errors
    /// [`Error::BadJson`] for what is no JSON (also for nesting over 128 levels), [`Error::ValidationFailed`] for JSON
    /// that is no object.
    pub fn parse(body: &[u8]) -> Result<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => Ok(Self { object, failed: Fields::new() }),
            Ok(_) => Err(Error::invalid("body", &Invalid::because("must be a JSON object"))),
            Err(_) => Err(Error::BadJson),
        }
    }

    /// The parameters of a query; of two with one name the last one holds.
    pub fn of_query(parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        let object = parameters.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        Self { object, failed: Fields::new() }
    }

    /// A string that must be there. None after a failure, which `check` will report.
    pub fn required<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.present(field) {
            Some(Value::String(raw)) => self.note(field, parse(&raw)),
            Some(_) => self.fail(field, Invalid::because("must be a string")),
            None => self.fail(field, Invalid::because("is missing")),
        }
    }

    /// A string that may be absent. None also after a failure, which `check` will report.
    pub fn optional<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.present(field)? {
            Value::String(raw) => self.note(field, parse(&raw)),
            _ => self.fail(field, Invalid::because("must be a string")),
        }
    }

    /// A whole number in `1..=most` that may be absent.
    pub fn optional_count(&mut self, field: &'static str, most: usize) -> Option<usize> {
        let count = self.present(field)?.as_u64().and_then(|count| usize::try_from(count).ok());
        match count {
            Some(count @ 1..) if count <= most => Some(count),
            _ => self.fail(field, Invalid(format!("must be a whole number from 1 to {most}").into())),
        }
    }

    /// An object of strings that may be absent, with at most `most` entries.
    pub fn optional_map<K: Ord, V>(
        &mut self,
        field: &'static str,
        most: usize,
        parse: impl Fn(&str, &str) -> Result<(K, V), Invalid>,
    ) -> Option<Vec<(K, V)>> {
        let Value::Object(entries) = self.present(field)? else {
            return self.fail(field, Invalid::because("must be an object"));
        };
        if most < entries.len() {
            return self.fail(field, Invalid(format!("must have at most {most} entries").into()));
        }
        let parsed = entries.iter().map(|(key, value)| match value {
            Value::String(value) => parse(key, value),
            _ => Err(Invalid::because("must hold strings only")),
        });
        let parsed: Result<Vec<_>, Invalid> = parsed.collect();
        self.note(field, parsed)
    }

    /// Adds a failure that only shows when several fields are seen together.
    pub fn fail<T>(&mut self, field: &'static str, invalid: Invalid) -> Option<T> {
        self.failed.insert(field, invalid.to_string());
        None
    }

    /// All is well, or everything that is not.
    ///
    /// # Errors
    /// [`Error::ValidationFailed`] with the reason of every field that failed.
    pub fn check(self) -> Result<()> {
        if self.failed.is_empty() { Ok(()) } else { Err(Error::ValidationFailed(self.failed)) }
    }

    fn present(&mut self, field: &'static str) -> Option<Value> {
        self.object.remove(field).filter(|value| !value.is_null())
    }

    fn note<T>(&mut self, field: &'static str, parsed: Result<T, Invalid>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(invalid) => self.fail(field, invalid),
        }
    }
}

/// After `check` every required field is there: the parser put it there, or `check` has returned its failure.
#[macro_export]
macro_rules! checked {
    ($form:expr, $($field:ident),+ $(,)?) => {
        let ($(Some($field),)+) = ($($field,)+) else {
            return Err($form.check().err().unwrap_or($crate::Error::BadJson));
        };
        $form.check()?;
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::users::Name;

    fn failures(body: &str) -> Vec<(&'static str, String)> {
        let mut form = Form::parse(body.as_bytes()).expect("is an object");
        form.required("first", Name::parse);
        form.required("last", Name::parse);
        form.optional("nick", Name::parse);
        form.optional_count("limit", 200);
        match form.check() {
            Err(Error::ValidationFailed(fields)) => fields.into_iter().collect(),
            Err(other) => panic!("{other}"),
            Ok(()) => Vec::new(),
        }
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let named: Vec<_> = failures(r#"{"first": 7, "nick": "\u0000", "limit": 0}"#)
            .into_iter()
            .map(|(field, _)| field)
            .collect();
        assert_eq!(named, ["first", "last", "limit", "nick"]);
    }

    #[test]
    fn null_counts_as_absent_and_unknown_fields_are_ignored() {
        assert_eq!(
            failures(r#"{"first": "Ada", "last": "Lovelace", "nick": null, "limit": 200, "shoe_size": 37}"#),
            []
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "{", "nonsense", "{\"a\": \"\\ud800\"}", "\u{feff}{}"] {
            assert!(matches!(Form::parse(body.as_bytes()), Err(Error::BadJson)), "{body:?}");
        }
        assert!(matches!(Form::parse(&"[".repeat(100_000).into_bytes()), Err(Error::BadJson)));
        assert!(matches!(Form::parse(b"\xff"), Err(Error::BadJson)));
        for body in ["[]", "7", "null", "\"text\""] {
            assert!(matches!(Form::parse(body.as_bytes()), Err(Error::ValidationFailed(_))), "{body:?}");
        }
    }
}
