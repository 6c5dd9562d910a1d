//! All kinds together: at first until the cluster is known, then as changes for the agent.
//!
//! Pods' changes go to the agent as they come. Policies are compiled beside that, one compilation at
//! a time: neither a wrong policy nor a slow compilation keeps a pod waiting.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ::kube::Client;
use policyc::{
    bundle::Bundle,
    cluster::{Cluster, Mesh},
    options::CatchAllDeny,
    resolve::Amendable,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinError, JoinHandle},
};

use super::{
    follow::{Follower, News, Pace},
    health::{Compiled, Health},
    kind::{Kind, MeshPlace},
    pods::Pods,
    policies::{self, Outcome},
    rest::{Changed, Rest},
};
use crate::{
    agent::{Agent, Gather},
    apply::BundleHash,
    conditions::{Writer, writer::Conditions},
    world::Changes,
};

/// News that wait for each other: a reader that is ahead of the agent is held up.
const WAITING_MAX: usize = 1024;
/// Least time between two looks at policies that have not changed themselves.
const LOOK: Duration = Duration::from_secs(5);
/// How long policies are left alone before all of them are looked at, where changed ones are in force
/// already; and how long that waits at most.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_MAX: Duration = Duration::from_secs(5);

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the node that the agent runs on.
    pub node: String,
    /// Policies come from the cluster, too.
    pub policies: bool,
    /// They are told what has become of them.
    pub write_conditions: bool,
    pub mesh: MeshPlace,
    pub catch_all_deny: CatchAllDeny,
    pub pace: Pace,
}

/// What an agent begins with.
#[derive(Debug)]
pub struct First {
    pub cluster: Cluster,
    /// `None` where policies come from elsewhere.
    pub bundle: Option<Bundle>,
}

/// All policies on their way through the compiler.
struct Compiling {
    job: JoinHandle<Outcome>,
    /// They are all in force already.
    confirms: bool,
    /// Those that were changed since are in force already: what comes out is older.
    overtaken: bool,
}

/// The cluster, followed.
pub struct Source {
    settings: Settings,
    health: Arc<Health>,
    news: mpsc::Receiver<(Kind, News)>,
    /// Has the pods listed once more.
    again: Arc<Notify>,
    pods: Pods,
    rest: Rest,
    /// What the policies in force were compiled for: the mesh's trust domain is part of every
    /// identity, and changes with them alone.
    mesh: Mesh,
    /// Hash of the policies in force.
    hash: Option<BundleHash>,
    /// The policies in force, where all of those that are known could be compiled.
    amendable: Option<Amendable>,
    compiling: Option<Compiling>,
    /// Policies are in force that were compiled one by one: since when, and since when the last of
    /// them.
    amended: Option<(Instant, Instant)>,
    /// Writes at the policies, once something is known of them.
    writer: Option<Writer>,
    /// What it is to write.
    conditions: Option<watch::Sender<Conditions>>,
    /// Policies have changed since they were last compiled.
    stale: bool,
    /// What policies speak about has changed since.
    moved: bool,
    looked: Instant,
}

impl Source {
    /// Begins to follow. Must be called within a tokio runtime.
    pub fn start(client: &Client, settings: Settings, health: Arc<Health>) -> Self {
        let (out, news) = mpsc::channel(WAITING_MAX);
        let again = Arc::new(Notify::new());
        for kind in Kind::wanted(settings.policies) {
            let follower = Follower::new(
                client.clone(),
                kind,
                settings.mesh.clone(),
                settings.pace,
                Arc::clone(&health),
                out.clone(),
            );
            let follower = match kind {
                Kind::Pods => follower.listing_at(Arc::clone(&again)),
                _ => follower,
            };
            tokio::spawn(follower.run());
        }
        let namespace = client.default_namespace();
        let writer = settings
            .write_conditions
            .then(|| Writer::new(client.clone(), namespace, &settings.node));
        Self {
            pods: Pods::new(&settings.node),
            rest: Rest::new(Arc::clone(&health)),
            settings,
            health,
            news,
            again,
            mesh: Mesh::default(),
            hash: None,
            amendable: None,
            compiling: None,
            amended: None,
            writer,
            conditions: None,
            stale: false,
            moved: false,
            looked: Instant::now(),
        }
    }

