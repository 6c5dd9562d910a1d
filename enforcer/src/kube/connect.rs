//! Who is asked: the API server of the pod that the agent runs in, or of a kubeconfig.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{InferConfigError, KubeConfigOptions},
};

use super::follow::Pace;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "--kube needs to know the API server: run as a pod with a service account, or name a \
         kubeconfig in KUBECONFIG"
    )]
    Unknown(#[source] Box<InferConfigError>),
    #[error("the kubeconfig that KUBECONFIG names cannot be used")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    #[error("no client for the API server can be made")]
    Client(#[source] Box<kube::Error>),
}

/// A client, which has not asked anything yet.
pub async fn client(pace: &Pace) -> Result<Client, ConnectError> {
    let mut config = match std::env::var_os("KUBECONFIG") {
        // What it names is meant: an error in it must not lead to another cluster.
        Some(_) => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|error| ConnectError::Kubeconfig(Box::new(error)))?,
        None => Config::infer()
            .await
            .map_err(|error| ConnectError::Unknown(Box::new(error)))?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(pace.quiet);
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
