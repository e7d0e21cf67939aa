//! A WebSocket client that shows everything: handshakes refused, frames, closes.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Far longer than an answer can take, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open WebSocket. Dropped, it breaks off without a close frame.
#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    /// The headers of the 101.
    pub headers: HeaderMap,
}

/// A handshake that was refused.
#[derive(Debug)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the handshake was refused: {} {}", self.status, self.body)
    }
}

impl std::error::Error for Refused {}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// By a close frame with this code and reason.
    With(u16, String),
    /// By a close frame without a code.
    WithoutCode,
    /// It broke off.
    Broken,
}

impl WebSocket {
    /// Opens a WebSocket with these headers. A refusal can be had from the error by
    /// `downcast::<Refused>()`.
    pub async fn connect(url: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name: http::HeaderName = name.parse()?;
            request.headers_mut().append(name, value.parse()?);
        }
        let authority = request.uri().authority().context("the URL has a host")?.to_string();
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        match timeout(PATIENCE, client_async(request, tcp)).await.context("the handshake is not answered")? {
            Ok((stream, response)) => Ok(Self { stream, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(refused(*response).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The refusal of a handshake that must not succeed.
    pub async fn refused(url: &str, headers: &[(&str, &str)]) -> Result<Refused> {
        match Self::connect(url, headers).await {
            Ok(_) => bail!("the handshake was not refused"),
            Err(error) => error.downcast(),
        }
    }

    /// Sends a text message in one frame.
    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) -> Result<()> {
        self.send_message(Message::Text(text.into())).await
    }

    /// Sends JSON.
    pub async fn send_json(&mut self, value: &Value) -> Result<()> {
        self.send(value.to_string()).await
    }

    /// Sends a text message in several frames.
    pub async fn send_fragments(&mut self, fragments: &[&str]) -> Result<()> {
        for (n, fragment) in fragments.iter().enumerate() {
            let data = if n == 0 { Data::Text } else { Data::Continue };
            let last = n + 1 == fragments.len();
            let frame = Frame::message(fragment.as_bytes().to_vec(), OpCode::Data(data), last);
            self.send_message(Message::Frame(frame)).await?;
        }
        Ok(())
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        timeout(PATIENCE, self.stream.send(message)).await.context("nobody reads the message")??;
        Ok(())
    }

    /// The next message of any kind.
    pub async fn next_message(&mut self) -> Result<Message> {
        let next = timeout(PATIENCE, self.stream.next()).await.context("no message comes")?;
        Ok(next.context("the connection has ended")??)
    }

    /// The next text message. Pings and pongs are passed over; a close is an error.
    pub async fn next(&mut self) -> Result<String> {
        loop {
            match self.next_message().await? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("no text message but {other:?}"),
            }
        }
    }

    /// The next text message, which is JSON.
    pub async fn next_json(&mut self) -> Result<Value> {
        let text = self.next().await?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub async fn closed(&mut self) -> Result<Closed> {
        let ended = async {
            let mut closed = Closed::Broken;
            while let Some(Ok(message)) = self.stream.next().await {
                if let Message::Close(frame) = message {
                    closed = frame.map_or(Closed::WithoutCode, |frame| {
                        Closed::With(frame.code.into(), frame.reason.as_str().to_owned())
                    });
                }
            }
            closed
        };
        timeout(PATIENCE, ended).await.context("the connection does not end")
    }

    /// Closes with a code and a reason, and waits for the other side's close.
    pub async fn close(mut self, code: u16, reason: &str) -> Result<Closed> {
        self.close_with(Some(CloseFrame { code: code.into(), reason: reason.to_owned().into() })).await
    }

    /// Closes without a code, and waits for the other side's close.
    pub async fn close_without_code(mut self) -> Result<Closed> {
        self.close_with(None).await
    }

    async fn close_with(&mut self, frame: Option<CloseFrame>) -> Result<Closed> {
        self.send_message(Message::Close(frame)).await?;
        self.closed().await
    }
}

fn refused(response: Response) -> Refused {
    let (parts, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    Refused { status: parts.status, headers: parts.headers, body }
}