    /// Waits until every kind is known and the policies have been compiled.
    pub async fn first(&mut self) -> io::Result<First> {
        let mut told = None;
        loop {
            while !self.health.is_complete() {
                self.hear().await?;
            }
            let mut bundle = None;
            let policies = self.rest.take_changed().is_compiled();
            let (mut loaded, errors) = self.rest.load(self.pods.local());
            if self.settings.policies {
                if self.pods.ask(policies::asked(&loaded.cluster)) {
                    self.again.notify_one();
                }
                let catch_all_deny = self.settings.catch_all_deny;
                let run = move || policies::run(loaded, errors, catch_all_deny);
                let outcome = tokio::task::spawn_blocking(run).await?;
                self.health.compiled(outcome.report.clone());
                self.say_at_policies(outcome.conditions.clone());
                let Some(compiled) = outcome.bundle else {
                    if policies || told.is_none() {
                        say(
                            &outcome.report.errors,
                            "and nothing is in force before them",
                        );
                        told = Some(());
                    }
                    while !self.rest.is_changed() {
                        self.hear().await?;
                    }
                    continue;
                };
                self.mesh.clone_from(&outcome.cluster.mesh);
                self.hash = Some(BundleHash::known(compiled.hash.clone()));
                self.amendable = outcome.amendable;
                bundle = Some(compiled);
                loaded = policyc::read::Loaded {
                    cluster: outcome.cluster,
                    ..Default::default()
                };
            }
            let mut cluster = loaded.cluster;
            cluster.pods.clear();
            self.pods.take_changes().apply(&mut cluster);
            return Ok(First { cluster, bundle });
        }
    }

    /// Tells the agent of changes. Ends only when nothing can be followed any more.
    pub async fn follow(mut self, agent: Arc<Agent>, gather: Arc<Gather>) -> io::Result<()> {
        if !self.settings.policies {
            self.mesh = agent.mesh();
        }
        loop {
            self.turn(&agent, &gather).await?;
            let look_at = tokio::time::Instant::from_std(self.look_at());
            let idle = self.compiling.is_none();
            let looks = self.moved || self.amended.is_some();
            tokio::select! {
                news = self.news.recv() => {
                    self.take(news.ok_or_else(ended)?);
                    self.take_waiting();
                }
                Some(outcome) = wait(&mut self.compiling) => {
                    let compiled = self.compiling.take();
                    let (confirms, overtaken) = compiled.map_or((false, false), |of| (of.confirms, of.overtaken));
                    self.outcome(outcome?, confirms, overtaken, &agent, &gather).await?;
                }
                () = tokio::time::sleep_until(look_at), if idle && looks => {
                    self.compile();
                }
            }
        }
    }

    /// When all policies are to be looked at though nothing presses.
    fn look_at(&self) -> Instant {
        let moved = self.moved.then(|| self.looked + LOOK);
        let amended = self
            .amended
            .map(|(first, last)| (last + QUIET).min(first + QUIET_MAX));
        let soonest = moved.into_iter().chain(amended).min();
        soonest.unwrap_or(self.looked + LOOK)
    }

    /// Hands on what has come, and has policies compiled that have changed.
    async fn turn(&mut self, agent: &Arc<Agent>, gather: &Gather) -> io::Result<()> {
        gather.tell(self.pods.take_changes());
        let changed = self.rest.take_changed();
        if changed.places {
            // Policies and the mesh count when they are compiled.
            gather.tell(rest(self.places(&self.mesh)));
        }
        if !self.settings.policies {
            return Ok(());
        }
        self.moved |= changed.places || self.pods.take_local_changed();
        if changed.is_compiled() && !self.amend(&changed, agent).await? {
            self.stale = true;
            if self.compiling.is_none() {
                self.compile();
            }
        }
        Ok(())
    }

