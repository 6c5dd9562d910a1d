//! The node that is soaked: pods, an agent, the policies in force, and what the oracle says of them.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use enforcer::attach::Attach;
use fastrand::Rng;
use policyc::{
    cluster::Cluster,
    conformance::{Engine as _, Oracle},
    options::Options,
    read,
    request::{Expected, Request, SourceRef, Wire},
};
use tests::{
    live::{
        agent::{Agent, Home},
        compile, manifests, three_pods,
        traffic::{Echo, Met, PATIENCE, openings, try_once},
    },
    ready::until,
    topology::Topology,
};

use crate::{
    growth::Life,
    policies::{self, PORTS},
};

/// Pods beyond the three that stay.
const GUESTS_MAX: usize = 3;
/// Opening segments of one flood.
const FLOOD: u16 = 300;

/// Fields drop in order: what is attached goes before the interfaces that it is attached to.
pub struct World {
    agent: Option<Agent>,
    life: Life,
    home: Home,
    servers: Vec<(String, Vec<Echo>)>,
    net: Topology,
    /// The policies that are in force, and all that were, by the hash of their bundle.
    policies: String,
    by_hash: BTreeMap<String, String>,
    cluster: Cluster,
    /// Of the next pod, and of the next bundle.
    next: u32,
}

impl World {
    pub fn new(rng: &mut Rng) -> Result<Self> {
        let net = three_pods("soak")?;
        let program = std::env::current_exe()?.with_file_name("enforcer-under-test");
        let program = program.to_str().context("paths are plain text")?;
        let home = Home::new(program, &net.node, &manifests(&net))?;
        let mut world = Self {
            agent: None,
            life: Life::of(0),
            home,
            servers: Vec::new(),
            net,
            policies: String::new(),
            by_hash: BTreeMap::new(),
            cluster: Cluster::default(),
            next: 0,
        };
        for name in world.names() {
            world.serve(&name)?;
        }
        let policies = policies::draw(rng, &world.names());
        world.begin(policies)?;
        Ok(world)
    }

    /// One connection must meet what the oracle says. Whether that was an answer.
    pub fn look(&self, rng: &mut Rng) -> Result<bool> {
        let pods = &self.net.pods;
        let from = rng.usize(0..pods.len());
        let to = (from + rng.usize(1..pods.len())) % pods.len();
        let (from, to) = (&pods[from], &pods[to]);
        let family = rng.usize(0..2);
        let port = PORTS[rng.usize(0..PORTS.len())];
        let request = Request {
            id: "soak".into(),
            src: SourceRef::Pod(format!("default/{}", from.name)),
            src_ip: Some(from.addresses()[family]),
            src_trust_domain: None,
            dst: format!("default/{}", to.name),
            port,
            protocol: Wire::Tcp,
            http: None,
            sni: None,
            ext_authz: None,
            expect: None,
        };
        let judged = Oracle.judge(&self.cluster, &Options::default(), &request);
        let judged = judged.map_err(anyhow::Error::msg)?;
        let expected = match judged.verdict {
            Expected::Allow => Met::Answer,
            Expected::Deny => Met::Refusal,
        };
        let met = try_once(from, to.addresses()[family], port, PATIENCE);
        ensure!(
            met == expected,
            "{} to {} port {port}: {met:?}, and the oracle says {judged:?}\n{}\n{:?}\n{}",
            from.addresses()[family],
            to.name,
            self.policies,
            self.home.status().map(|status| status["counters"].clone()),
            self.agent.as_ref().map(Agent::log).unwrap_or_default()
        );
        Ok(met == Met::Answer)
    }

    pub fn change_policies(&mut self, rng: &mut Rng) -> Result<()> {
        let policies = policies::draw(rng, &self.names());
        let bundle = self.bundle(&policies)?;
        self.home.load(&bundle)?;
        self.in_force(policies);
        Ok(())
    }

    /// Another bundle is asked beside the active one, then takes its place.
    pub fn try_shadow(&mut self, rng: &mut Rng) -> Result<()> {
        let policies = policies::draw(rng, &self.names());
        let bundle = self.bundle(&policies)?;
        let path = bundle.to_str().context("paths are plain text")?;
        self.order(&["shadow", "load", path])?;
        for _ in 0..4 {
            self.look(rng)?;
        }
        self.order(&["shadow", "promote"])?;
        self.in_force(policies);
        Ok(())
    }

