//! The same node, told by a double of the API server: policies and pods come and go one by one while
//! the agent follows. Watches break off, their past is forgotten, the server is away, agents are
//! killed.
//!
//! News takes a while, so that a connection may meet what any of the states between the last two
//! looks says; when the agent has caught up, only the last one.

use std::{collections::BTreeSet, fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use policyc::{
    cluster::Cluster,
    conformance::{Engine as _, Oracle},
    options::Options,
    read,
    request::{Expected, Request, SourceRef, Wire},
};
use serde_json::{Value, json};
use tests::{
    kube::double::Double,
    live::{
        agent::{Agent, Home},
        manifests, three_pods,
        traffic::{Echo, Met, SILENCE, try_once},
    },
    ready::until,
    topology::{Pod, Topology},
};

use crate::{
    growth::Life,
    policies::{self, PORTS},
};

/// Pods beyond the three that stay.
const GUESTS_MAX: usize = 3;
/// How long the agent may take to catch up, its longest pause between two attempts included.
const NEWS: Duration = Duration::from_secs(90);
const POLICIES: &str = "authorizationpolicies";
const KINDS: [&str; 3] = [POLICIES, "pods", "namespaces"];

/// Fields drop in order: what is attached goes before the interfaces that it is attached to.
pub struct Followed {
    agent: Option<Agent>,
    life: Life,
    home: Home,
    servers: Vec<(String, Vec<Echo>)>,
    double: Double,
    net: Topology,
    policies: Vec<(String, Value)>,
    /// What was true since the agent had last caught up, the last one now.
    states: Vec<Cluster>,
    /// Pods that were not there all this time.
    new: BTreeSet<String>,
    /// How often policies have changed. The last change of each time is a policy of this number, which
    /// decides nothing: the agent that knows it knows the others.
    mark: u32,
    next: u32,
}

/// One connection that can be tried.
#[derive(Clone, Copy)]
struct Way<'a> {
    from: &'a Pod,
    to: &'a Pod,
    family: usize,
    port: u16,
}

impl Followed {
    pub fn new() -> Result<Self> {
        let net = three_pods("soak-kube")?;
        let program = std::env::current_exe()?.with_file_name("enforcer-under-test");
        let program = program.to_str().context("paths are plain text")?;
        let home = Home::new(program, &net.node, "")?;
        let double = Double::start(&net.node)?;
        fs::write(home.file("kubeconfig"), double.kubeconfig())?;
        let cidrs = ["10.88.0.0/24", "fd88::/64"];
        double.set(
            "nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}}),
        );
        let mut followed = Self {
            agent: None,
            life: Life::of(0),
            home,
            servers: Vec::new(),
            double,
            net,
            policies: Vec::new(),
            states: Vec::new(),
            new: BTreeSet::new(),
            mark: 0,
            next: 0,
        };
        for object in followed.objects()? {
            let kind = match object["kind"].as_str() {
                Some("Namespace") => "namespaces",
                _ => "pods",
            };
            followed.double.set(kind, object);
        }
        let names: Vec<String> = followed.net.pods.iter().map(|p| p.name.clone()).collect();
        for name in names {
            followed.serve(&name)?;
        }
        followed.changed()?;
        followed.begin()?;
        followed.catch_up()?;
        Ok(followed)
    }