    /// Puts policies in force that have changed, and leaves it for later to look at all of them.
    /// `false`: that has to come first.
    async fn amend(&mut self, changed: &Changed, agent: &Arc<Agent>) -> io::Result<bool> {
        let waits = self.compiling.as_ref().is_some_and(|now| !now.confirms);
        if changed.rules || self.stale || waits {
            return Ok(false);
        }
        let Some(mut amendable) = self.amendable.take() else {
            return Ok(false);
        };
        let names = changed.policies.clone();
        let (loaded, errors) = self.rest.load_policies(&names, self.pods.local());
        let catch_all_deny = self.settings.catch_all_deny;
        let (agent, ready) = (Arc::clone(agent), Arc::clone(agent));
        let amend = move || {
            let bundle = policies::amend(&mut amendable, &loaded, &errors, &names, catch_all_deny)?;
            Some((amendable, agent.load_compiled(bundle, NAME)))
        };
        let Some((amendable, loaded)) = tokio::task::spawn_blocking(amend).await? else {
            return Ok(false);
        };
        let Ok(generation) = loaded else {
            // All are compiled then, and the error is said.
            return Ok(false);
        };
        // The next policy is not to wait for this one's readers.
        tokio::task::spawn_blocking(move || ready.make_ready());
        self.amendable = Some(amendable);
        self.hash = Some(generation.hash.clone());
        if let Some(compiling) = &mut self.compiling {
            compiling.overtaken = true;
        }
        let now = Instant::now();
        let first = self.amended.map_or(now, |(first, _)| first);
        self.amended = Some((first, now));
        Ok(true)
    }

    /// Everything but pods and policies, with the mesh that policies were compiled for.
    fn places(&self, mesh: &Mesh) -> Cluster {
        Cluster {
            mesh: mesh.clone(),
            ..self.rest.places()
        }
    }

    fn compile(&mut self) {
        let confirms = !self.stale && self.amendable.is_some();
        (self.stale, self.moved, self.looked) = (false, false, Instant::now());
        self.amended = None;
        let (loaded, errors) = self.rest.load(self.pods.local());
        let catch_all_deny = self.settings.catch_all_deny;
        let run = move || policies::run(loaded, errors, catch_all_deny);
        self.compiling = Some(Compiling {
            job: tokio::task::spawn_blocking(run),
            confirms,
            overtaken: false,
        });
    }

    async fn outcome(
        &mut self,
        outcome: Outcome,
        confirms: bool,
        overtaken: bool,
        agent: &Arc<Agent>,
        gather: &Gather,
    ) -> io::Result<()> {
        let Outcome {
            bundle,
            mut report,
            conditions,
            cluster,
            amendable,
        } = outcome;
        self.say_at_policies(conditions);
        // What has overtaken it waits to be looked at itself.
        let bundle = bundle.filter(|_| !overtaken);
        let hash = bundle.as_ref().map(|bundle| bundle.hash.as_str());
        let known = self.hash.as_ref().map(BundleHash::get);
        let pending = confirms && hash.is_some() && known == Some(BundleHash::PENDING);
        let in_force = pending || (hash.is_some() && hash == known);
        // The policies in force are not kept twice.
        let keeps = in_force && confirms && !is_spent(self.amendable.as_ref(), amendable.as_ref());
        if !overtaken && !keeps {
            self.amendable = amendable;
        }
        if let Some(bundle) = bundle {
            if self.pods.ask(policies::asked(&cluster)) {
                self.again.notify_one();
            }
            match &self.hash {
                Some(hash) if pending => hash.tell(bundle.hash),
                Some(_) if in_force => {}
                _ => {
                    self.load(bundle, &cluster, agent, gather, &mut report)
                        .await?
                }
            }
        }
        say(&report.errors, "and those before them stay in force");
        self.health.compiled(report);
        // What has changed in the meantime is compiled next.
        if self.stale {
            self.compile();
        }
        Ok(())
    }

