//! The events that functions get from the WebSocket API.
//!
//! Every key that a captured event has is here and no other: a key that AWS leaves out is absent, not null.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::request_head::Spellings;
use super::routing::{CONNECT, DISCONNECT};
use crate::ids::{self, Id};

/// What an API is called in events and ARNs.
#[derive(Debug)]
pub(super) struct ApiNames {
    pub(super) api_id: String,
    pub(super) stage: String,
}

/// What all events of one connection say of it.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) connection_id: Id,
    pub(super) connected_at: OffsetDateTime,
    pub(super) source_ip: IpAddr,
    pub(super) user_agent: Option<String>,
    /// `Host` of the handshake.
    pub(super) domain_name: String,
}

/// A handshake's headers and query as functions see them: names with all their values, in order.
#[derive(Debug)]
pub(super) struct Request {
    headers: Vec<(String, Vec<String>)>,
    query: Vec<(String, Vec<String>)>,
}

impl Request {
    /// The client's headers but for those of its hop, with those that the gateway adds.
    pub(super) fn new(
        headers: &HeaderMap,
        query: Option<&str>,
        spellings: &Spellings,
        caller: &Caller,
        port: u16,
    ) -> Self {
        let values = |name: &header::HeaderName| {
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let hop = |name: &&header::HeaderName| {
            **name != header::CONNECTION
                && **name != header::UPGRADE
                && !["x-amzn-trace-id", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"]
                    .contains(&name.as_str())
        };
        let mut all: Vec<_> =
            headers.keys().filter(hop).map(|name| (spellings.of(name), values(name).collect())).collect();
        let forwarded = values(&header::HeaderName::from_static("x-forwarded-for"));
        let forwarded: Vec<_> = forwarded.chain([caller.source_ip.to_string()]).collect();
        all.push(("X-Amzn-Trace-Id".to_owned(), vec![ids::trace_id(caller.connected_at)]));
        all.push(("X-Forwarded-For".to_owned(), vec![forwarded.join(", ")]));
        all.push(("X-Forwarded-Port".to_owned(), vec![port.to_string()]));
        all.push(("X-Forwarded-Proto".to_owned(), vec!["http".to_owned()]));

        let mut parameters: Vec<(String, Vec<String>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match parameters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value.into_owned()),
                None => parameters.push((name.into_owned(), vec![value.into_owned()])),
            }
        }
        Self { headers: all, query: parameters }
    }

    /// A header's value, whatever the case of its name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        last(self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?)
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        last(self.query.iter().find(|(known, _)| known == name)?)
    }
}

fn last((_, values): &(String, Vec<String>)) -> Option<&str> {
    values.last().map(String::as_str)
}

/// `headers`, `queryStringParameters`: the last value of each name.
struct Single<'a>(&'a [(String, Vec<String>)]);

/// `multiValueHeaders`, `multiValueQueryStringParameters`: all values of each name.
struct Multi<'a>(&'a [(String, Vec<String>)]);

impl Serialize for Single<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (&entry.0, last(entry))))
    }
}

impl Serialize for Multi<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, values) in self.0 {
            map.serialize_entry(name, values)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    event_type: &'static str,
    extended_request_id: Id,
    request_time: String,
    message_direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    stage: &'a str,
    connected_at: i64,
    request_time_epoch: i64,
    identity: Identity<'a>,
    request_id: Id,
    domain_name: &'a str,
    connection_id: Id,
    api_id: &'a str,
}

/// Who is at the other end, in events and in the answer to `GET @connections`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    source_ip: IpAddr,
}

impl Caller {
    pub(super) fn identity(&self) -> Identity<'_> {
        Identity { user_agent: self.user_agent.as_deref(), source_ip: self.source_ip }
    }
}

impl<'a> Context<'a> {
    fn new(
        event_type: &'static str,
        route_key: &'a str,
        api: &'a ApiNames,
        caller: &'a Caller,
        authorizer: Option<&'a RawValue>,
        request_id: Id,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            route_key,
            authorizer,
            message_id: None,
            disconnect_status_code: None,
            event_type,
            extended_request_id: request_id,
            request_time: ids::clf_time(now),
            message_direction: "IN",
            disconnect_reason: None,
            stage: &api.stage,
            connected_at: ids::epoch_ms(caller.connected_at),
            request_time_epoch: ids::epoch_ms(now),
            identity: caller.identity(),
            request_id,
            domain_name: &caller.domain_name,
            connection_id: caller.connection_id,
            api_id: &api.api_id,
        }
    }
}

