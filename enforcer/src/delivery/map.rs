//! A bundle in a ConfigMap, which is watched: each change is told of at once, and nothing is asked in
//! between. A ConfigMap holds at most 1 MiB, so that larger bundles need a registry.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event},
};

use super::{Fetched, News, source::MapPlace};

type Events = Pin<Box<dyn Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Send>>;

pub(super) struct MapWatch {
    place: MapPlace,
    /// Of the cluster that the agent is in, or of the kubeconfig that KUBECONFIG names.
    client: Option<Client>,
    events: Option<Events>,
    /// The object has been there since the watch began.
    there: bool,
    /// Its content, as it came last.
    known: Option<Vec<u8>>,
}

/// Why no bundle comes.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("cannot ask the API server for `{place}`")]
    Client {
        place: MapPlace,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(
        "cannot watch `{place}`: the agent needs the verbs get, list and watch on this ConfigMap"
    )]
    Forbidden { place: MapPlace },
    #[error("cannot watch `{place}`")]
    Watch {
        place: MapPlace,
        #[source]
        source: Box<watcher::Error>,
    },
    #[error("there is no ConfigMap for `{0}`")]
    Missing(MapPlace),
    #[error("the ConfigMap of `{place}` has no such key; it has {have}")]
    NoKey { place: MapPlace, have: String },
}

impl MapWatch {
    pub fn of(place: &MapPlace) -> Self {
        Self {
            place: place.clone(),
            client: None,
            events: None,
            there: false,
            known: None,
        }
    }

    #[cfg(test)]
    pub fn through(place: &MapPlace, client: Client) -> Self {
        let mut watch = Self::of(place);
        watch.client = Some(client);
        watch
    }

    /// Waits for something to be told.
    pub async fn look(&mut self) -> Result<News, MapError> {
        loop {
            let client = match &self.client {
                Some(client) => client.clone(),
                None => {
                    let client = Client::try_default().await;
                    let client = client.map_err(|source| MapError::Client {
                        place: self.place.clone(),
                        source: Box::new(source),
                    })?;
                    self.client.insert(client).clone()
                }
            };
            let events = self
                .events
                .get_or_insert_with(|| events(&self.place, client));
            let event = events.next().await;
            match event {
                Some(Ok(Event::Init)) => self.there = false,
                Some(Ok(Event::InitApply(map) | Event::Apply(map))) => {
                    self.there = true;
                    let bytes = self.bundle(map)?;
                    if self.known.as_ref() == Some(&bytes) {
                        return Ok(News::Same);
                    }
                    self.known = Some(bytes.clone());
                    let name = self.place.to_string().into();
                    return Ok(News::New(Fetched { bytes, name }));
                }
                Some(Ok(Event::InitDone)) if self.there => {}
                Some(Ok(Event::InitDone | Event::Delete(_))) => {
                    return Err(MapError::Missing(self.place.clone()));
                }
                // Begun anew, so that it is told when all is well again.
                Some(Err(error)) => {
                    self.events = None;
                    return Err(self.failed(error));
                }
                // A watch does not end; if it does, it is begun anew.
                None => self.events = None,
            }
        }
    }

    fn bundle(&self, mut map: ConfigMap) -> Result<Vec<u8>, MapError> {
        let key = &self.place.key;
        let binary = map.binary_data.as_mut().and_then(|data| data.remove(key));
        let text = map.data.as_mut().and_then(|data| data.remove(key));
        if let Some(bytes) = binary.map(|b| b.0).or(text.map(String::into_bytes)) {
            return Ok(bytes);
        }
        let binary = map.binary_data.iter().flat_map(|data| data.keys());
        let text = map.data.iter().flat_map(|data| data.keys());
        let have: Vec<String> = binary.chain(text).map(|key| format!("`{key}`")).collect();
        Err(MapError::NoKey {
            place: self.place.clone(),
            have: match have.is_empty() {
                true => "none".into(),
                false => have.join(", "),
            },
        })
    }

    fn failed(&self, error: watcher::Error) -> MapError {
        let status = match &error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
            watcher::Error::WatchError(status) => Some(status.code),
            _ => None,
        };
        let place = self.place.clone();
        match status {
            Some(403) => MapError::Forbidden { place },
            _ => MapError::Watch {
                place,
                source: Box::new(error),
            },
        }
    }
}

fn events(place: &MapPlace, client: Client) -> Events {
    let api: Api<ConfigMap> = Api::namespaced(client, &place.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", place.name));
    Box::pin(watcher::watcher(api, config))
}