    /// Other policies, each applied and deleted by itself.
    pub fn change_policies(&mut self, rng: &mut Rng) -> Result<()> {
        let names: Vec<String> = self.net.pods.iter().map(|p| p.name.clone()).collect();
        let text = policies::draw(rng, &names);
        let wanted: Vec<(String, Value)> = documents(&text)?
            .into_iter()
            .map(|object| Ok((name_of(&object)?, object)))
            .collect::<Result<_>>()?;
        for (name, _) in self.policies.clone() {
            if wanted.iter().all(|(other, _)| *other != name) {
                self.policies.retain(|(other, _)| *other != name);
                self.double.remove(POLICIES, "default", &name);
                self.changed()?;
            }
        }
        for (name, object) in wanted {
            self.policies.retain(|(other, _)| *other != name);
            self.policies.push((name, object.clone()));
            self.double.set(POLICIES, object);
            self.changed()?;
        }
        self.double.remove(POLICIES, "default", &mark(self.mark));
        self.mark += 1;
        self.double.set(
            POLICIES,
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": mark(self.mark), "namespace": "default"},
                "spec": {"action": "AUDIT", "rules": [{}]}}),
        );
        Ok(())
    }

    /// Whether the agent knows of the last change of policies. Where the first state and the last one
    /// say the same of every connection, connections do not tell.
    fn is_told(&self) -> bool {
        let way = ["--from", "default/frontend", "--to", "default/backend"];
        let ask = ["explain", "--port", "8080", "--format", "json"];
        let answer = self.home.call(&[&ask[..], &way[..]].concat());
        let mark = format!("default/{}\"", mark(self.mark));
        self.mark == 0
            || answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).contains(&mark))
    }

    /// A pod comes or goes, and the agent is not started again for it.
    pub fn change_pods(&mut self, rng: &mut Rng) -> Result<()> {
        let guests = self.net.pods.len() - 3;
        if guests == 0 || (guests < GUESTS_MAX && rng.bool()) {
            self.next += 1;
            let name = format!("guest{}", self.next);
            let last = 10 + u8::try_from(self.next % 200)?;
            let v6 = format!("fd88::{last:x}").parse()?;
            self.net.pod(&name, [10, 88, 0, last].into(), v6)?;
            self.serve(&name)?;
            let objects = self.objects()?;
            let object = objects
                .into_iter()
                .find(|object| object["metadata"]["name"] == *name);
            self.double.set("pods", object.context("it was made")?);
            self.new.insert(name);
        } else {
            let gone = self.net.pods.remove(3 + rng.usize(0..guests));
            self.servers.retain(|(name, _)| *name != gone.name);
            self.double.remove("pods", "default", &gone.name);
        }
        self.changed()
    }

    /// Watches break off, some of them with no way back but a list.
    pub fn trouble(&mut self, rng: &mut Rng) {
        if rng.bool() {
            self.double.compact();
        }
        for kind in KINDS {
            self.double.cut(kind);
        }
    }

    /// The server is away while policies change.
    pub fn outage(&mut self, rng: &mut Rng) -> Result<()> {
        self.double.down(true);
        self.change_policies(rng)?;
        if rng.bool() {
            self.kill_agent()?;
        }
        self.double.down(false);
        self.wait_for_agent()
    }

    /// The agent is killed while policies change.
    pub fn restart(&mut self, rng: &mut Rng) -> Result<()> {
        self.kill_agent()?;
        self.change_policies(rng)?;
        self.wait_for_agent()
    }

    /// Looks until every connection meets the last state; none may ever meet what no state since the
    /// last time has said. Counts what was allowed and refused.
    pub fn catch_up(&mut self) -> Result<(u32, u32)> {
        let mut counts = (0, 0);
        let mut trouble = None;
        let caught = until(NEWS, || match self.agrees(&mut counts) {
            Ok(agrees) => agrees,
            Err(error) => {
                trouble = Some(error);
                true
            }
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        ensure!(caught, "the agent does not catch up\n{}", self.said());
        self.states.drain(..self.states.len() - 1);
        self.new.clear();
        ensure!(
            self.agrees(&mut counts)?,
            "it goes back on it\n{}",
            self.said()
        );
        self.life.sample()?;
        Ok(counts)
    }

    pub fn told(&self) -> String {
        self.life.told()
    }

    /// Whether every connection meets the last state.
    fn agrees(&self, counts: &mut (u32, u32)) -> Result<bool> {
        let mut agrees = self.is_told();
        for way in self.ways() {
            let is_new = [way.from, way.to]
                .iter()
                .any(|pod| self.new.contains(&pod.name));
            let met = try_once(way.from, way.address(), way.port, SILENCE);
            let said: Vec<Met> = self
                .states
                .iter()
                .map(|state| way.judged(state))
                .collect::<Result<_>>()?;
            let last = said.last() == Some(&met);
            // Nobody knows the pod yet, or the change came between two segments of one connection: no
            // state says what that meets.
            let between = self.states.len() > 1 && (is_new || met == Met::Silence);
            if !last && between {
                agrees = false;
                continue;
            }
            if !said.contains(&met) {
                bail!(
                    "{} to {} at {} port {}: {met:?}, and the oracle says {said:?}\n{}",
                    way.from.name,
                    way.to.name,
                    way.address(),
                    way.port,
                    self.said()
                );
            }
            agrees &= last;
            match met {
                Met::Answer => counts.0 += 1,
                _ => counts.1 += 1,
            }
        }
        Ok(agrees)
    }

    fn ways(&self) -> impl Iterator<Item = Way<'_>> {
        let pods = &self.net.pods;
        let pairs = pods
            .iter()
            .flat_map(move |from| pods.iter().map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from.name != to.name);
        pairs.flat_map(|(from, to)| {
            let all = (0..2).flat_map(|family| PORTS.map(|port| (family, port)));
            all.map(move |(family, port)| Way {
                from,
                to,
                family,
                port,
            })
        })
    }

    fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("an agent runs")?.kill()
    }

    fn wait_for_agent(&mut self) -> Result<()> {
        match self.agent {
            Some(_) => Ok(()),
            None => self.begin(),
        }
    }

    fn begin(&mut self) -> Result<()> {
        let kubeconfig = self.home.file("kubeconfig");
        let agent = self.home.follow(&self.net.node, &kubeconfig, &[])?;
        let agent = self.home.ready(agent)?;
        self.life = Life::of(agent.id());
        self.agent = Some(agent);
        Ok(())
    }

    fn serve(&mut self, name: &str) -> Result<()> {
        let pod = self.net.get(name);
        let servers = PORTS.map(|port| Echo::start(pod, port));
        let servers = servers.into_iter().collect::<std::io::Result<_>>()?;
        self.servers.push((name.into(), servers));
        Ok(())
    }

    /// The namespace and the pods, as the cluster has them.
    fn objects(&self) -> Result<Vec<Value>> {
        let mut objects = documents(&manifests(&self.net))?;
        for object in &mut objects {
            if object["kind"] == "Pod" {
                object["spec"]["nodeName"] = "n1".into();
            }
        }
        Ok(objects)
    }

    /// A new state begins.
    fn changed(&mut self) -> Result<()> {
        let policies = self.policies.iter().map(|(_, object)| object.clone());
        let objects = self.objects()?.into_iter().chain(policies);
        let text: Vec<String> = objects.map(|object| object.to_string()).collect();
        let (loaded, _) = read::load_str("soak.yaml", &text.join("\n---\n"), None);
        self.states.push(loaded.cluster);
        Ok(())
    }

    fn said(&self) -> String {
        let policies: Vec<String> = self.policies.iter().map(|(_, o)| o.to_string()).collect();
        format!(
            "{}\n{:?}\n{}",
            policies.join("\n"),
            self.home.status().map(|status| status["cluster"].clone()),
            self.agent.as_ref().map(Agent::log).unwrap_or_default()
        )
    }
}

