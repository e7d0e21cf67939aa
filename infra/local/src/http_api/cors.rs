//! CORS, which the gateway answers for when the API has a configuration for it.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::template::Cors;

/// The answer to a browser that asks before it calls, which no function sees.
pub(super) fn preflight(cors: &Cors, parts: &Parts) -> Option<Response<Full<Bytes>>> {
    let asked = [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD];
    if parts.method != Method::OPTIONS || !asked.iter().all(|name| parts.headers.contains_key(name)) {
        return None;
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if allowed_origin(cors, &parts.headers).is_some() {
        let headers = response.headers_mut();
        list(headers, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
        list(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
        if let Some(seconds) = cors.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, seconds.into());
        }
    }
    Some(response)
}

/// Adds what every answer to a page of an allowed origin says.
pub(super) fn apply(cors: &Cors, request: &HeaderMap, answer: &mut HeaderMap) {
    let Some(origin) = allowed_origin(cors, request) else { return };
    if origin != "*" {
        answer.append(header::VARY, HeaderValue::from_static("origin"));
    }
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    list(answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
    if cors.allow_credentials {
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn allowed_origin(cors: &Cors, request: &HeaderMap) -> Option<HeaderValue> {
    let origin = request.get(header::ORIGIN)?;
    let allowed = cors.allow_origins.iter();
    let mut allowed = allowed.filter_map(|allowed| match allowed.as_str() {
        "*" => Some(HeaderValue::from_static("*")),
        "https://*" | "http://*" => {
            let scheme = allowed.trim_end_matches('*').as_bytes();
            origin.as_bytes().starts_with(scheme).then(|| origin.clone())
        }
        exact => (origin.as_bytes() == exact.as_bytes()).then(|| origin.clone()),
    });
    allowed.next()
}

fn list(headers: &mut HeaderMap, name: HeaderName, items: &[String]) {
    if let Ok(value) = HeaderValue::try_from(items.join(","))
        && !items.is_empty()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn cors() -> Cors {
        Cors {
            allow_origins: vec!["https://chat.example".into()],
            allow_methods: vec!["GET".into(), "POST".into()],
            allow_headers: vec!["authorization".into()],
            expose_headers: vec!["retry-after".into()],
            max_age: Some(600),
            allow_credentials: false,
        }
    }

    fn ask(method: Method, headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri("/rooms");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered_with_what_is_allowed() {
        let asked = [("origin", "https://chat.example"), ("access-control-request-method", "POST")];
        let parts = ask(Method::OPTIONS, &asked);
        let mut answer = preflight(&cors(), &parts).expect("a preflight");
        apply(&cors(), &parts.headers, answer.headers_mut());
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://chat.example");
        assert_eq!(answer.headers()["access-control-allow-methods"], "GET,POST");
        assert_eq!(answer.headers()["access-control-allow-headers"], "authorization");
        assert_eq!(answer.headers()["access-control-max-age"], "600");
    }

    #[test]
    fn a_foreign_origin_is_told_nothing() {
        let asked = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
        let parts = ask(Method::OPTIONS, &asked);
        let mut answer = preflight(&cors(), &parts).expect("a preflight");
        apply(&cors(), &parts.headers, answer.headers_mut());
        assert_eq!(names(answer.headers()), Vec::<&str>::new());
    }

    #[test]
    fn an_options_request_that_is_no_preflight_goes_on_to_the_routes() {
        assert!(preflight(&cors(), &ask(Method::OPTIONS, &[("origin", "https://chat.example")])).is_none());
        let asked = [("origin", "https://chat.example"), ("access-control-request-method", "POST")];
        assert!(preflight(&cors(), &ask(Method::POST, &asked)).is_none());
    }

    #[test]
    fn any_origin_is_allowed_by_a_star() {
        let any = Cors { allow_origins: vec!["*".into()], ..Cors::default() };
        let mut answer = HeaderMap::new();
        apply(&any, &ask(Method::GET, &[("origin", "https://any.example")]).headers, &mut answer);
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert_eq!(names(&answer), ["access-control-allow-origin"]);
    }

    #[test]
    fn a_request_without_an_origin_gets_no_cors_headers() {
        let mut answer = HeaderMap::new();
        apply(&cors(), &ask(Method::GET, &[]).headers, &mut answer);
        assert!(answer.is_empty());
    }
}
