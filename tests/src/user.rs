//! A person with an account, at the HTTP API and at the WebSocket API.

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::{Answer, Api, Call},
    chat::Chat,
    websocket::Refused,
};

/// Somebody who has signed up.
#[derive(Clone)]
pub struct User {
    api: Api,
    websocket_url: String,
    /// The account's id.
    pub id: String,
    /// First and last name.
    pub name: String,
    /// The address to log in with.
    pub email: String,
    /// The password.
    pub password: String,
    /// The session of the sign-up, or of the last log-in through this value.
    pub token: String,
}

impl User {
    /// Signs up somebody with this first name and an address and a password that nobody else has.
    pub async fn sign_up(api: &Api, websocket_url: &str, first_name: &str) -> Self {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let password = format!("correct {} staple", Uuid::new_v4().simple());
        for secret in [&email, &password] {
            api.ledger().secret(secret);
        }
        let body =
            json!({"first_name": first_name, "last_name": "Tester", "email": email, "password": password});
        let answer = api.post("/signup", body).await.expect(201);
        let user = Self {
            api: api.clone(),
            websocket_url: websocket_url.to_owned(),
            id: text(&answer["user"]["id"]),
            name: format!("{first_name} Tester"),
            email,
            password,
            token: text(&answer["token"]),
        };
        api.ledger().secret(&user.token);
        user
    }

    /// The same person with another session.
    pub async fn log_in(&self) -> Self {
        let body = json!({"email": self.email, "password": self.password});
        let answer = self.api.post("/login", body).await.expect(200);
        let token = text(&answer["token"]);
        self.api.ledger().secret(&token);
        Self { token, ..self.clone() }
    }

    /// The same person with another token, which may be none.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    pub(crate) fn with_id(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    /// The same person at another address, with the same session.
    pub fn at(&self, http_url: &str, websocket_url: &str) -> Self {
        let api = Api::new(http_url, self.api.ledger().clone());
        Self { api, websocket_url: websocket_url.to_owned(), ..self.clone() }
    }

    /// The API that the account is at.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// A call with this session.
    pub fn call(&self, method: Method, path: &str) -> Call {
        self.api.call(method, path).token(&self.token)
    }

    /// GET
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    /// POST
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    /// PUT
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path).json(&body).send().await
    }

    /// PATCH
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path).json(&body).send().await
    }

    /// DELETE
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// Makes a public room and returns its id.
    pub async fn make_public_room(&self) -> String {
        let id = format!("room-{}", Uuid::new_v4().simple());
        let body = json!({"id": id, "title": "A room for all", "kind": "public"});
        text(&self.post("/rooms", body).await.expect(201)["id"])
    }

    /// Makes a private room and returns its id.
    pub async fn make_private_room(&self) -> String {
        let body = json!({"title": "A room for some", "kind": "private"});
        text(&self.post("/rooms", body).await.expect(201)["id"])
    }

    /// What the archive queue holds of an event that this person made.
    pub fn record(
        &self,
        room: &str,
        (position, previous): (&str, Option<&str>),
        event: Uuid,
        content: &Value,
    ) -> Value {
        let mut body = json!({"event": event, "from": {"id": self.id, "name": self.name}});
        let members = content.as_object().expect("a content has members").clone();
        body.as_object_mut().expect("it is an object").extend(members);
        json!({"room": room, "position": position, "previous": previous, "event": body})
    }

    /// The whole history of a room, read from its beginning in pages of so many.
    pub async fn read_forwards(&self, room: &str, limit: usize) -> Vec<Value> {
        let (mut messages, mut after) = (Vec::new(), "0-0".to_owned());
        loop {
            let path = format!("/rooms/{room}/messages?after={after}&limit={limit}");
            let mut page = self.get(&path).await.expect(200);
            messages.append(page["messages"].as_array_mut().expect("a list"));
            match page.get("next") {
                Some(next) => after = text(next),
                None => return messages,
            }
        }
    }

    /// The whole history of a room, read back from its end in pages of so many; oldest first.
    pub async fn read_backwards(&self, room: &str, limit: usize) -> Vec<Value> {
        let (mut messages, mut before) = (Vec::new(), String::new());
        loop {
            let path = format!("/rooms/{room}/messages?limit={limit}{before}");
            let mut page = self.get(&path).await.expect(200);
            let mut older = std::mem::take(page["messages"].as_array_mut().expect("a list"));
            older.append(&mut messages);
            messages = older;
            match page.get("previous") {
                Some(previous) => before = format!("&before={}", text(previous)),
                None => return messages,
            }
        }
    }

    /// Makes somebody a member of a room, as one who may.
    pub async fn invite(&self, room: &str, whom: &Self, role: &str) {
        self.put(&format!("/rooms/{room}/members/{}", whom.id), json!({"role": role})).await.expect(200);
    }

    /// A ticket for one WebSocket.
    pub async fn ticket(&self) -> String {
        let ticket = text(&self.post("/tickets", json!({})).await.expect(201)["ticket"]);
        self.api.ledger().secret(&ticket);
        ticket
    }

    /// Opens a WebSocket with a ticket, as a browser does.
    pub async fn connect(&self) -> Chat {
        let ticket = self.ticket().await;
        self.connect_with_ticket(&ticket).await.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Opens a WebSocket with this ticket.
    pub async fn connect_with_ticket(&self, ticket: &str) -> Result<Chat, Refused> {
        let url = format!("{}?ticket={ticket}", self.websocket_url);
        Chat::open(&url, None, self.api.ledger()).await
    }

    /// Opens a WebSocket with the session's token in a header, as wscat does.
    pub async fn connect_with_token(&self) -> Result<Chat, Refused> {
        Chat::open(&self.websocket_url, Some(&self.token), self.api.ledger()).await
    }

    /// Opens a WebSocket and joins a room.
    pub async fn join(&self, room: &str) -> Chat {
        let mut chat = self.connect().await;
        chat.join(room).await;
        chat
    }
}

/// A string of an answer.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}")).to_owned()
}
