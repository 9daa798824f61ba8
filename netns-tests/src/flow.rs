//! Datagrams at a steady pace to an echo server and back, and for how long none came back: what a user notices of a failure.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::moment::Moment;
use crate::wait::{hold_for, millis, wait_until};

/// Payload of each datagram, in bytes.
const SIZE: usize = 200;

/// A flow. It ends when this is dropped.
#[derive(Debug)]
pub struct Flow {
    answers: Arc<Mutex<Vec<Moment>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flow {
    /// Sends a datagram every so often to [`crate::traffic::udp_echo`].
    #[track_caller]
    pub fn start(host: &Host, target: SocketAddr, every: Duration) -> Self {
        let socket = host.inside(|| {
            let any = if target.is_ipv6() {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(every.min(millis(10))))?;
            Ok::<_, std::io::Error>(socket)
        });
        let socket = socket.unwrap_or_else(|err| panic!("{}: no socket: {err}", host.name()));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (noted, end) = (answers.clone(), ended.clone());
        let thread = thread::spawn(move || {
            let (mut due, mut buffer) = (Instant::now(), [0; 2 * SIZE]);
            while !end.load(Ordering::Relaxed) {
                if Instant::now() >= due {
                    due = (due + every).max(Instant::now());
                    // What cannot be sent is not answered, and that is what counts.
                    drop(socket.send_to(&[7; SIZE], target));
                }
                if let Ok((SIZE, _)) = socket.recv_from(&mut buffer) {
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Moment::now());
                }
            }
        });
        Self {
            answers,
            ended,
            thread: Some(thread),
        }
    }

    /// How many answers came since then.
    pub fn answers(&self, since: Moment) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter(|at| **at >= since).count()
    }

    /// Waits until answers come, from now on.
    ///
    /// # Panics
    /// When none does in that time.
    #[track_caller]
    pub fn wait_for_answers(&self, within: Duration) {
        let since = Moment::now();
        wait_until(within, "the flow is answered", || self.answers(since) >= 3);
    }

    /// For how long no answer came, at the longest, between then and now.
    pub fn longest_gap(&self, since: Moment) -> Duration {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut last, mut longest) = (since, Duration::ZERO);
        for at in answers
            .iter()
            .copied()
            .filter(|at| *at >= since)
            .chain([Moment::now()])
        {
            longest = longest.max(at.since(last));
            last = at;
        }
        longest
    }

    /// Looks all that time whether answers come, without a longer gap than that.
    ///
    /// # Panics
    /// As soon as there is one.
    #[track_caller]
    pub fn goes_on(&self, length: Duration, gap: Duration) {
        let since = Moment::now();
        hold_for(length, "the flow is answered", || {
            let longest = self.longest_gap(since);
            if longest <= gap {
                Ok(())
            } else {
                Err(format!("no answer for {longest:?}"))
            }
        });
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It has no result, and a panic of its own was printed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