    /// Puts all policies in force, with the mesh that they were compiled for.
    async fn load(
        &mut self,
        bundle: Bundle,
        cluster: &Cluster,
        agent: &Arc<Agent>,
        gather: &Gather,
        report: &mut Compiled,
    ) -> io::Result<()> {
        let hash = BundleHash::known(bundle.hash.clone());
        let agent = Arc::clone(agent);
        // The rest may have changed since.
        let now = self.places(&cluster.mesh);
        let load = move || agent.load_with(bundle, NAME, now);
        match tokio::task::spawn_blocking(load).await? {
            Ok(_) => {
                (self.mesh, self.hash) = (cluster.mesh.clone(), Some(hash));
                // What waits to be made may have the mesh from before.
                gather.tell(rest(self.places(&self.mesh)));
            }
            Err(error) => {
                let error = crate::chain(&error);
                report
                    .errors
                    .push(format!("this node cannot take them: {error}"));
                // What keeps it from doing so may pass.
                self.moved = true;
                self.amendable = None;
            }
        }
        Ok(())
    }

    /// Whoever writes the policies is told at the policies themselves.
    fn say_at_policies(&mut self, conditions: Conditions) {
        if let Some(writer) = self.writer.take() {
            let (told, wanted) = watch::channel(conditions);
            self.conditions = Some(told);
            tokio::spawn(writer.run(wanted));
        } else if let Some(told) = &self.conditions {
            told.send_replace(conditions);
        }
    }

    async fn hear(&mut self) -> io::Result<()> {
        let news = self.news.recv().await.ok_or_else(ended)?;
        self.take(news);
        self.take_waiting();
        Ok(())
    }

    /// What else has come already.
    fn take_waiting(&mut self) {
        for _ in 0..WAITING_MAX {
            let Ok(news) = self.news.try_recv() else {
                return;
            };
            self.take(news);
        }
    }

    fn take(&mut self, (kind, news): (Kind, News)) {
        let ended = matches!(news, News::End);
        match (kind, news) {
            (Kind::Pods, News::Begin) => self.pods.begin(),
            (Kind::Pods, News::Now(seen)) => {
                let name = format!("Pod/{}/{}", seen.name.0, seen.name.1);
                self.health.wrong(&name, self.pods.now(&seen));
            }
            (Kind::Pods, News::Gone(name)) => {
                self.health
                    .wrong(&format!("Pod/{}/{}", name.0, name.1), Vec::new());
                self.pods.gone(&name);
            }
            (Kind::Pods, News::End) => self.pods.end(),
            (kind, News::Begin) => self.rest.begin(kind),
            (kind, News::Now(seen)) => self.rest.now(kind, &seen),
            (kind, News::Gone(name)) => self.rest.gone(kind, &name),
            (kind, News::End) => self.rest.end(kind),
        }
        let count = match kind {
            Kind::Pods => self.pods.count(),
            kind => self.rest.count(kind),
        };
        self.health.objects(kind, count);
        if ended {
            self.health.complete(kind);
        }
    }
}

/// What the agent calls policies that it has compiled itself.
pub const NAME: &str = "cluster";

fn rest(cluster: Cluster) -> Changes {
    Changes {
        rest: Some(Box::new(cluster)),
        ..Changes::default()
    }
}

/// Whether most of the atoms of policies that were changed one by one are no policy's any more.
fn is_spent(amended: Option<&Amendable>, compiled: Option<&Amendable>) -> bool {
    let atoms = |of: Option<&Amendable>| of.map_or(0, |of| of.program().atoms.len());
    atoms(amended) > 2 * atoms(compiled)
}

fn say(errors: &[String], consequence: &str) {
    if let Some(first) = errors.first() {
        tracing::error!(
            errors = errors.len(),
            "the cluster's policies cannot be compiled, {consequence}: {first}"
        );
    }
}

async fn wait(compiling: &mut Option<Compiling>) -> Option<Result<Outcome, JoinError>> {
    match compiling {
        Some(compiling) => Some((&mut compiling.job).await),
        None => None,
    }
}

fn ended() -> io::Error {
    io::Error::other("nothing is told of the cluster any more")
}