impl Way<'_> {
    fn address(&self) -> IpAddr {
        self.to.addresses()[self.family]
    }

    /// What the oracle says of it.
    fn judged(&self, cluster: &Cluster) -> Result<Met> {
        let request = Request {
            id: "soak".into(),
            src: SourceRef::Pod(format!("default/{}", self.from.name)),
            src_ip: Some(self.from.addresses()[self.family]),
            src_trust_domain: None,
            dst: format!("default/{}", self.to.name),
            port: self.port,
            protocol: Wire::Tcp,
            http: None,
            sni: None,
            ext_authz: None,
            expect: None,
        };
        // A state in which one of them was not there yet has no word for it.
        let Ok(judged) = Oracle.judge(cluster, &Options::default(), &request) else {
            return Ok(Met::Silence);
        };
        Ok(match judged.verdict {
            Expected::Allow => Met::Answer,
            Expected::Deny => Met::Refusal,
        })
    }
}

/// Name of the policy that stands for so many changes.
fn mark(number: u32) -> String {
    format!("mark-{number}")
}

fn documents(text: &str) -> Result<Vec<Value>> {
    use serde::Deserialize as _;
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Ok(Value::deserialize(document)?))
        .filter(|object| !matches!(object, Ok(Value::Null)))
        .collect()
}

fn name_of(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"].as_str();
    name.map(str::to_owned).context("an object has a name")
}
