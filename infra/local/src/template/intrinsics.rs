//! CloudFormation's functions, as far as a template can use them in what runs on this machine.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

use super::queues::QUEUE;
use crate::ids::api_id;
use crate::local_values::{function_arn, pseudo_parameter, queue_arn, queue_url};

/// Conditions that refer to each other for longer than this go round in circles.
const LONGEST_PATH: usize = 1_024;

/// Resolves references within one template.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    document: &'a Map<String, Value>,
    /// Logical id → function name.
    functions: BTreeMap<&'a str, String>,
    /// The base of the queues' URLs, once it is known.
    queues: Option<&'a str>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(document: &'a Map<String, Value>, functions: BTreeMap<&'a str, String>) -> Self {
        Self { document, functions, queues: None }
    }

    /// With the base of the queues' URLs.
    pub(super) fn with_queues_at(self, queues: Option<&'a str>) -> Self {
        Self { queues, ..self }
    }

    /// The name of a queue: its own, or one that is the same in every run.
    pub(super) fn queue_name(&self, logical_id: &str, path: &str) -> Result<String> {
        let queue = self.document.get("Resources").and_then(|resources| resources.get(logical_id));
        let name = queue.and_then(|queue| queue.get("Properties")?.get("QueueName"));
        let name = name.map(|name| self.text(name, &format!("{path} → Resources.{logical_id}.QueueName")));
        let name = name.transpose()?.flatten().unwrap_or_else(|| format!("local-{logical_id}"));
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        ensure!(
            (1..=80).contains(&name.len()) && name.chars().all(valid),
            "{path}: `{name}` is no name of a standard queue"
        );
        Ok(name)
    }

    /// The value with every reference resolved; `None` for `AWS::NoValue`.
    pub(super) fn resolve(&self, value: &Value, path: &str) -> Result<Option<Value>> {
        ensure!(path.len() < LONGEST_PATH, "{path}: goes round in circles");
        match value {
            Value::Object(object) => match intrinsic(object) {
                Some((name, argument)) => self.call(name, argument, path),
                None => {
                    let mut resolved = Map::new();
                    for (key, value) in object {
                        if let Some(value) = self.resolve(value, &format!("{path}.{key}"))? {
                            resolved.insert(key.clone(), value);
                        }
                    }
                    Ok(Some(Value::Object(resolved)))
                }
            },
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let items = items.map(|(n, item)| self.resolve(item, &format!("{path}[{n}]")));
                Ok(Some(Value::Array(items.filter_map(Result::transpose).collect::<Result<_>>()?)))
            }
            plain => Ok(Some(plain.clone())),
        }
    }

    /// The value as CloudFormation writes it where text is wanted; `None` for `AWS::NoValue`.
    pub(super) fn text(&self, value: &Value, path: &str) -> Result<Option<String>> {
        match self.resolve(value, path)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(plain @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(plain.to_string())),
            Some(_) => bail!("{path}: not a text"),
        }
    }

    /// Whether something with this `Condition` exists.
    pub(super) fn exists(&self, resource: &Value, path: &str) -> Result<bool> {
        match resource.get("Condition") {
            None => Ok(true),
            Some(Value::String(name)) => self.condition(name, path),
            Some(_) => bail!("{path}.Condition: not the name of a condition"),
        }
    }

    fn call(&self, name: &str, argument: &Value, path: &str) -> Result<Option<Value>> {
        let text = |value: &Value| -> Result<String> {
            self.text(value, path)?.with_context(|| format!("{path}: AWS::NoValue inside of {name}"))
        };
        Ok(Some(match name {
            "Ref" => return self.reference(plain(argument, path)?, path),
            "Fn::GetAtt" => match argument.as_array().map(Vec::as_slice) {
                Some([Value::String(resource), Value::String(attribute)]) => {
                    Value::String(self.attribute(resource, attribute, path)?)
                }
                _ => bail!("{path}: Fn::GetAtt takes a resource and an attribute"),
            },
            "Fn::Sub" => Value::String(self.substitute(argument, path)?),
            "Fn::Join" => {
                let [separator, items] = arguments(name, argument, path)?;
                let items = self.resolve(items, path)?;
                let items =
                    items.as_ref().and_then(Value::as_array).with_context(|| format!("{path}: no list"))?;
                let items = items.iter().map(&text).collect::<Result<Vec<_>>>()?;
                Value::String(items.join(plain(separator, path)?))
            }
            "Fn::Split" => {
                let [separator, whole] = arguments(name, argument, path)?;
                text(whole)?.split(plain(separator, path)?).map(Value::from).collect()
            }
            "Fn::Select" => {
                let [index, items] = arguments(name, argument, path)?;
                let index: usize = text(index)?.parse().with_context(|| format!("{path}: no index"))?;
                let items = self.resolve(items, path)?.unwrap_or_default();
                items.get(index).cloned().with_context(|| format!("{path}: no item {index}"))?
            }
            "Fn::If" => {
                let [condition, yes, no] = arguments(name, argument, path)?;
                let chosen = if self.condition(plain(condition, path)?, path)? { yes } else { no };
                return self.resolve(chosen, path);
            }
            "Fn::FindInMap" => {
                let [map, first, second] = arguments(name, argument, path)?;
                let (map, first, second) = (text(map)?, text(first)?, text(second)?);
                let found =
                    self.document.get("Mappings").and_then(|maps| maps.get(&map)?.get(&first)?.get(&second));
                found
                    .cloned()
                    .with_context(|| format!("{path}: Mappings.{map}.{first}.{second} is not there"))?
            }
            "Fn::Equals" => {
                let [left, right] = arguments(name, argument, path)?;
                Value::Bool(text(left)? == text(right)?)
            }
            "Fn::Not" => {
                let [inner] = arguments(name, argument, path)?;
                Value::Bool(!self.truth(inner, path)?)
            }
            "Fn::And" | "Fn::Or" => {
                let items = argument.as_array().with_context(|| format!("{path}: {name} takes a list"))?;
                let truths = items.iter().map(|item| self.truth(item, path)).collect::<Result<Vec<_>>>()?;
                let and = name == "Fn::And";
                Value::Bool(if and { truths.into_iter().all(|t| t) } else { truths.into_iter().any(|t| t) })
            }
            "Condition" => Value::Bool(self.condition(plain(argument, path)?, path)?),
            "Fn::Base64" => {
                use base64::Engine as _;
                Value::String(base64::engine::general_purpose::STANDARD.encode(text(argument)?))
            }
            unknown => bail!("{path}: {unknown} has no value on this machine"),
        }))
    }

    fn condition(&self, name: &str, path: &str) -> Result<bool> {
        let path = format!("{path} → Conditions.{name}");
        let condition = self.document.get("Conditions").and_then(|conditions| conditions.get(name));
        self.truth(condition.with_context(|| format!("{path}: there is no such condition"))?, &path)
    }

    fn truth(&self, value: &Value, path: &str) -> Result<bool> {
        let resolved = self.resolve(value, path)?;
        resolved.as_ref().and_then(Value::as_bool).with_context(|| format!("{path}: not a condition"))
    }

    fn reference(&self, name: &str, path: &str) -> Result<Option<Value>> {
        if name == "AWS::NoValue" {
            return Ok(None);
        }
        if let Some(value) = pseudo_parameter(name) {
            return Ok(Some(value.into()));
        }
        if let Some(parameter) = self.document.get("Parameters").and_then(|parameters| parameters.get(name)) {
            let default = parameter.get("Default").with_context(|| {
                format!(
                    "{path}: the parameter `{name}` has no default; give it one, or give what needs it a local \
                     value in infra/local/src/local_values.rs"
                )
            })?;
            let list = parameter.get("Type").and_then(Value::as_str).is_some_and(is_list);
            return Ok(Some(match default {
                Value::String(text) if list => text.split(',').map(|item| Value::from(item.trim())).collect(),
                default => default.clone(),
            }));
        }
        if let Some(function) = self.functions.get(name) {
            return Ok(Some(function.as_str().into()));
        }
        let kind =
            self.kind(name).with_context(|| format!("{path}: `{name}` is nothing in this template"))?;
        match kind {
            "AWS::Serverless::HttpApi" | "AWS::Serverless::WebSocketApi" => Ok(Some(api_id(name).into())),
            QUEUE => Ok(Some(self.queue_url(name, &format!("!Ref {name}"), path)?.into())),
            _ => Err(outside(path, &format!("!Ref {name}"), kind)),
        }
    }

    fn attribute(&self, resource: &str, attribute: &str, path: &str) -> Result<String> {
        if let (Some(function), "Arn") = (self.functions.get(resource), attribute) {
            return Ok(function_arn(function));
        }
        let kind = self.kind(resource).with_context(|| format!("{path}: `{resource}` is no resource"))?;
        match (kind, attribute) {
            ("AWS::Serverless::HttpApi" | "AWS::Serverless::WebSocketApi", "ApiId") => Ok(api_id(resource)),
            (QUEUE, "Arn") => Ok(queue_arn(&self.queue_name(resource, path)?)),
            (QUEUE, "QueueName") => self.queue_name(resource, path),
            (QUEUE, "QueueUrl") => self.queue_url(resource, &format!("!GetAtt {resource}.QueueUrl"), path),
            _ => Err(outside(path, &format!("!GetAtt {resource}.{attribute}"), kind)),
        }
    }

    fn queue_url(&self, resource: &str, reference: &str, path: &str) -> Result<String> {
        let base = self.queues.ok_or_else(|| outside(path, reference, QUEUE))?;
        Ok(queue_url(base, &self.queue_name(resource, path)?))
    }

    fn kind(&self, resource: &str) -> Option<&'a str> {
        self.document.get("Resources")?.get(resource)?.get("Type")?.as_str()
    }

    fn substitute(&self, argument: &Value, path: &str) -> Result<String> {
        let (mut rest, own) = match argument {
            Value::String(text) => (text.as_str(), None),
            _ => {
                let [text, own] = arguments("Fn::Sub", argument, path)?;
                (plain(text, path)?, own.as_object())
            }
        };
        let mut whole = String::new();
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) =
                after.split_once('}').with_context(|| format!("{path}: `${{` without `}}`"))?;
            whole.push_str(before);
            rest = after;
            if let Some(literal) = name.strip_prefix('!') {
                whole.push_str(&format!("${{{literal}}}"));
                continue;
            }
            let name = name.trim();
            let value = match (own.and_then(|own| own.get(name)), name.split_once('.')) {
                (Some(value), _) => self.text(value, path)?,
                (None, Some((resource, attribute))) => Some(self.attribute(resource, attribute, path)?),
                (None, None) => match self.reference(name, path)? {
                    Some(value) => self.text(&value, path)?,
                    None => None,
                },
            };
            whole.push_str(&value.with_context(|| format!("{path}: `${{{name}}}` has no value"))?);
        }
        whole.push_str(rest);
        Ok(whole)
    }
}

