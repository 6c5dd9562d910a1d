//! A double of an API server, for what a real one cannot be made to show: 100 000 pods, pages, watches
//! that break off at a given moment, versions that are gone, refusals. It speaks plain HTTP on a
//! node's loopback.
//!
//! [`store`] holds the objects and who watches them, [`serve`] answers requests.

mod serve;
mod store;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

pub use store::Asked;
use store::Store;

use super::config::Access;
use crate::netns::Netns;

/// Ends with its owner.
#[derive(Debug)]
pub struct Double {
    /// Where the node calls.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What the server's tasks and its owner have in common.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// Nobody is answered, and connections break off.
    down: watch::Sender<bool>,
}

impl Double {
    /// Serves on the node's loopback. Returns once it listens.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(node: &Netns) -> Result<Self> {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            down: watch::Sender::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = mpsc::channel();
        let served = shared.clone();
        let thread = node.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let told = ready.send(listener.local_addr()?);
                told.context("the double's owner waits for its address")?;
                tokio::select! {
                    never = serve::serve(listener, served) => never,
                    _ = stopped => Ok(()),
                }
            })
        });
        let address = listening
            .recv()
            .map_err(|_| anyhow!("the double did not start"))?;
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The kubeconfig for an agent on the node.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let access = Access {
            server: &format!("http://{}", self.address),
            authority: None,
            token: None,
        };
        access.kubeconfig()
    }

    /// Makes an object, or changes it: `set("pods", ...)`.
    ///
    /// # Panics
    /// When it has no name.
    pub fn set(&self, kind: &'static str, object: Value) {
        self.store().set(kind, object);
    }

    /// Deletes an object. Says whether it was there.
    pub fn remove(&self, kind: &'static str, namespace: &str, name: &str) -> bool {
        self.store().remove(kind, namespace, name)
    }

    /// Breaks every watch of a kind off. It may go on from where it was.
    pub fn cut(&self, kind: &'static str) {
        self.store().cut(kind);
    }

    /// Forgets what was before: whoever watched until now must list again.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Tells every watch how far it is.
    pub fn bookmark(&self) {
        self.store().bookmark();
    }

    /// Refuses to list or watch a kind, or does so no longer.
    pub fn forbid(&self, kind: &'static str, forbidden: bool) {
        self.store().forbid(kind, forbidden);
    }

    /// How long a list takes, for each page.
    pub fn slow_lists(&self, by: Duration) {
        self.store().slow = by;
    }

    /// Nobody is answered any more; connections that are open break off.
    pub fn down(&self, down: bool) {
        // First of all, so that nothing that happens from here on is told.
        self.store().away(down);
        self.shared.down.send_replace(down);
    }

    /// How often a kind was listed, by pages, and watched.
    #[must_use]
    pub fn asked(&self, kind: &'static str) -> Asked {
        self.store().asked(kind)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store()
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A server that has ended by itself does not listen any more.
            let _told = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("the double: {error:#}");
        }
    }
}
