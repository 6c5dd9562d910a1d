//! Where the programs of Kubernetes are: as `cargo xtask setup --kube` leaves them.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::ready::skipped;

/// What a cluster is made of.
#[derive(Debug)]
pub struct Programs {
    pub etcd: PathBuf,
    pub server: PathBuf,
    pub kubectl: PathBuf,
}

impl Programs {
    /// All of them; says why not where one is not there.
    #[must_use]
    pub fn find() -> Option<Self> {
        let find = |name| {
            let found = program(name);
            if found.is_none() {
                skipped(&format!("no {name}: run `cargo xtask setup --kube`"));
            }
            found
        };
        Some(Self {
            etcd: find("etcd")?,
            server: find("kube-apiserver")?,
            kubectl: find("kubectl")?,
        })
    }
}

/// From the folder `KUBEBUILDER_ASSETS`, the cache, or the machine's own folders.
fn program(name: &str) -> Option<PathBuf> {
    let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let places = given
        .into_iter()
        .chain(cache())
        .chain(env::split_paths(&path));
    places
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

fn cache() -> Option<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) if Path::new(&folder).is_absolute() => PathBuf::from(folder),
        _ => env::home_dir()?.join(".cache"),
    };
    Some(base.join("enforcer/kube"))
}
