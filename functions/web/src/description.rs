//! `GET /openapi.json`.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};

/// Written by the test `openapi` from the routes of all functions, which it compares it with.
const DESCRIPTION: &str = include_str!("../openapi.json");

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "service", operation_id = "readDescription",
    responses((status = 200, description = "The description of the HTTP API, as OpenAPI 3.1.", content_type = "application/json")),
)]
pub(crate) async fn read() -> ([(HeaderName, &'static str); 2], &'static str) {
    // A deployment may change it; five minutes are short enough for that.
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "public, max-age=300")];
    (headers, DESCRIPTION)
}
