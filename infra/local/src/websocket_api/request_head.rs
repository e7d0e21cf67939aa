//! The header names of a handshake as the client wrote them.
//!
//! HTTP does not care about case and hyper keeps names in lower case, but API Gateway hands a handshake's
//! names to the functions as they came. So the first bytes of every TCP connection, its first request's
//! head, are read along with hyper.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::HeaderName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A longer head is refused by hyper anyway, or is none.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Spellings of header names, by the name in lower case.
#[derive(Debug, Default)]
pub(super) struct Spellings(HashMap<String, String>);

impl Spellings {
    fn of_head(head: &[u8]) -> Self {
        let lines = head.split(|&byte| byte == b'\n').skip(1);
        let names = lines.filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            std::str::from_utf8(&line[..colon]).ok()
        });
        Self(names.map(|name| (name.to_ascii_lowercase(), name.to_owned())).collect())
    }

    /// The name as the client wrote it; for one that was not in the recorded head, as browsers write it.
    pub(super) fn of(&self, name: &HeaderName) -> String {
        self.0.get(name.as_str()).cloned().unwrap_or_else(|| title_case(name.as_str()))
    }
}

fn title_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

/// Passes everything through and keeps the spellings of the first head that comes in.
#[derive(Debug)]
pub(super) struct HeadRecorder<S> {
    stream: S,
    head: Option<Vec<u8>>,
    spellings: Arc<OnceLock<Spellings>>,
}

impl<S> HeadRecorder<S> {
    /// Records from the stream's next byte on. The spellings are there once hyper has the first request.
    pub(super) fn new(stream: S) -> (Self, Arc<OnceLock<Spellings>>) {
        let spellings = Arc::default();
        (Self { stream, head: Some(Vec::new()), spellings: Arc::clone(&spellings) }, spellings)
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn record(&mut self, bytes: &[u8]) {
        let Some(head) = &mut self.head else { return };
        let seen = head.len().saturating_sub(3);
        head.extend_from_slice(bytes);
        let end = head[seen..].windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            // Nobody else sets it, so it cannot be set already.
            let _ = self.spellings.set(Spellings::of_head(&head[..seen + end]));
        }
        if end.is_some() || head.len() > MAX_HEAD_BYTES {
            self.head = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadRecorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.record(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadRecorder<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    const HEAD: &[u8] =
        b"GET /default HTTP/1.1\r\nhost: here\r\nAuthorization: Bearer a:b\r\nx-TEST: 1\r\n\r\n";

    fn spellings_when_read_in_pieces_of(size: usize) -> Spellings {
        let (mut recorder, spellings) = HeadRecorder::new(());
        for piece in [HEAD, b"Later: not a header\r\n\r\n"].concat().chunks(size) {
            recorder.record(piece);
        }
        assert!(recorder.head.is_none(), "the head is dropped once it was read");
        drop(recorder);
        Arc::into_inner(spellings).expect("the only one").into_inner().expect("recorded")
    }

    #[test]
    fn names_keep_their_spelling_however_the_head_arrives() {
        for size in [1, 2, 3, 5, 1_000] {
            let spellings = spellings_when_read_in_pieces_of(size);
            assert_eq!(spellings.of(&header::HOST), "host");
            assert_eq!(spellings.of(&header::AUTHORIZATION), "Authorization");
            assert_eq!(spellings.of(&HeaderName::from_static("x-test")), "x-TEST");
            assert_eq!(spellings.of(&HeaderName::from_static("later")), "Later", "what follows is no header");
        }
    }

    #[test]
    fn a_name_that_was_not_recorded_is_written_as_browsers_do() {
        let none = Spellings::default();
        assert_eq!(none.of(&header::USER_AGENT), "User-Agent");
        assert_eq!(none.of(&HeaderName::from_static("x-a--b")), "X-A--B");
    }

    #[test]
    fn an_endless_head_is_not_kept() {
        let (mut recorder, _) = HeadRecorder::new(());
        for _ in 0..70 {
            recorder.record(&[b'a'; 1024]);
        }
        assert!(recorder.head.is_none());
    }
}
