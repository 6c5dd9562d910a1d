//! A real API server and its etcd, in a network namespace of their own: no port is anybody else's.
//!
//! There is no kubelet and no controller: tests say what a kubelet would (pods' addresses), and
//! namespaces that are deleted stay.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rcgen::{CertifiedKey, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{config::Access, programs::Programs};
use crate::{
    netns::{Netns, Process, unique_prefix},
    ready::until,
};

/// How long the server may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// Where they listen, within their namespace.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// The kinds of policies.
const CRDS: &str = include_str!("../../data/istio-crds.yaml");
/// What the agent may read, as it is deployed, and the namespace of its account.
const RIGHTS: &str = include_str!("../../../enforcer/deploy/base/rights.yaml");
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: enforcer-system}
";
/// Whom the tests' token stands for.
const BINDING: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: enforcer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: agent}]
";

/// Who can call the server, by their tokens.
pub const ADMIN: &str = "admin-token";
/// May read what an agent reads.
pub const AGENT: &str = "agent-token";
/// May do nothing.
pub const STRANGER: &str = "stranger-token";

/// Fields drop in order: the server before its store, and what runs in a namespace before it.
#[derive(Debug)]
pub struct Cluster {
    server: Option<Process>,
    etcd: Process,
    programs: Programs,
    folder: Folder,
    netns: Netns,
}

/// A folder that goes away with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Cluster {
    /// A cluster with the kinds of policies and an agent's role. `None`, with the reason said, where
    /// the programs are not there.
    ///
    /// # Errors
    /// What the programs said when they did not get ready.
    pub fn start(what: &str) -> Result<Option<Self>> {
        let Some(programs) = Programs::find() else {
            return Ok(None);
        };
        let netns = Netns::create(&unique_prefix(what))?;
        let folder = Folder(std::env::temp_dir().join(netns.name()));
        fs::create_dir_all(&folder.0)?;
        write_secrets(&folder.0)?;
        let etcd = start_etcd(&programs, &netns, &folder.0)?;
        let mut cluster = Self {
            server: None,
            etcd,
            programs,
            folder,
            netns,
        };
        let access = Access {
            server: &format!("https://{SERVER}"),
            authority: Some(&cluster.authority()),
            token: Some(ADMIN),
        };
        fs::write(cluster.file("admin.kubeconfig"), access.kubeconfig())?;
        cluster.start_server()?;
        cluster.apply(CRDS)?;
        for manifest in [NAMESPACE, RIGHTS, BINDING] {
            cluster.apply(manifest)?;
        }
        let kinds = ["authorizationpolicies", "requestauthentications"];
        for kind in kinds {
            let name = format!("crd/{kind}.security.istio.io");
            cluster.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                &name,
            ])?;
        }
        Ok(Some(cluster))
    }

    /// Starts the server, which was killed or never ran, and waits until it is ready.
    ///
    /// # Errors
    /// What it said when it did not get ready.
    pub fn start_server(&mut self) -> Result<()> {
        let mut server = self.run_server()?;
        let mut ended = None;
        let ready = until(START, || {
            let store = self.etcd.ended().ok().flatten();
            ended = server.ended().ok().flatten().or(store);
            ended.is_some() || self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        });
        ensure!(
            ended.is_none(),
            "the API server or its store ended: {ended:?}\n{}",
            self.log()
        );
        ensure!(ready, "the API server did not get ready\n{}", self.log());
        self.server = Some(server);
        Ok(())
    }

    fn run_server(&self) -> Result<Process> {
        let file = |name: &str| self.file(name).display().to_string();
        let mut command = Command::new(&self.programs.server);
        command
            .arg(format!("--etcd-servers={ETCD}"))
            .args(["--bind-address=127.0.0.1", "--secure-port=6443"])
            // No Service leads to it, and 127.0.0.1 is no address for one.
            .args([
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
            ])
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg(format!("--tls-cert-file={}", file("server.crt")))
            .arg(format!("--tls-private-key-file={}", file("server.key")))
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg("--authorization-mode=RBAC")
            .arg("--allow-privileged=true")
            // Nobody makes the accounts that it would ask for.
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!(
                "--service-account-key-file={}",
                file("accounts.pub")
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ));
        self.run(&mut command, "server.log")
    }

    /// SIGKILL: what a crash of the server looks like.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_server(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the API server runs")?;
        server.kill()?;
        Ok(())
    }

    /// Makes the store forget what was before: nobody can go on from there.
    ///
    /// # Errors
    /// As the store says.
    pub fn compact(&self) -> Result<()> {
        let revision = self.kubectl(&["get", "--raw", "/api/v1/namespaces?limit=1"])?;
        let list: serde_json::Value = serde_json::from_str(&revision)?;
        let revision = list["metadata"]["resourceVersion"].as_str();
        let revision = revision.context("a list has a version")?;
        let body = format!("{{\"revision\": \"{revision}\", \"physical\": true}}");
        let request = format!(
            "POST /v3/kv/compaction HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = self.netns.enter(|| -> Result<String> {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(ETCD.trim_start_matches("http://"))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "etcd: {answer}");
        Ok(())
    }

    /// Runs kubectl as the cluster's administrator; an error is what it said.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.kubectl);
        command
            .arg("--kubeconfig")
            .arg(self.file("admin.kubeconfig"))
            // What it has learnt about other servers is of no use here.
            .arg("--cache-dir")
            .arg(self.file("cache"))
            .args(arguments);
        self.netns.output(&mut command)
    }

    /// `kubectl apply` of manifests.
    ///
    /// # Errors
    /// What the server has against them.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let path = self.file("apply.yaml");
        fs::write(&path, manifests)?;
        self.kubectl(&["apply", "-f", &path.display().to_string()])
            .map(drop)
    }

    /// Applies a pod and says its status in place of a kubelet: both from the same manifest.
    ///
    /// # Errors
    /// What the server has against it.
    pub fn pod(&self, namespace: &str, name: &str, manifest: &str) -> Result<()> {
        self.apply(manifest)?;
        let path = self.file("status.json");
        let pod: serde_json::Value = serde_yaml::from_str(manifest)?;
        fs::write(&path, serde_json::to_vec(&pod)?)?;
        let address = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        let file = path.display().to_string();
        self.kubectl(&["replace", "--raw", &address, "-f", &file])
            .map(drop)
    }

    /// Deletes a pod at once: no kubelet would confirm that it has ended.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let arguments = ["delete", "pod", name, "-n", namespace];
        let now = ["--grace-period=0", "--force"];
        self.kubectl(&[&arguments[..], &now[..]].concat()).map(drop)
    }

    /// File with the certificate that signs the server's: its own.
    #[must_use]
    pub fn authority(&self) -> String {
        self.file("server.crt").display().to_string()
    }

    /// Where the server listens, within [`Cluster::netns`].
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SERVER
    }

    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The end of what the server and its store have said.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        for name in ["etcd.log", "server.log"] {
            let log = fs::read_to_string(self.file(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &lines[lines.len().saturating_sub(15)..].join("\n");
            text.push('\n');
        }
        text
    }

    fn run(&self, command: &mut Command, log: &str) -> Result<Process> {
        run(&self.netns, command, &self.file(log))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            // A destructor can only report.
            eprintln!("left behind: {}: {error}", self.0.display());
        }
    }
}

