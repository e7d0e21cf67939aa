//! Reading a JSON object field by field, so that one answer names everything that is wrong with it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    domain::Invalid,
    error::{Error, Fields, Result},
};

/// A JSON object from outside. Fields are taken out one by one, each with its parser; [`Form::check`] then tells of all
/// that failed. Unknown fields are ignored, `null` counts as absent.
#[derive(Debug)]
pub struct Form {
    object: BTreeMap<String, Value>,
    failed: Fields,
}

/// A JSON value, as far as a field can use it.
///
/// Not `serde_json::Value`: with the feature `raw_value`, which any crate in the build can turn on for all, that one reads
/// an object with a certain key as the JSON inside a string, and what is in there is nested beyond the limit.
#[derive(Debug)]
enum Value {
    Null,
    String(String),
    Count(u64),
    Object(BTreeMap<String, Value>),
    /// What no field takes: other numbers, booleans, arrays.
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Every value inside is looked at, also where none is kept: bad JSON is bad JSON wherever it stands.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, count: u64) -> Result<Value, E> {
        Ok(Value::Count(count))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<Value>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
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
        let count = match self.present(field)? {
            Value::Count(count) => usize::try_from(count).ok(),
            _ => None,
        };
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
        self.object.remove(field).filter(|value| !matches!(value, Value::Null))
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
    fn a_number_that_is_no_count_is_refused_and_of_two_fields_with_one_name_the_last_holds() {
        for limit in ["0", "-1", "1.5", "201", "1e2", "18446744073709551616", "true", "[1]", "\"1\"", "{}"] {
            let named = failures(&format!(r#"{{"first": "Ada", "last": "Lovelace", "limit": {limit}}}"#));
            assert_eq!(named.first().map(|(field, _)| *field), Some("limit"), "{limit}");
        }
        assert_eq!(failures(r#"{"first": "Ada", "last": "Lovelace", "limit": 0, "limit": 1}"#), []);
    }

    #[test]
    fn json_inside_a_string_stays_a_string_whatever_the_key_is() {
        // With its feature `raw_value`, which is on in this test, this is what serde_json itself makes of it.
        let body = r#"{"$serde_json::private::RawValue": "{\"first\": \"Ada\", \"last\": \"Lovelace\"}"}"#;
        let hidden: serde_json::Value = serde_json::from_str(body).expect("is JSON");
        assert_eq!(hidden["first"], "Ada");

        let named: Vec<_> = failures(body).into_iter().map(|(field, _)| field).collect();
        assert_eq!(named, ["first", "last"]);
        let mut form = Form::parse(format!(r#"{{"first": {body}}}"#).as_bytes()).expect("is an object");
        form.required("first", Name::parse);
        assert!(matches!(form.check(), Err(Error::ValidationFailed(_))));
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |levels: usize| format!(r#"{{"a": {}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(Form::parse(nested(100).as_bytes()).is_ok());
        assert!(matches!(Form::parse(nested(128).as_bytes()), Err(Error::BadJson)));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
        assert!(matches!(Form::parse(objects.as_bytes()), Err(Error::BadJson)));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in
            ["", "{", "nonsense", "{\"a\": \"\\ud800\"}", "{\"a\": [\"\\ud800\"]}", "{} {}", "\u{feff}{}"]
        {
            assert!(matches!(Form::parse(body.as_bytes()), Err(Error::BadJson)), "{body:?}");
        }
        assert!(matches!(Form::parse(&"[".repeat(100_000).into_bytes()), Err(Error::BadJson)));
        assert!(matches!(Form::parse(b"\xff"), Err(Error::BadJson)));
        for body in ["[]", "7", "null", "\"text\""] {
            assert!(matches!(Form::parse(body.as_bytes()), Err(Error::ValidationFailed(_))), "{body:?}");
        }
    }
}
