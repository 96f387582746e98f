//! The crossing between a worker and its lane: a bounded ring whose sending side takes no lock that the lane could hold
//! while it is descheduled. `std`'s channel is lock-free as long as its receiver never blocks in it, so the lane sleeps
//! on a socket instead, which is written to once for all that was sent since it last looked: tokio's own wake-up from
//! another thread would take the lane's queue lock.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

/// The sending side; one for each worker.
#[derive(Debug)]
pub(super) struct RingSender<T> {
    ring: SyncSender<T>,
    /// Declared after the sender, so that it is dropped after it: the lane must notice that the last worker is gone.
    last_ring: LastRing,
}

/// Rings once more when it is dropped.
#[derive(Debug)]
struct LastRing(Arc<Bell>);

impl<T> Clone for RingSender<T> {
    fn clone(&self) -> Self {
        Self { ring: self.ring.clone(), last_ring: LastRing(Arc::clone(&self.last_ring.0)) }
    }
}

/// The lane's side.
#[derive(Debug)]
pub(super) struct RingReceiver<T> {
    ring: Receiver<T>,
    bell: Arc<Bell>,
    heard: UnixStream,
}

#[derive(Debug)]
struct Bell {
    socket: UnixStream,
    rung: AtomicBool,
}

/// A ring of so many places.
pub(super) fn ring<T>(places: usize) -> io::Result<(RingSender<T>, RingReceiver<T>)> {
    let (socket, heard) = UnixStream::pair()?;
    socket.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    let bell = Arc::new(Bell { socket, rung: AtomicBool::new(false) });
    let (sender, receiver) = sync_channel(places);
    Ok((
        RingSender { ring: sender, last_ring: LastRing(Arc::clone(&bell)) },
        RingReceiver { ring: receiver, bell, heard },
    ))
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // There is at most one byte between two looks, so the socket always has room for it.
            let _ = (&self.socket).write(&[1]);
        }
    }
}

impl<T> RingSender<T> {
    /// Sends, or gives the message back where there is no room. Never waits.
    pub(super) fn offer(&self, message: T) -> Result<(), T> {
        match self.ring.try_send(message) {
            Ok(()) => {
                self.last_ring.0.ring();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }
}

impl Drop for LastRing {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl<T> RingReceiver<T> {
    /// The bell on this thread's event loop.
    pub(super) fn listen(&self) -> io::Result<Heard> {
        tokio::net::UnixStream::from_std(self.heard.try_clone()?).map(Heard)
    }

    /// Everything that was sent until now; false once every sender is gone and nothing is left.
    pub(super) fn drain(&self, mut take: impl FnMut(T)) -> bool {
        // First of all, so that whatever is sent from here on rings again and none is missed.
        self.bell.rung.store(false, Ordering::SeqCst);
        loop {
            match self.ring.try_recv() {
                Ok(message) => take(message),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// Waits for the bell.
#[derive(Debug)]
pub(super) struct Heard(tokio::net::UnixStream);

impl Heard {
    /// Until something was sent since the last look.
    pub(super) async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut rings = [0; 64];
        match self.0.try_read(&mut rings) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_gives_the_message_back() {
        let (sender, receiver) = ring(1).expect("ring");
        assert_eq!(sender.offer(1), Ok(()));
        assert_eq!(sender.offer(2), Err(2));
        let mut seen = Vec::new();
        assert!(receiver.drain(|message| seen.push(message)));
        assert_eq!(seen, [1]);
        drop(sender);
        assert!(!receiver.drain(|_| ()));
    }

    #[test]
    fn whatever_is_sent_from_another_thread_arrives() {
        let (sender, receiver) = ring(8).expect("ring");
        let sending = std::thread::spawn(move || {
            for number in 0..10_000_u32 {
                let mut message = number;
                while let Err(back) = sender.offer(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let sum = crate::lifecycle::event_loop(async {
            let bell = receiver.listen().expect("listen");
            let mut sum = 0_u64;
            while receiver.drain(|number: u32| sum += u64::from(number)) {
                bell.wait().await.expect("bell");
            }
            sum
        });
        sending.join().expect("sender");
        assert_eq!(sum.expect("event loop"), (0..10_000_u64).sum::<u64>());
    }
}