fn start_etcd(programs: &Programs, netns: &Netns, folder: &Path) -> Result<Process> {
    let mut etcd = Command::new(&programs.etcd);
    etcd.arg("--data-dir")
        .arg(folder.join("etcd"))
        .args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
        ])
        .args(["--listen-peer-urls", ETCD_PEER])
        .args(["--initial-advertise-peer-urls", ETCD_PEER])
        .args(["--initial-cluster", &format!("default={ETCD_PEER}")]);
    run(netns, &mut etcd, &folder.join("etcd.log"))
}

fn run(netns: &Netns, command: &mut Command, log: &Path) -> Result<Process> {
    let to_log = fs::OpenOptions::new().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(to_log.try_clone()?)
        .stderr(to_log);
    netns.process(command)
}

/// The server's certificate, the key of service accounts, and who may call.
fn write_secrets(folder: &Path) -> Result<()> {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    fs::write(folder.join("server.crt"), cert.pem())?;
    fs::write(folder.join("server.key"), signing_key.serialize_pem())?;
    let accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    fs::write(folder.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), accounts.public_key_pem())?;
    let tokens =
        format!("{ADMIN},admin,1,\"system:masters\"\n{AGENT},agent,2\n{STRANGER},stranger,3\n");
    fs::write(folder.join("tokens.csv"), tokens)?;
    Ok(())
}