    pub fn roll_back(&mut self) -> Result<()> {
        let status = self.home.status()?;
        if status["history"].as_array().map_or(0, Vec::len) < 2 {
            return Ok(());
        }
        self.order(&["rollback"])?;
        let status = self.home.status()?;
        let hash = status["hash"].as_str().context("a table is active")?;
        let policies = self
            .by_hash
            .get(hash)
            .context("it was loaded once")?
            .clone();
        self.in_force(policies);
        Ok(())
    }

    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("an agent runs")?.kill()?;
        self.begin(self.policies.clone())
    }

    /// One pod comes or goes. Inventories in files are read at a start.
    pub fn change_pods(&mut self, rng: &mut Rng) -> Result<()> {
        self.agent.take().context("an agent runs")?.kill()?;
        let guests = self.net.pods.len() - 3;
        if guests == 0 || (guests < GUESTS_MAX && rng.bool()) {
            self.next += 1;
            let name = format!("guest{}", self.next);
            let last = 10 + u8::try_from(self.next % 200)?;
            let v6 = format!("fd88::{last:x}").parse()?;
            self.net.pod(&name, [10, 88, 0, last].into(), v6)?;
            self.serve(&name)?;
        } else {
            let gone = self.net.pods.remove(3 + rng.usize(0..guests));
            self.servers.retain(|(name, _)| *name != gone.name);
        }
        let manifests = manifests(&self.net);
        fs::write(self.home.file("inventory.yaml"), manifests)?;
        self.begin(self.policies.clone())
    }

    pub fn flood(&self, rng: &mut Rng) {
        let pods = &self.net.pods;
        let from = rng.usize(0..pods.len());
        let to = (from + 1) % pods.len();
        openings(&pods[from], IpAddr::from(pods[to].v4), FLOOD);
    }

    /// While a pod is paused, everybody reaches it.
    pub fn pause(&self, rng: &mut Rng) -> Result<()> {
        let pods = &self.net.pods;
        let from = rng.usize(0..pods.len());
        let to = (from + 1) % pods.len();
        let (from, to) = (&pods[from], &pods[to]);
        let name = format!("default/{}", to.name);
        self.order(&["pause", &name, "--for", "1m", "--reason", "soak"])?;
        for (address, port) in to.addresses().into_iter().zip(PORTS) {
            let met = try_once(from, address, port, PATIENCE);
            ensure!(met == Met::Answer, "{name} is paused: {met:?}");
        }
        self.order(&["resume", &name])
    }

    pub fn sample(&mut self) -> Result<()> {
        self.life.sample()
    }

    /// Nothing must be left of what has come and gone. What is there, in words.
    ///
    /// # Errors
    /// What is left.
    pub fn settle(&mut self) -> Result<String> {
        let outbound = || -> Option<u64> {
            let status = self.home.status().ok()?;
            let pods = status["pods"].as_array()?;
            pods.iter().map(|pod| pod["outbound"].as_u64()).sum()
        };
        let closed = until(Duration::from_secs(60), || outbound() == Some(0));
        ensure!(closed, "connections are remembered: {:?}", outbound());
        self.life.sample()?;
        let prefix = self.net.node.name().trim_end_matches("node").to_owned();
        let count = |folder: PathBuf, begins: &str| -> Result<usize> {
            let entries = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
            let names = entries.map(|entry| Ok(entry?.file_name()));
            let names: Vec<_> = names.collect::<Result<_>>()?;
            let ours = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with(begins);
            Ok(names.iter().filter(ours).count())
        };
        let pods = self.net.pods.len();
        let namespaces = count("/run/netns".into(), &prefix)?;
        ensure!(
            namespaces == pods + 2,
            "{namespaces} namespaces of {pods} pods"
        );
        let pins = self.home.pins().join("v1");
        let links = count(pins.join("links"), "")?;
        let expected = match Attach::best() {
            Attach::Tcx => 2 * pods + 3,
            Attach::Clsact => 1,
        };
        ensure!(links == expected, "{links} links of {pods} pods");
        let maps = count(pins.join("maps"), "")?;
        ensure!(maps == enforcer_ebpf::maps::PINNED.len(), "{maps} maps");
        let state = self.home.file("socket.state").join("bundles");
        let bundles = count(state, "")?;
        ensure!(bundles <= enforcer::state::HISTORY_MAX, "{bundles} bundles");
        Ok(format!(
            "{pods} pods, {namespaces} namespaces, {links} links, {maps} maps, {bundles} bundles; {}",
            self.life.told()
        ))
    }

    fn names(&self) -> Vec<String> {
        self.net.pods.iter().map(|pod| pod.name.clone()).collect()
    }

    fn serve(&mut self, name: &str) -> Result<()> {
        let pod = self.net.get(name);
        let servers = PORTS.map(|port| Echo::start(pod, port));
        let servers = servers.into_iter().collect::<std::io::Result<_>>()?;
        self.servers.push((name.into(), servers));
        Ok(())
    }

    /// Two files take turns: the agent has read the one that is written again.
    fn bundle(&mut self, policies: &str) -> Result<PathBuf> {
        self.next += 1;
        self.write(&format!("soak-{}.bin", self.next % 2), policies)
    }

    fn write(&mut self, file: &str, policies: &str) -> Result<PathBuf> {
        let bytes = compile(&manifests(&self.net), policies, 0)?;
        let hash = policyc::bundle::read(&bytes)?.hash;
        self.by_hash.insert(hash, policies.into());
        self.home.bundle(file, &bytes)
    }

    fn begin(&mut self, policies: String) -> Result<()> {
        // What is written there later would be put in force, too.
        let bundle = self.write("soak.bin", &policies)?;
        let agent = self.home.start(&self.net.node, &bundle, &[])?;
        self.life = Life::of(agent.id());
        self.agent = Some(agent);
        self.in_force(policies);
        Ok(())
    }

    fn in_force(&mut self, policies: String) {
        let text = format!("{}---\n{policies}", manifests(&self.net));
        let (loaded, _) = read::load_str("soak.yaml", &text, None);
        self.cluster = loaded.cluster;
        self.policies = policies;
    }

    fn order(&self, arguments: &[&str]) -> Result<()> {
        let output = self.home.call(arguments)?;
        if !output.status.success() {
            bail!(
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }
}
