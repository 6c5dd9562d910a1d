//! The way from a node to the API server: a port on the node's loopback that can be cut.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::netns::Netns;

const ACCEPT_POLL: Duration = Duration::from_millis(2);

/// Ends with its owner.
#[derive(Debug)]
pub struct Relay {
    /// Where the node calls.
    pub address: SocketAddr,
    way: Arc<Way>,
}

#[derive(Debug, Default)]
struct Way {
    ended: AtomicBool,
    cut: AtomicBool,
    /// Both sides of what is open.
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// From the node's loopback to an address within another namespace.
    ///
    /// # Errors
    /// When the node has no port left.
    pub fn start(node: &Netns, there: &Netns, to: SocketAddr) -> Result<Self> {
        let listener = node.enter(|| TcpListener::bind("127.0.0.1:0"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let way = Arc::new(Way::default());
        let here = way.clone();
        // New sockets of this thread are the other namespace's.
        there.spawn(move || {
            while !here.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) if stream.set_nonblocking(false).is_ok() => {
                        // What it cannot carry it closes, as a network does.
                        let _carried = here.carry(stream, to);
                    }
                    _ => thread::sleep(ACCEPT_POLL),
                }
            }
        });
        Ok(Self { address, way })
    }

    /// Breaks what is open and lets nothing through until [`Relay::mend`].
    pub fn cut(&self) {
        self.way.cut.store(true, Ordering::SeqCst);
        self.way.close();
    }

    /// Breaks what is open; who calls again gets through.
    pub fn interrupt(&self) {
        self.way.close();
    }

    pub fn mend(&self) {
        self.way.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.way.ended.store(true, Ordering::Relaxed);
        self.way.close();
    }
}

impl Way {
    fn carry(&self, client: TcpStream, to: SocketAddr) -> io::Result<()> {
        let server = TcpStream::connect(to)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at with the lock held, so that no connection slips past a cut.
        if self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        open.retain(|stream| stream.peer_addr().is_ok());
        open.push(client.try_clone()?);
        open.push(server.try_clone()?);
        for (from, into) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            thread::spawn(move || copy(from, into));
        }
        Ok(())
    }

    fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // Whatever is closed already is closed.
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut into: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if into.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _closed = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
}
