//! YAML with CloudFormation's short tags → JSON with its long names (`!Ref X` → `{"Ref": "X"}`), so that the rest
//! of the reader knows one form only.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Number, Value, json};
use yaml_serde::Value as Yaml;

/// Reads a template's text.
pub(super) fn read(text: &str) -> Result<Map<String, Value>> {
    let mut yaml: Yaml = yaml_serde::from_str(text)?;
    yaml.apply_merge()?;
    match convert(yaml)? {
        Value::Object(document) => Ok(document),
        _ => bail!("a template is a mapping with `Resources`"),
    }
}

fn convert(yaml: Yaml) -> Result<Value> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => Value::Number(self::number(&number)?),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => items.into_iter().map(convert).collect::<Result<_>>()?,
        Yaml::Mapping(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Ok((self::key(key)?, convert(value)?)));
            Value::Object(entries.collect::<Result<_>>()?)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            long_form(tag.trim_start_matches('!'), convert(tagged.value)?)
        }
    })
}

fn number(number: &yaml_serde::Number) -> Result<Number> {
    let whole = number.as_i64().map(Number::from).or_else(|| number.as_u64().map(Number::from));
    whole.or_else(|| Number::from_f64(number.as_f64()?)).context("a number that JSON cannot write")
}

fn key(key: Yaml) -> Result<String> {
    Ok(match key {
        Yaml::String(text) => text,
        // An account id or a status as a key, as in `Mappings`.
        Yaml::Number(number) => number.to_string(),
        Yaml::Bool(value) => value.to_string(),
        _ => bail!("a key that is no text"),
    })
}

fn long_form(tag: &str, value: Value) -> Value {
    match (tag, value) {
        ("Ref" | "Condition", value) => json!({ tag: value }),
        ("GetAtt", Value::String(path)) => {
            let (resource, attribute) = path.split_once('.').unwrap_or((&path, ""));
            json!({ "Fn::GetAtt": [resource, attribute] })
        }
        (tag, value) => json!({ format!("Fn::{tag}"): value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: Value) {
        let document = read(&format!("x: {yaml}")).expect("readable");
        assert_eq!(document["x"], expected, "{yaml}");
    }

    #[test]
    fn short_tags_become_long_names_also_inside_each_other() {
        check("!Ref Api", json!({"Ref": "Api"}));
        check("!GetAtt Message.Arn", json!({"Fn::GetAtt": ["Message", "Arn"]}));
        check("!GetAtt Data.Outputs.Url", json!({"Fn::GetAtt": ["Data", "Outputs.Url"]}));
        check("!GetAtt [Message, Arn]", json!({"Fn::GetAtt": ["Message", "Arn"]}));
        check(
            "!If [Own, !Ref Own, !Sub '${A}-b']",
            json!({"Fn::If": ["Own", {"Ref": "Own"}, {"Fn::Sub": "${A}-b"}]}),
        );
        check("!Not [!Condition Own]", json!({"Fn::Not": [{"Condition": "Own"}]}));
    }

    #[test]
    fn plain_values_stay_what_they_are() {
        check("[1, 2.5, true, null, '010']", json!([1, 2.5, true, null, "010"]));
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let document = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}").expect("readable");
        assert_eq!(document["b"], json!({"x": 1, "y": 3}));
    }

    #[test]
    fn broken_yaml_is_refused_with_its_line() {
        let error = read("Resources:\n  A: [").expect_err("broken").to_string();
        assert!(error.contains("line"), "{error}");
    }
}
