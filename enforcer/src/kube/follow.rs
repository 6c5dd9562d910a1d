//! One kind, listed and then watched, for as long as the agent lives.
//!
//! A watch goes on from the version that was seen last, also after a cut connection. Where that
//! version is too old (410), or something could not be understood, everything is listed again: what
//! the list does not name is gone. While nobody can be asked, everything stays as it was.
//!
//! kube's own watcher does the same, and keeps three things to itself that are needed here: that a
//! quiet watch is alive, that it has come back after a failure, and what it could not understand.

mod backoff;
mod trouble;

use std::{sync::Arc, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use kube::{
    Client,
    core::{
        Request,
        params::{ListParams, WatchParams},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use self::backoff::Backoff;
pub use self::trouble::Trouble;
use super::{
    health::Health,
    kind::{Kind, MeshPlace},
    wire,
};
use crate::inventory::PodName;

/// Objects of a page.
const PAGE: u32 = 500;
/// A watch that cannot be opened so many times in a row, by a server that answers, is begun anew.
const REFUSED_MAX: u32 = 3;
/// A watch that ended sooner than this was none.
const SHORT: Duration = Duration::from_secs(1);

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The server says something at least this often: a bookmark a minute, if nothing else. After a
    /// longer silence it is asked again.
    pub quiet: Duration,
    /// How long a watch is asked for.
    pub watch: Duration,
    /// Between two attempts, at first and at most.
    pub retry: Duration,
    pub retry_max: Duration,
    /// How long a kind must be missing before it is believed: a server that starts has not all of
    /// its kinds yet. Longer where objects of it were known.
    pub absent: Duration,
    pub absent_known: Duration,
    /// How often a kind that is missing is asked for.
    pub absent_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(100),
            watch: Duration::from_secs(290),
            retry: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
            absent: Duration::from_secs(2),
            absent_known: Duration::from_secs(120),
            absent_retry: Duration::from_secs(30),
        }
    }
}

/// What is told of a kind.
#[derive(Debug)]
pub enum News {
    /// A list begins. What it has not named at its end is gone.
    Begin,
    /// An object is there, or has changed.
    Now(Seen),
    End,
    Gone(PodName),
}

/// An object, as it is sent.
#[derive(Debug)]
pub struct Seen {
    /// Of the namespace, which is empty for what is in none, and the object.
    pub name: PodName,
    /// RFC 3339, by the server's clock.
    pub created: String,
    /// It is being deleted.
    pub leaving: bool,
    /// API version and kind, for where the text does not say them.
    pub of: (String, &'static str),
    pub json: String,
}

/// Follows a kind. Ends when nobody listens any more.
pub struct Follower {
    client: Client,
    kind: Kind,
    mesh: MeshPlace,
    pace: Pace,
    health: Arc<Health>,
    out: mpsc::Sender<(Kind, News)>,
    /// Has everything listed once more.
    again: Arc<Notify>,
    /// Where a watch may go on.
    version: Option<String>,
    /// Which of the kind's API versions is asked for.
    api: usize,
    /// A list was told of to its end.
    listed: bool,
    missing_since: Option<Instant>,
    refused: u32,
    wait: Backoff,
}

/// Nobody listens any more.
#[derive(Debug)]
struct Unheard;

impl Follower {
    pub fn new(
        client: Client,
        kind: Kind,
        mesh: MeshPlace,
        pace: Pace,
        health: Arc<Health>,
        out: mpsc::Sender<(Kind, News)>,
    ) -> Self {
        Self {
            client,
            kind,
            mesh,
            pace,
            health,
            out,
            again: Arc::default(),
            version: None,
            api: 0,
            listed: false,
            missing_since: None,
            refused: 0,
            wait: Backoff::new(pace.retry, pace.retry_max),
        }
    }

    /// Lists everything once more whenever it is told to.
    #[must_use]
    pub fn listing_at(self, again: Arc<Notify>) -> Self {
        Self { again, ..self }
    }