fn outside(path: &str, reference: &str, kind: &str) -> anyhow::Error {
    anyhow!(
        "{path}: {reference} ({kind}) exists only in AWS; give what needs it a local value in \
         infra/local/src/local_values.rs"
    )
}

fn is_list(parameter_type: &str) -> bool {
    parameter_type == "CommaDelimitedList" || parameter_type.starts_with("List<")
}

fn intrinsic(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, argument) = object.iter().next().filter(|_| object.len() == 1)?;
    (name == "Ref" || name == "Condition" && argument.is_string() || name.starts_with("Fn::"))
        .then_some((name, argument))
}

fn arguments<'v, const N: usize>(name: &str, argument: &'v Value, path: &str) -> Result<[&'v Value; N]> {
    let arguments: Vec<&Value> = argument.as_array().into_iter().flatten().collect();
    arguments.try_into().map_err(|_| anyhow!("{path}: {name} takes {N} arguments"))
}

fn plain<'v>(value: &'v Value, path: &str) -> Result<&'v str> {
    value.as_str().with_context(|| format!("{path}: a plain text is wanted here"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::{ACCOUNT_ID, REGION};
    use crate::template::document;

    const TEMPLATE: &str = r"
Parameters:
  Stage: {Type: String, Default: dev}
  Subnets: {Type: CommaDelimitedList, Default: 'a, b'}
  Days: {Type: Number, Default: 7}
  Secret: {Type: String}
Mappings:
  Sizes: {dev: {memory: 256}}
Conditions:
  IsDev: !Equals [!Ref Stage, dev]
  IsProd: !Not [!Condition IsDev]
  Either: !Or [!Condition IsDev, !Condition IsProd]
  Both: !And [!Condition IsDev, !Condition IsProd]
  Round: !Not [!Condition Round]
Resources:
  Rooms: {Type: AWS::Serverless::Function}
  Socket: {Type: AWS::Serverless::WebSocketApi}
  Data: {Type: AWS::CloudFormation::Stack}
";

    fn resolve(yaml: &str) -> Result<Option<Value>> {
        let document = document::read(&format!("{TEMPLATE}\nValue: {yaml}")).expect("readable");
        let resolver = Resolver::new(&document, BTreeMap::from([("Rooms", "rooms".to_owned())]));
        resolver.resolve(&document["Value"], "Value")
    }

    fn check(yaml: &str, expected: Value) {
        assert_eq!(resolve(yaml).expect(yaml), Some(expected), "{yaml}");
    }

    fn refused(yaml: &str, part: &str) {
        let error = resolve(yaml).expect_err(yaml).to_string();
        assert!(error.contains(part), "{yaml}: {error}");
    }

    #[test]
    fn references_become_parameters_names_and_ids() {
        check("!Ref Stage", json!("dev"));
        check("!Ref Subnets", json!(["a", "b"]));
        check("!Ref Rooms", json!("rooms"));
        check("!GetAtt Rooms.Arn", json!(function_arn("rooms")));
        check("!Ref Socket", json!(api_id("Socket")));
        check("!Ref AWS::Region", json!(REGION));
    }

    #[test]
    fn text_is_put_together() {
        check(
            "!Sub 'https://${Socket}.execute-api.${AWS::Region}.amazonaws.com/${Stage}'",
            json!(format!("https://{}.execute-api.{REGION}.amazonaws.com/dev", api_id("Socket"))),
        );
        check("!Sub ['${a}-${Days}-${!b}', {a: !Ref Stage}]", json!("dev-7-${b}"));
        check(
            "!Sub '${Rooms.Arn}/x'",
            json!(format!("arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:rooms/x")),
        );
        check("!Join ['/', [a, !Ref Stage, 1]]", json!("a/dev/1"));
        check("!Select [1, !Split [',', 'a,b']]", json!("b"));
        check("!FindInMap [Sizes, !Ref Stage, memory]", json!(256));
    }

    #[test]
    fn conditions_choose() {
        check("!If [IsDev, 1, 2]", json!(1));
        check("!If [IsProd, 1, 2]", json!(2));
        check("!If [Either, 1, 2]", json!(1));
        check("!If [Both, 1, 2]", json!(2));
        // The branch that is not taken may lie outside this machine.
        check("!If [IsProd, !GetAtt Data.Outputs.Url, here]", json!("here"));
    }

    #[test]
    fn no_value_removes_what_it_stands_for() {
        check("{a: !If [IsProd, 1, !Ref AWS::NoValue], b: [!Ref AWS::NoValue, 2]}", json!({"b": [2]}));
        assert_eq!(resolve("!Ref AWS::NoValue").expect("resolved"), None);
    }

    #[test]
    fn what_has_no_local_value_is_named_with_its_place() {
        refused("{a: {b: !GetAtt Data.Outputs.Url}}", "Value.a.b: !GetAtt Data.Outputs.Url");
        refused("[x, !Ref Data]", "Value[1]: !Ref Data (AWS::CloudFormation::Stack)");
        refused("!Ref Secret", "the parameter `Secret` has no default");
        refused("!Ref Nothing", "`Nothing` is nothing in this template");
        refused("!ImportValue x", "Fn::ImportValue");
        refused("!Sub '${Stage'", "without");
        refused("!If [Nowhere, 1, 2]", "Conditions.Nowhere: there is no such condition");
    }

    #[test]
    fn a_condition_that_refers_to_itself_is_an_error_and_not_the_end() {
        refused("!If [Round, 1, 2]", "goes round in circles");
    }
}
