//! Connections that end when nothing moves on them, and of which there are not too many.

use std::future::Ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::rate::{self, Rate};

/// Sets a time limit on each connection, and one on how many there are.
#[derive(Debug, Clone)]
pub(super) struct IdleAcceptor {
    idle: Duration,
    room: Arc<Semaphore>,
    /// Of lines about connections that were one too many.
    lines: Arc<Rate<()>>,
    began: Instant,
}

impl IdleAcceptor {
    pub(super) fn new(idle: Duration, most: usize) -> Self {
        let (room, lines) = (Arc::new(Semaphore::new(most)), Arc::new(rate::of_lines()));
        Self { idle, room, lines, began: Instant::now() }
    }
}

impl<S> Accept<TcpStream, S> for IdleAcceptor {
    type Stream = IdleStream<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(turn) = self.lines.take((), now) {
                let unsaid = turn.held_back;
                tracing::warn!(unsaid, "too many connections at the same time: one was closed");
            }
            return std::future::ready(Err(io::ErrorKind::ConnectionRefused.into()));
        };
        let ready = stream.set_nodelay(true);
        let stream = IdleStream { _place: Some(place), ..IdleStream::new(stream, self.idle) };
        std::future::ready(ready.map(|()| (stream, service)))
    }
}

/// A stream that fails when neither reading nor writing gets on for a while.
pub(super) struct IdleStream<T> {
    inner: T,
    idle: Duration,
    limit: Pin<Box<Sleep>>,
    /// Given back with the connection.
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> IdleStream<T> {
    pub(super) fn new(inner: T, idle: Duration) -> Self {
        Self { inner, idle, limit: Box::pin(tokio::time::sleep(idle)), _place: None }
    }

    /// Passes a result on; one that is there sets the clock back, and a lapsed clock takes the place of
    /// one that is not.
    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if result.is_ready() {
            let limit = Instant::now() + self.idle;
            self.limit.as_mut().reset(limit);
            return result;
        }
        match self.limit.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for IdleStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.watch(cx, result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IdleStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buffer);
        self.watch(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn there_are_only_so_many_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = IdleAcceptor::new(Duration::from_secs(60), 1);
        let address = listener.local_addr().unwrap();
        let accept = async || {
            let _client = TcpStream::connect(address).await.unwrap();
            acceptor.accept(listener.accept().await.unwrap().0, ()).await.map(|(stream, ())| stream)
        };
        let first = accept().await.unwrap();
        assert!(accept().await.is_err());
        drop(first);
        assert!(accept().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_nothing_moves() {
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = IdleStream::new(server, Duration::from_secs(60));
        let mut buffer = [0; 1];
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(50)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        }
        let error = server.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // A client that takes nothing is the same.
        let mut server = IdleStream::new(tokio::io::duplex(16).1, Duration::from_secs(60));
        drop(client);
        assert!(server.write_all(&[0; 64]).await.is_err());
    }
}
