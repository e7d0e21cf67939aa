//! What one reads when everything is ready: where it is, and lines to copy.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;

use super::Endpoints;
use crate::template::Template;

/// Prints it to standard output, so that it is there also when the log goes elsewhere.
pub(super) fn print(endpoints: &Endpoints, template: &Template) -> Result<()> {
    let mut out = std::io::stdout();
    // Whoever has closed standard output does not want to read it.
    let _ = out.write_all(text(endpoints, template)?.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

fn text(endpoints: &Endpoints, template: &Template) -> Result<String> {
    let mut text = String::from("\nReady. This is for development and tests, not for production.\n\n");
    let http = template.http_api.as_ref().map(|_| endpoints.http.as_str());
    let management = endpoints.management.as_ref().map(|base| format!("{base}/@connections/{{id}}"));
    let places = [
        ("HTTP API", http),
        ("WebSocket API", endpoints.websocket.as_deref()),
        ("@connections", management.as_deref()),
        ("SQS", endpoints.sqs.as_deref()),
        ("control API", Some(endpoints.control.as_str())),
    ];
    for (name, place) in places {
        if let Some(place) = place {
            writeln!(text, "  {name:<14} {place}")?;
        }
    }
    let has = |key: &str| {
        template.http_api.as_ref().is_some_and(|api| api.routes.iter().any(|route| route.key == key))
    };
    if let Some(websocket) = &endpoints.websocket
        && has("POST /signup")
        && has("POST /login")
        && has("POST /rooms")
    {
        text.push_str(&walk(&endpoints.http, websocket));
    }
    text.push_str("\nCtrl-C stops everything; data is kept.\n\n");
    Ok(text)
}

/// The lines that lead to a first chat.
fn walk(http: &str, websocket: &str) -> String {
    let json = "-H 'content-type: application/json'";
    format!(
        r#"
Sign up (later: log in), and keep the token:

  curl -sS {http}/signup {json} \
    -d '{{"first_name":"Ada","last_name":"Lovelace","email":"ada@example.com","password":"violet-kettle-orbit-42"}}'
  TOKEN=$(curl -sS {http}/login {json} \
    -d '{{"email":"ada@example.com","password":"violet-kettle-orbit-42"}}' | sed 's/.*"token":"\([^"]*\)".*/\1/')

Make a room:

  curl -sS {http}/rooms -H "Authorization: Bearer $TOKEN" {json} \
    -d '{{"id":"general","title":"General","kind":"public"}}'

Chat, in as many terminals as you like, each with its TOKEN:

  ./dev wscat -c {websocket} -H "Authorization: Bearer $TOKEN"
  > {{"action":"join","room":"general"}}
  > {{"action":"send","room":"general","text":"Hello!"}}
"#
    )
}
