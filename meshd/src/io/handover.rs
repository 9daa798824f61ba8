//! A descriptor handed over on a Unix socket (SCM_RIGHTS, unix(7)), beside the bytes of a stream: the device of a workload.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

/// A stream that takes at most one descriptor, and a stream that sends one with its first bytes.
#[derive(Debug)]
pub struct HandoverStream {
    stream: UnixStream,
    to_send: Option<OwnedFd>,
    received: Received,
}

/// The descriptor that came, if one did. The first counts; the kernel and we close all others.
#[derive(Debug, Clone, Default)]
pub struct Received(Arc<Mutex<Option<OwnedFd>>>);

impl Received {
    /// Takes it.
    pub fn take(&self) -> Option<OwnedFd> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandoverStream {
    /// Receives into `received`.
    pub fn receiving(stream: UnixStream, received: Received) -> Self {
        Self {
            stream,
            to_send: None,
            received,
        }
    }

    /// Sends the descriptor, if there is one, with the first bytes that are written.
    pub fn sending(stream: UnixStream, descriptor: Option<OwnedFd>) -> Self {
        Self {
            stream,
            to_send: descriptor,
            received: Received::default(),
        }
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    self.received.lock().get_or_insert(descriptor);
                }
            }
        }
        Ok(message.bytes)
    }

    fn send_first(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(descriptor) = &self.to_send else {
            return self.stream.try_write(bytes);
        };
        let rights = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&rights));
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        self.to_send = None;
        Ok(sent)
    }
}

impl AsyncRead for HandoverStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            let read = self
                .stream
                .try_io(Interest::READABLE, || self.receive(unfilled));
            match read {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for HandoverStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.to_send.is_none() {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        // A socket that was just connected has room: nothing has been written yet, so this does not wait but for a full backlog of bytes.
        loop {
            ready!(this.stream.poll_write_ready(context))?;
            match this.send_first(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsRawFd};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn file(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.into()
    }

    #[tokio::test]
    async fn a_descriptor_comes_with_the_bytes_it_was_sent_with() {
        let (here, there) = UnixStream::pair().unwrap();
        let received = Received::default();
        let mut here = HandoverStream::sending(here, Some(file("hello")));
        let mut there = HandoverStream::receiving(there, received.clone());
        here.write_all(b"first").await.unwrap();
        here.write_all(b", second").await.unwrap();
        here.shutdown().await.unwrap();
        let mut text = String::new();
        there.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first, second");
        let descriptor = received.take().unwrap();
        assert!(received.take().is_none());
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "hello");
    }

    #[tokio::test]
    async fn of_many_descriptors_one_is_kept() {
        let (here, there) = UnixStream::pair().unwrap();
        let received = Received::default();
        let mut there = HandoverStream::receiving(there, received.clone());
        let files: Vec<OwnedFd> = (0..8).map(|n| file(&n.to_string())).collect();
        let mut byte = [0];
        for pair in files.chunks(2) {
            let rights: Vec<_> = pair.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
            let bytes = [IoSlice::new(b"x")];
            sendmsg(&here, &bytes, &mut control, SendFlags::empty()).unwrap();
            there.read_exact(&mut byte).await.unwrap();
        }
        drop(files);
        let kept = received.take().unwrap();
        let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "0");
        assert!(received.take().is_none());
    }
}
