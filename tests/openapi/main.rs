//! The description that `web` serves is the one of the routes that the functions have.
//!
//! Functions depend on `shared` and `lambda` only, so none of them can make the description of all; it is kept in a file,
//! and this test compares the two. `UPDATE_OPENAPI=1 cargo test -p tests --test openapi` writes the file anew.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/web/openapi.json");

fn description() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The token that sign-up and log-in answer: `Authorization: Bearer <token>`."))
        .build();
    let info = InfoBuilder::new()
        .title("Banter")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Accounts, rooms, members and history. The conversation itself goes through a WebSocket.",
        ))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()));
    let mut all = OpenApiBuilder::new()
        .info(info.build())
        .components(Some(
            ComponentsBuilder::new().security_scheme("bearer", SecurityScheme::Http(bearer)).build(),
        ))
        .build();
    for one in [
        signup::api().into_openapi(),
        login::api().into_openapi(),
        rooms::api().into_openapi(),
        web::api().into_openapi(),
    ] {
        all.merge(one);
    }
    all
}

#[test]
fn the_file_that_web_serves_describes_the_routes_of_all_functions() {
    let described = description().to_pretty_json().expect("a description serialises") + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(FILE, &described).expect("the file can be written");
    }
    let served = fs::read_to_string(FILE).expect("the file is there");
    assert!(
        described == served,
        "functions/web/openapi.json is not what the routes are; write it anew with UPDATE_OPENAPI=1"
    );
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    let description = serde_json::to_value(description()).expect("a description serialises");
    let mut references = BTreeSet::new();
    collect_references(&description, &mut references);
    assert!(references.contains("#/components/schemas/FailureBody"), "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("is within the document");
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references<'a>(value: &'a Value, references: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| collect_references(member, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}

/// The operations with their method and path.
fn operations(description: &Value) -> Vec<(String, &Value)> {
    let paths = description["paths"].as_object().expect("has paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().expect("is an item");
        let methods =
            item.iter().filter(|(key, _)| ["get", "put", "post", "patch", "delete"].contains(&key.as_str()));
        methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    });
    operations.collect()
}

#[test]
fn every_call_that_needs_a_session_says_so() {
    let description = serde_json::to_value(description()).expect("a description serialises");
    let open: BTreeSet<_> = operations(&description)
        .into_iter()
        .filter(|(_, operation)| operation.get("security").is_none())
        .map(|(call, operation)| {
            let refuses = operation["responses"].get("401").is_some();
            assert!(
                !refuses || call == "POST /login",
                "{call} refuses who has no session, but does not ask for one"
            );
            call
        })
        .collect();
    let expected = ["GET /health", "GET /openapi.json", "POST /login", "POST /signup"];
    assert_eq!(open.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn every_call_tells_how_it_fails() {
    let description = serde_json::to_value(description()).expect("a description serialises");
    for (call, operation) in operations(&description) {
        let responses = operation["responses"].as_object().expect("has responses");
        let tells = |status: &str| responses.contains_key(status);
        if !["GET /health", "GET /openapi.json"].contains(&call.as_str()) {
            assert!(tells("500") && tells("503"), "{call} does not tell of outages");
        }
        if operation.get("requestBody").is_some() {
            assert!(tells("400") && tells("413") && tells("422"), "{call} does not tell of bad bodies");
        }
        if call.contains("{room}") {
            assert!(tells("404"), "{call} does not tell of rooms that are not there");
        }
    }
}