    pub async fn run(mut self) {
        loop {
            let Err(trouble) = self.round().await else {
                continue;
            };
            if matches!(trouble, Trouble::Unheard) {
                return;
            }
            if trouble.is_absent() && self.kind.is_optional() {
                if self.missing().await.is_err() {
                    return;
                }
                continue;
            }
            self.missing_since = None;
            // What is known of the objects is no longer what the server goes on from.
            if trouble.wants_list() {
                self.version = None;
            }
            let text = trouble.text(self.kind);
            if self.health.failing(self.kind, text.clone()) {
                match trouble.is_usual() {
                    true => tracing::info!(kind = %self.kind, "{text}"),
                    false => tracing::warn!(
                        kind = %self.kind,
                        "{text}; what is known stays in force, and it is tried again"
                    ),
                }
            }
            tokio::time::sleep(self.wait.next()).await;
        }
    }

    /// Lists where that is needed, and watches until the server ends it.
    async fn round(&mut self) -> Result<(), Trouble> {
        let from = match self.version.clone() {
            Some(from) => from,
            None => self.list().await?,
        };
        self.version = Some(from.clone());
        let began = Instant::now();
        self.watch(&from).await?;
        if began.elapsed() < SHORT {
            tokio::time::sleep(self.wait.next()).await;
        } else {
            self.wait.reset();
        }
        Ok(())
    }

    /// Tells of all objects. Returns the version that a watch goes on from.
    async fn list(&mut self) -> Result<String, Trouble> {
        self.tell(News::Begin).await?;
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.kind.fields(&self.mesh);
        loop {
            let request = self.request().list(&params).map_err(Trouble::unsendable)?;
            let text = self.client.request_text(request).await;
            let text = text.map_err(|error| Trouble::of("list", error))?;
            let page: wire::Page<'_> = serde_json::from_str(&text)
                .map_err(|error| Trouble::Garbled(format!("a list: {error}")))?;
            for item in page.items.into_iter().flatten() {
                let seen = self.seen(item.get())?;
                self.tell(News::Now(seen)).await?;
            }
            match page.metadata.further.filter(|further| !further.is_empty()) {
                Some(further) => params.continue_token = Some(further.into_owned()),
                None => {
                    let version = page.metadata.resource_version;
                    let version = version.filter(|version| !version.is_empty());
                    let version = version
                        .ok_or_else(|| Trouble::Garbled("a list without its version".into()))?
                        .into_owned();
                    self.tell(News::End).await?;
                    self.health.listed(self.kind);
                    (self.listed, self.missing_since) = (true, None);
                    return Ok(version);
                }
            }
        }
    }

