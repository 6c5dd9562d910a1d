//! Resets clients for whom the process has no descriptor left. The kernel accepts a connection only onto
//! a free one, and one that is let go of for the purpose may be taken by another thread first; then the
//! client would wait for as long as all descriptors are held. So a thread with a table of descriptors of
//! its own accepts them, in which there is nothing but the listener.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
    time::Duration,
};

use rustix::net::{SocketFlags, accept_with};
use socket2::Socket;
use tokio::{net::TcpListener, task::spawn_blocking};

/// A client that was reset, and whom it meant to reach, as the socket had it.
pub(super) type Refused = (SocketAddr, SocketAddr);

/// Reset before anybody else gets a turn.
const AT_ONCE: usize = 64;

type Answer = io::Result<Vec<Refused>>;

/// The thread's owner; it ends with it.
pub(super) struct Refuser {
    asks: Sender<SyncSender<Answer>>,
}

impl Refuser {
    pub fn start(listener: &TcpListener) -> io::Result<Self> {
        let (asks, asked) = channel();
        let (sender, alone) = sync_channel(1);
        let listener = listener.as_raw_fd();
        thread::Builder::new()
            .name("proxy-refuser".into())
            .spawn(move || {
                let result = keep_alone(listener);
                let failed = result.is_err();
                if sender.send(result).is_err() || failed {
                    return;
                }
                serve(listener, &asked);
            })?;
        // INVARIANT: the listener stays open until the thread has its own table of descriptors.
        alone.recv().map_err(io::Error::other)??;
        Ok(Self { asks })
    }

    /// Resets the clients that wait now, some at most; none wait where it gives none.
    pub async fn refuse(&self) -> io::Result<Vec<Refused>> {
        let asks = self.asks.clone();
        // INVARIANT: that thread never wakes a task by itself: the descriptor of the runtime that it would
        // write to is none of its own.
        let asking = spawn_blocking(move || {
            let (sender, answer) = sync_channel(1);
            asks.send(sender).map_err(io::Error::other)?;
            answer.recv().map_err(io::Error::other)?
        });
        asking.await.map_err(io::Error::other)?
    }
}

/// Gives this thread its own table of descriptors, with that one alone in it.
#[expect(unsafe_code, reason = "descriptors are closed by number")]
fn keep_alone(kept: RawFd) -> io::Result<()> {
    let kept = u32::try_from(kept).map_err(io::Error::other)?;
    let close = |first: u32, last: u32| {
        // SAFETY: the flag makes the table this thread's own before anything is closed, and this thread
        // has no owner of a descriptor on its stack.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                first,
                last,
                libc::CLOSE_RANGE_UNSHARE,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    close(kept + 1, u32::MAX)?;
    match kept.checked_sub(1) {
        Some(last) => close(0, last),
        None => Ok(()),
    }
}

#[expect(unsafe_code, reason = "the listener is known by its number")]
fn serve(listener: RawFd, asked: &Receiver<SyncSender<Answer>>) {
    // SAFETY: it is open in this thread's own table, where nobody closes it.
    let listener = unsafe { BorrowedFd::borrow_raw(listener) };
    for ask in asked {
        // Who asked may have gone.
        let _told = ask.send(refuse_waiting(listener));
    }
}

fn refuse_waiting(listener: BorrowedFd<'_>) -> Answer {
    let mut refused = Vec::new();
    while refused.len() < AT_ONCE {
        let accepted = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let socket = match accepted {
            Ok(socket) => Socket::from(socket),
            Err(rustix::io::Errno::AGAIN) => break,
            // It has ended before.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
            Err(error) if refused.is_empty() => return Err(error.into()),
            Err(_) => break,
        };
        // Closing it is a reset.
        socket.set_linger(Some(Duration::ZERO))?;
        let ends = (socket.peer_addr()?, socket.local_addr()?);
        if let (Some(client), Some(pod)) = (ends.0.as_socket(), ends.1.as_socket()) {
            refused.push((client, pod));
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, net::TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_waits_is_reset_and_nobody_elses_descriptors_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let file = fs::File::open("/dev/null").expect("a descriptor of somebody");
        let refuser = Refuser::start(&listener).expect("a thread");
        assert_eq!(refuser.refuse().await.expect("it listens"), []);
        let mut clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).expect("it listens"))
            .collect();
        let expected: Vec<Refused> = clients
            .iter()
            .map(|client| (client.local_addr().expect("its own"), address))
            .collect();
        assert_eq!(refuser.refuse().await.expect("it listens"), expected);
        for client in &mut clients {
            let error = client.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        assert!(file.metadata().is_ok(), "it is open in our own table");
        // The listener is still everybody's.
        let _client = TcpStream::connect(address).expect("it listens");
        listener.accept().await.expect("a client");
        drop((refuser, listener));
        let ended = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(50));
            TcpStream::connect(address).is_err()
        });
        assert!(ended, "the thread keeps the listener open");
    }
}
