//! The REQUEST authorizer of `$connect`: what it must be given, and what its answer means.

use std::time::Instant;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::events::Request;
use crate::template::{Authorizer, IdentitySource};

/// The largest answer that an authorizer may give.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// What API Gateway asks a policy for.
const ACTION: &str = "execute-api:Invoke";

/// Why a handshake did not pass its authorizer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401: an identity source is missing, or the function threw exactly `Unauthorized`.
    Unauthorized,
    /// 403: the policy denies, or allows something else.
    Denied,
    /// 500: anything else that went wrong, told for the log.
    Failed(&'static str),
}

/// Whether a handshake brings every identity source, none of them empty. Without, the function is not asked.
pub(super) fn has_identity(authorizer: &Authorizer, request: &Request) -> bool {
    authorizer.identity_sources.iter().all(|source| {
        let value = match source {
            IdentitySource::Header(name) => request.header(name),
            IdentitySource::QueryString(name) => request.parameter(name),
        };
        value.is_some_and(|value| !value.is_empty())
    })
}

/// What a function that failed means: it refuses by the error `Unauthorized`.
pub(super) fn refusal_of_error(payload: &[u8]) -> Refusal {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Thrown {
        error_message: String,
    }
    match serde_json::from_slice::<Thrown>(payload) {
        Ok(thrown) if thrown.error_message == "Unauthorized" => Refusal::Unauthorized,
        _ => Refusal::Failed("the authorizer failed"),
    }
}

/// Reads the answer of an authorizer that was asked at `asked_at`: the `authorizer` block of all events of
/// the connection.
pub(super) fn identity(
    payload: &[u8],
    method_arn: &str,
    asked_at: Instant,
) -> Result<Box<RawValue>, Refusal> {
    if payload.len() > MAX_ANSWER_BYTES {
        return Err(Refusal::Failed("the authorizer's answer is larger than 8 KB"));
    }
    let answer: Answer = serde_json::from_slice(payload)
        .map_err(|_| Refusal::Failed("the authorizer's answer is no policy"))?;
    if !answer.policy_document.allows(method_arn) {
        return Err(Refusal::Denied);
    }
    let mut block = Map::new();
    for (name, value) in answer.context.unwrap_or_default() {
        block.insert(name, Value::String(text(value)?));
    }
    block.insert("principalId".to_owned(), answer.principal_id.into());
    let latency_ms = u64::try_from(asked_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    block.insert("integrationLatency".to_owned(), latency_ms.into());
    to_raw_value(&block).map_err(|_| Refusal::Failed("the authorizer's context cannot be written"))
}

/// A context value as it stands in events, where every one is a string.
fn text(value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(Refusal::Failed("the authorizer's context holds more than strings, numbers and booleans"))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    principal_id: String,
    policy_document: Policy,
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    statement: OneOrMany<Statement>,
}

/// Conditions and the `Not…` forms are no keys of it: a policy that has them cannot be judged here, and is
/// an error rather than taken for what it is not.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(default, rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Policy {
    /// Some statement allows it and none denies it.
    fn allows(&self, resource: &str) -> bool {
        let applies = |effect: Effect| {
            self.statement
                .as_slice()
                .iter()
                .any(|statement| statement.effect == effect && statement.concerns(resource))
        };
        applies(Effect::Allow) && !applies(Effect::Deny)
    }
}

impl Statement {
    fn concerns(&self, resource: &str) -> bool {
        let action = ACTION.to_ascii_lowercase();
        self.action.as_slice().iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &action))
            && self.resource.as_slice().iter().any(|pattern| matches(pattern, resource))
    }
}