/// The ARN that an authorizer's policy has to allow.
pub(super) fn method_arn(api: &ApiNames) -> String {
    let (region, account) = (ids::REGION, ids::ACCOUNT_ID);
    format!("arn:aws:execute-api:{region}:{account}:{}/{}/{CONNECT}", api.api_id, api.stage)
}

/// The REQUEST authorizer's event.
pub(super) fn authorize(api: &ApiNames, caller: &Caller, request: &Request, request_id: Id) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        r#type: &'static str,
        method_arn: String,
        headers: Single<'a>,
        multi_value_headers: Multi<'a>,
        // Unlike in the events of functions, these are there even if they are empty.
        query_string_parameters: Single<'a>,
        multi_value_query_string_parameters: Multi<'a>,
        stage_variables: Single<'a>,
        request_context: Context<'a>,
    }
    json(&Event {
        r#type: "REQUEST",
        method_arn: method_arn(api),
        headers: Single(&request.headers),
        multi_value_headers: Multi(&request.headers),
        query_string_parameters: Single(&request.query),
        multi_value_query_string_parameters: Multi(&request.query),
        stage_variables: Single(&[]),
        request_context: Context::new("CONNECT", CONNECT, api, caller, None, request_id, caller.connected_at),
    })
}

/// The event of `$connect`.
pub(super) fn connect(
    api: &ApiNames,
    caller: &Caller,
    authorizer: Option<&RawValue>,
    request: &Request,
    request_id: Id,
) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        headers: Single<'a>,
        multi_value_headers: Multi<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        query_string_parameters: Option<Single<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        multi_value_query_string_parameters: Option<Multi<'a>>,
        request_context: Context<'a>,
        is_base64_encoded: bool,
    }
    let query = (!request.query.is_empty()).then_some(request.query.as_slice());
    json(&Event {
        headers: Single(&request.headers),
        multi_value_headers: Multi(&request.headers),
        query_string_parameters: query.map(Single),
        multi_value_query_string_parameters: query.map(Multi),
        request_context: Context::new(
            "CONNECT",
            CONNECT,
            api,
            caller,
            authorizer,
            request_id,
            caller.connected_at,
        ),
        is_base64_encoded: false,
    })
}

/// The event of a frame.
pub(super) fn message(
    api: &ApiNames,
    caller: &Caller,
    authorizer: Option<&RawValue>,
    route_key: &str,
    request_id: Id,
    body: &str,
) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        request_context: Context<'a>,
        body: &'a str,
        is_base64_encoded: bool,
    }
    let now = OffsetDateTime::now_utc();
    let context = Context::new("MESSAGE", route_key, api, caller, authorizer, request_id, now);
    json(&Event {
        request_context: Context { message_id: Some(Id::new()), ..context },
        body,
        is_base64_encoded: false,
    })
}

/// The event of `$disconnect`.
pub(super) fn disconnect(
    api: &ApiNames,
    caller: &Caller,
    authorizer: Option<&RawValue>,
    request_id: Id,
    (code, reason): (u16, &str),
) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        headers: Single<'a>,
        multi_value_headers: Multi<'a>,
        request_context: Context<'a>,
        is_base64_encoded: bool,
    }
    let now = OffsetDateTime::now_utc();
    let context = Context::new("DISCONNECT", DISCONNECT, api, caller, authorizer, request_id, now);
    let headers = [
        ("Host", caller.domain_name.as_str()),
        ("x-api-key", ""),
        ("X-Forwarded-For", ""),
        ("x-restapi", ""),
    ]
    .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
    json(&Event {
        headers: Single(&headers),
        multi_value_headers: Multi(&headers),
        request_context: Context {
            disconnect_status_code: Some(code),
            disconnect_reason: Some(reason),
            ..context
        },
        is_base64_encoded: false,
    })
}

/// A frame or body of the gateway's own: `{"message", "connectionId", "requestId"}`.
pub(super) fn gateway_error(message: &str, connection_id: Id, request_id: Id) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Error<'a> {
        message: &'a str,
        connection_id: Id,
        request_id: Id,
    }
    serde_json::to_string(&Error { message, connection_id, request_id }).expect("strings are JSON")
}

fn json(event: &impl Serialize) -> Bytes {
    serde_json::to_vec(event).expect("events are made of strings and numbers").into()
}