    /// Tells of changes until the server ends the watch, as it does every few minutes.
    async fn watch(&mut self, from: &str) -> Result<(), Trouble> {
        let params = WatchParams {
            field_selector: self.kind.fields(&self.mesh),
            timeout: u32::try_from(self.pace.watch.as_secs().max(1)).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = self.request().watch(&params, from);
        let request = request.map_err(Trouble::unsendable)?;
        let opened = self.client.request_stream(request).await;
        let lines = match opened.map_err(|error| Trouble::of("watch", error)) {
            Ok(lines) => lines,
            // A version that a restored server does not know is refused in several ways.
            Err(trouble) => {
                self.refused += u32::from(trouble.is_answer());
                if self.refused >= REFUSED_MAX {
                    (self.refused, self.version) = (0, None);
                }
                return Err(trouble);
            }
        };
        self.refused = 0;
        if self.health.watched(self.kind) {
            tracing::info!(kind = %self.kind, "the API server is followed again");
        }
        self.lines(lines).await
    }

    async fn lines(&mut self, lines: impl AsyncBufRead) -> Result<(), Trouble> {
        let mut lines = std::pin::pin!(lines);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line);
            let read = tokio::select! {
                read = tokio::time::timeout(self.pace.quiet, read) => read,
                () = self.again.notified() => {
                    self.version = None;
                    return Ok(());
                }
            };
            match read.map_err(|_| Trouble::Silent)? {
                // Half a line is the server's end as well: the watch goes on from the line before.
                Ok(_) if line.last() != Some(&b'\n') => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Trouble::Cut(error)),
            }
            let text = std::str::from_utf8(&line)
                .map_err(|error| Trouble::Garbled(format!("a line of a watch: {error}")))?;
            if !text.trim().is_empty() {
                self.line(text).await?;
            }
        }
    }

    async fn line(&mut self, text: &str) -> Result<(), Trouble> {
        let garbled =
            |error: serde_json::Error| Trouble::Garbled(format!("a line of a watch: {error}"));
        let line: wire::Line<'_> = serde_json::from_str(text).map_err(garbled)?;
        let object = line.object.get();
        let news = match &*line.event {
            "ADDED" | "MODIFIED" => Some(News::Now(self.seen(object)?)),
            "DELETED" => Some(News::Gone(self.seen(object)?.name)),
            "BOOKMARK" => None,
            "ERROR" => {
                let refusal: wire::Refusal = serde_json::from_str(object).map_err(garbled)?;
                return Err(Trouble::refused("watch", refusal));
            }
            other => {
                let what = format!("an event of a watch that is called `{other}`");
                return Err(Trouble::Garbled(what));
            }
        };
        let version = wire::meta(object).map_err(garbled)?.resource_version;
        let version = version
            .filter(|version| !version.is_empty())
            .ok_or_else(|| Trouble::Garbled("an event without a version".into()))?;
        let version = version.into_owned();
        self.health.heard(self.kind, news.is_some());
        if let Some(news) = news {
            self.tell(news).await?;
        }
        // After it was told of: whatever breaks off before that is heard of again.
        self.version = Some(version);
        self.wait.reset();
        Ok(())
    }

    /// The cluster does not know the kind, or this version of it.
    async fn missing(&mut self) -> Result<(), Unheard> {
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        self.version = None;
        let versions = self.kind.versions().len();
        self.api = (self.api + 1) % versions;
        let (enough, again) = match self.listed {
            true => (self.pace.absent_known, self.wait.next()),
            false => (self.pace.absent, self.pace.retry),
        };
        // Every version has been asked for.
        if since.elapsed() < enough || self.api != 0 {
            let text = "the API server does not know the kind; what is known of it stays in force";
            if self.listed {
                self.health.failing(self.kind, text.into());
            }
            tokio::time::sleep(again).await;
            return Ok(());
        }
        // It is as if there were none of them.
        for news in [News::Begin, News::End] {
            self.tell(news).await.map_err(|_| Unheard)?;
        }
        self.listed = false;
        self.health.absent(self.kind);
        tokio::time::sleep(self.pace.absent_retry).await;
        Ok(())
    }

    fn seen(&self, json: &str) -> Result<Seen, Trouble> {
        let meta = wire::meta(json).map_err(|error| Trouble::Garbled(format!("{error}")))?;
        let name = meta.name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Trouble::Garbled("an object without a name".into()))?;
        let namespace = meta.namespace.unwrap_or_default().into_owned();
        Ok(Seen {
            name: (namespace, name.into_owned()),
            created: meta.creation_timestamp.unwrap_or_default().into_owned(),
            leaving: meta.deletion_timestamp.is_some(),
            of: self.kind.type_of(self.version_name()),
            json: json.to_owned(),
        })
    }

    fn request(&self) -> Request {
        Request::new(self.kind.path(self.version_name(), &self.mesh))
    }

    fn version_name(&self) -> &'static str {
        self.kind.versions().get(self.api).copied().unwrap_or("v1")
    }

    async fn tell(&self, news: News) -> Result<(), Trouble> {
        // Not every server heeds a selector.
        if let (Kind::Mesh, News::Now(Seen { name, .. }) | News::Gone(name)) = (self.kind, &news)
            && name.1 != self.mesh.name
        {
            return Ok(());
        }
        let told = self.out.send((self.kind, news)).await;
        told.map_err(|_| Trouble::Unheard)
    }
}