/// IAM's wildcards: `*` is any text, `?` any one character.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on if the last star has to take one character more.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                p = after_star;
                t = taken + 1;
                retry = Some((p, t));
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:000000000000:api0000000/default/$connect";

    #[track_caller]
    fn check(statement: &Value, expected: Result<(), Refusal>) {
        let answer =
            json!({"principalId": "u", "policyDocument": {"Version": "2012-10-17", "Statement": statement}});
        let outcome = identity(answer.to_string().as_bytes(), ARN, Instant::now());
        assert_eq!(outcome.map(|_| ()), expected, "{statement}");
    }

    fn statement(effect: &str, action: &str, resource: &str) -> Value {
        json!({"Effect": effect, "Action": action, "Resource": resource})
    }

    #[test]
    fn a_policy_allows_by_the_exact_arn_or_by_wildcards() {
        for resource in [
            ARN,
            "*",
            "arn:aws:execute-api:us-east-1:000000000000:api0000000/default/*",
            "arn:aws:execute-api:*:*:api0000000/*/$connect",
            "arn:aws:execute-api:us-east-?:*:*",
        ] {
            check(&statement("Allow", "execute-api:Invoke", resource), Ok(()));
        }
        for action in ["execute-api:*", "*", "EXECUTE-API:invoke", "execute-api:Inv?ke"] {
            check(&statement("Allow", action, ARN), Ok(()));
        }
    }

    #[test]
    fn a_policy_for_something_else_does_not_allow() {
        for resource in [
            "arn:aws:execute-api:us-east-1:000000000000:api0000000/default/$default",
            "arn:aws:s3:::x",
            "",
            "?",
        ] {
            check(&statement("Allow", "execute-api:Invoke", resource), Err(Refusal::Denied));
        }
        check(&statement("Allow", "execute-api:ManageConnections", ARN), Err(Refusal::Denied));
        check(&json!([]), Err(Refusal::Denied));
    }

    #[test]
    fn a_deny_wins_whatever_else_allows() {
        let (allow, deny) = (statement("Allow", "*", "*"), statement("Deny", "execute-api:Invoke", ARN));
        check(&json!([allow, deny]), Err(Refusal::Denied));
        check(&json!([deny, allow]), Err(Refusal::Denied));
        check(&deny, Err(Refusal::Denied));
        check(&json!([allow, statement("Deny", "*", "arn:other")]), Ok(()));
    }

    #[test]
    fn actions_and_resources_may_be_lists() {
        check(
            &json!({"Effect": "Allow", "Action": ["a:b", "execute-api:Invoke"], "Resource": ["x", ARN]}),
            Ok(()),
        );
    }

    #[test]
    fn a_policy_that_cannot_be_judged_is_an_error() {
        for statement in [
            json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {}}),
            json!({"Effect": "Allow", "NotAction": "x", "Resource": "*"}),
            json!({"Effect": "allow", "Action": "*", "Resource": "*"}),
            json!({"Action": "*", "Resource": "*"}),
            json!("Allow"),
        ] {
            check(&statement, Err(Refusal::Failed("the authorizer's answer is no policy")));
        }
    }

    #[test]
    fn context_values_become_strings() {
        let answer = json!({
            "principalId": "u",
            "policyDocument": {"Statement": [statement("Allow", "*", "*")]},
            "context": {"name": "Ann", "n": 1, "f": 1.5, "b": true},
        });
        let block = identity(answer.to_string().as_bytes(), ARN, Instant::now()).expect("allowed");
        let mut block: Value = serde_json::from_str(block.get()).expect("JSON");
        assert!(block["integrationLatency"].take().is_u64());
        assert_eq!(
            block,
            json!({"principalId": "u", "integrationLatency": null, "name": "Ann", "n": "1", "f": "1.5", "b": "true"})
        );
    }

    #[test]
    fn a_context_of_objects_or_a_large_answer_is_an_error() {
        let answer = |context: Value| {
            json!({"principalId": "u", "policyDocument": {"Statement": [statement("Allow", "*", "*")]}, "context": context})
                .to_string()
        };
        for bad in
            [json!({"a": {}}), json!({"a": []}), json!({"a": null}), json!({"a": "x".repeat(8 * 1024)})]
        {
            let outcome = identity(answer(bad).as_bytes(), ARN, Instant::now());
            assert!(matches!(outcome, Err(Refusal::Failed(_))), "{outcome:?}");
        }
    }

    #[test]
    fn only_the_error_unauthorized_is_a_401() {
        let thrown = |message: &str| json!({"errorType": "Error", "errorMessage": message}).to_string();
        assert_eq!(refusal_of_error(thrown("Unauthorized").as_bytes()), Refusal::Unauthorized);
        for other in ["unauthorized", "Unauthorized!", "boom"] {
            assert!(matches!(refusal_of_error(thrown(other).as_bytes()), Refusal::Failed(_)), "{other}");
        }
    }

    #[test]
    fn wildcards_match_like_iam() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*b*", "aabaa", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**a", "ba", true),
            ("a*b*c", "axbybc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
